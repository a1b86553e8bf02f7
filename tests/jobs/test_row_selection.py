"""--where, --sample and --limit: the condition's language, its three truth values, and which rows are taken."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecli.errors import UsageError
from pagecli.jobs.readers.open_input import open_input
from pagecli.jobs.rows.row_filter import is_selected, parse_condition
from pagecli.jobs.rows.row_selection import RowChoice, SelectedRows

ROW = {"lang": "en", "score": 0.5, "n": 3, "ok": True, "none": None, "deep": {"a": {"b": "x"}}, "my col": 1, "tags": ["a"]}


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("lang == 'en'", True),
        ('lang = "de"', False),
        ("lang != 'de' and score >= 0.5", True),
        ("lang == 'de' or n < 4", True),
        ("not (lang == 'de' or n < 4)", False),
        ("n in (1, 2, 3)", True),
        ("n not in (1, 2, 3)", False),
        ("none is null and missing is null and n is not null", True),
        ("none == 1", False),
        ("not none == 1", False),
        ("none == 1 or n == 3", True),
        ("not (none == 1 and n == 4)", True),
        ("none not in (1)", False),
        ("ok == true", True),
        ("ok == 1", False),
        ("n == '3'", False),
        ("n != '3'", True),
        ("n < '4'", False),
        ("lang < 'f' and lang startswith 'e' and lang endswith 'n' and lang contains 'en'", True),
        ("deep.a.b == 'x' and `deep`.`a`.b <> 'y'", True),
        ("deep.a.b.c is null", True),
        ("`my col` == 1", True),
        ("score == .5 and score < 1e1 and n > -1", True),
        ("tags == 'a'", False),
        (r"lang == 'e\n'", True),
        ("NOT lang == 'de' AND n IS NOT NULL", True),
    ],
)
def test_condition(text, taken):
    assert is_selected(parse_condition(text), ROW) == taken


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "lang",
            "lang ==",
            "== 'en'",
            "lang == en",
            "lang == 'en",
            "lang == null",
            "(n == 1",
            "n == 1)",
            "n in ()",
            "n in 1",
        ),
        *("n == 1 n == 2", "a.b. == 1", "lang contains 1", "__import__('os')", "n == 1; x", "n is 1", "(" * 500, "not " * 500),
        *("n == " + "9" * 500, "1 == n", "n == 1 and", "lambda: 1", "n == [1]", "$n == 1"),
    ],
)
def test_text_that_is_no_condition_is_a_usage_error_in_one_line(text):
    with pytest.raises(UsageError, match="--where") as caught:
        parse_condition(text)
    assert "\n" not in caught.value.message


@given(
    st.text(max_size=40) | st.lists(st.sampled_from(["n", "==", "1", "and", "not", "(", ")", "in", ",", "'a'", "is", "null"]))
)
def test_any_text_is_a_condition_or_a_usage_error(text):
    text = text if isinstance(text, str) else " ".join(text)
    try:
        condition = parse_condition(text)
    except UsageError:
        return
    assert condition.test(ROW) in (True, False, None)


@pytest.fixture
def source_path(tmp_path):
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"prompt": ["a"] * 1000, "x": list(range(1000))}), path)
    return str(path)


def numbers(path, **choice) -> list[int]:
    rows = SelectedRows(open_input(path), RowChoice(**choice).parse())
    taken = list(rows)
    assert [row.index for row in taken] == list(range(len(taken)))
    assert all(row.columns["x"] == row.number for row in taken)
    return [row.number for row in taken]


def test_sample_of_a_number_is_exact_seeded_and_in_order(source_path):
    taken = numbers(source_path, sample="50")
    assert len(taken) == 50
    assert taken == sorted(taken)
    assert taken == numbers(source_path, sample="50")
    assert taken != numbers(source_path, sample="50", sample_seed=1)
    assert set(taken) < set(numbers(source_path, sample="60")), "a larger sample holds the smaller one"
    assert numbers(source_path, sample="5000") == list(range(1000))


def test_sample_of_a_fraction_is_about_that_and_a_rows_draw_is_its_own(source_path):
    taken = numbers(source_path, sample="0.1")
    assert 60 < len(taken) < 150
    assert numbers(source_path, sample="0.1", where="x >= 500") == [number for number in taken if number >= 500]


def test_condition_comes_before_the_sample_and_the_limit_last(source_path):
    assert numbers(source_path, where="x >= 100", limit=3) == [100, 101, 102]
    taken = numbers(source_path, where="x < 100", sample="10")
    assert len(taken) == 10
    assert max(taken) < 100
    assert numbers(source_path, where="x < 100", sample="10", limit=4) == taken[:4]


def test_rows_that_cannot_be_read_are_taken_whatever_the_condition(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"x": 1}\nbroken\n{"x": 2}\n')
    rows = SelectedRows(open_input(str(tmp_path / "in.jsonl")), RowChoice(where="x == 2").parse())
    assert [(row.number, row.error is None) for row in rows] == [(1, False), (2, True)]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "0.0", "1e3", ""])
def test_sample_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError, match="--sample"):
        RowChoice(sample=text).parse()
