"""--template: a prompt out of a row's columns, what it needs of them, and rows that do not have it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.errors import ErrorCode, RowError, UsageError
from pagecli.jobs.prompts.row_prompts import RowPrompts, template_columns

COLUMNS = {"review": "Good <b>&</b> {{ x }}", "stars": 4, "tags": ["a", "b"], "who": {"name": "Ann"}, "note": None}
COLUMNS["my col"] = "ok"


@pytest.fixture(scope="module")
def prompt():
    """prompt(template, columns) -> the text; a template's process is kept while the module's tests run."""
    made: dict[str, RowPrompts] = {}
    return lambda template, columns=COLUMNS: made.setdefault(template, RowPrompts(template)).prompt(columns)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Classify: {{ review }}", "Classify: Good <b>&</b> {{ x }}"),
        ("{{ stars }}/5 {{ tags | join(', ') }} by {{ who.name }}", "4/5 a, b by Ann"),
        ("{% for t in tags %}{{ loop.index }}{{ t }};{% endfor %}", "1a;2b;"),
        ("{{ row['my col'] }}", "ok"),
        ("{% if missing is defined %}{{ missing }}{% else %}none{% endif %}", "none"),
        ("{{ missing | default('none') }}{% if note %}{{ note }}{% endif %}", "none"),
        ("{{ note | default('none', true) }}", "none"),
        ("{{ who | tojson }}", '{"name": "Ann"}'),
    ],
)
def test_a_template_writes_columns_as_they_are(prompt, template, text):
    assert prompt(template) == text


@pytest.mark.parametrize(
    ("template", "code", "says"),
    [
        ("{{ missing }}", ErrorCode.MISSING_PROMPT, "has no column missing, which --template names"),
        ("{{ note }}", ErrorCode.MISSING_PROMPT, "is null (null: note)"),
        ("{{ row.other }}", ErrorCode.MISSING_PROMPT, "has no attribute 'other'"),
        ("{{ raise_exception('not this one') }}", ErrorCode.NOT_TOKENIZABLE, "not this one"),
        ("{{ ''.__class__.__mro__ }}", ErrorCode.NOT_TOKENIZABLE, "unsafe"),
        ("{{ who.update(a=1) }}", ErrorCode.NOT_TOKENIZABLE, "unsafe"),
        ("{{ strftime_now('%Y') }}", ErrorCode.MISSING_PROMPT, "has no column strftime_now"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", ErrorCode.NOT_TOKENIZABLE, "steps"),
    ],
)
def test_a_row_that_a_template_cannot_take_says_why(prompt, template, code, says):
    with pytest.raises(RowError) as caught:
        prompt(template)
    assert caught.value.code == code
    assert says in caught.value.message


@pytest.mark.parametrize(
    "template",
    [
        "{{ note ~ 'x' }}",
        "{{ 'x' ~ (stars ~ note) }}",
        "{% set text = note %}{{ stars ~ text }}",
        "{{ row.note | trim }}",
        "{{ note | upper | trim }}",
        "{{ note | replace('a', 'b') }}",
        "{{ review | replace('Good', note) }}",
        "{{ note | string }}",
        "{{ note | e }}",
        "{{ '%s' % note }}",
        "{{ '%s: %s' % (stars, note) }}",
        "{{ '%s' | format(note) }}",
        "{{ '{} {n}'.format(stars, n=note) }}",
        "{{ [stars, note] | join(', ') }}",
        "{{ [stars, note] | select('none') | join }}",
        "{{ [who, {'name': note}] | join(', ', attribute='name') }}",
        "{{ [who, {'name': note}] | join(', ', 'name') }}",
        "{{ tags | join(note) }}",
        "{{ '%(a)s' | format(a=note) }}",
        "{{ '%(note)s' % row }}",
        "{{ note | pprint }}",
        *("{{ row }}", "{{ [stars, [note]] }}", "{{ {'a': {'b': note}} | string }}", "{{ row.items() ~ '' }}"),
        *("{{ '%s' % [[note]] }}", "{{ '{}'.format([note]) }}", "{{ [[note], tags] | join }}", "{{ {'a': note} | urlencode }}"),
    ],
)
def test_a_column_that_is_null_is_never_the_text_none(prompt, template):
    with pytest.raises(RowError, match=r"a value that it writes (is null|has a null in it)") as caught:
        prompt(template)
    assert caught.value.code == ErrorCode.MISSING_PROMPT
    assert prompt("{{ stars ~ (note | default('-', true)) }}{{ tags | map('upper') | join }}{{ who | string }}") == (
        "4-AB{'name': 'Ann'}"
    )
    assert prompt("{{ [who, who] | join('-', attribute='name') }} {{ 'ab' | join('.') }}") == "Ann-Ann a.b"
    assert prompt("{{ '%(stars)s' % row }} {{ (tags, who) }}") == "4 (['a', 'b'], {'name': 'Ann'})"


def test_a_null_inside_of_a_column_is_missing_as_a_column_is(prompt):
    with pytest.raises(RowError, match=r"has a null in it \(null: a\)") as caught:
        prompt("{{ a }} {{ b }}", {"a": [{"x": [None]}], "b": {"x": [1]}})
    assert caught.value.code == ErrorCode.MISSING_PROMPT
    assert prompt("{{ a | tojson }}", {"a": [{"x": [None]}]}) == '[{"x": [null]}]'


@pytest.mark.parametrize(
    "template",
    [
        *("{{ review.upper }}", "{{ tags | map('upper') }}", "{{ tags | reverse }}", "{{ range }}", "{{ cycler('a') }}"),
        *("{{ review ~ review.upper }}", "{{ review.upper | trim }}", "{{ '%s' % review.upper }}", "{{ tags | batch(2) }}"),
        *("{{ [review.upper] }}", "{{ {'a': tags | reverse} ~ '' }}"),
        "{% macro m() %}{% endmacro %}{{ m }}",
    ],
)
def test_what_has_an_address_for_a_text_is_refused(prompt, template):
    """It would be another prompt in every run."""
    columns = {name: value for name, value in COLUMNS.items() if value is not None}
    with pytest.raises(RowError, match="which has no text") as caught:
        prompt(template, columns)
    assert caught.value.code == ErrorCode.NOT_TOKENIZABLE


@pytest.mark.parametrize(
    ("template", "line"), [("{{ a", 1), ("ok\n{% if %}", 2), ("{% endfor %}", 1), ("{{ a | nofilter }}", 1)]
)
def test_what_is_no_template_is_refused_with_its_line(template, line):
    with pytest.raises(UsageError, match=f"--template is no template: line {line}") as caught:
        RowPrompts(template).prompt({"a": 1})
    assert "{{ name }}" in caught.value.hint


@pytest.mark.parametrize(
    ("template", "needed", "optional"),
    [
        ("{{ a }} {{ b.c }} {{ a }}", ("a", "b"), ()),
        ("{% if a is defined %}{{ a }}{% endif %}{{ b | default(c) }}", ("c",), ("a", "b")),
        ("{% for x in xs %}{{ x }}{{ loop.index }}{% endfor %}{% set y = 1 %}{{ y }}", ("xs",), ()),
        ("{% macro m(p) %}{{ p }}{{ q }}{% endmacro %}{{ m(r) }}", ("q", "r"), ()),
        ("{{ range(3) | list }} plain", (), ()),
    ],
)
def test_the_columns_that_a_template_needs_are_known_before_any_row(template, needed, optional):
    found = template_columns(template)
    assert (sorted(found.needed), sorted(found.optional)) == (sorted(needed), sorted(optional))
    assert not found.takes_all


@given(st.text(max_size=40))
def test_any_text_is_a_template_or_a_usage_error(text):
    try:
        columns = template_columns(text)
    except UsageError:
        return
    assert not set(columns.needed) & set(columns.optional)


@pytest.mark.slow
@settings(deadline=None)  # the first one starts the template's process
@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_the_template_of_one_column_writes_any_text_unchanged(prompt, texts):
    for text in texts:
        assert prompt("<{{ review }}>", {"review": text}) == f"<{text}>"
