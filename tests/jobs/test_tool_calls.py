"""Tool calls: what a chat template writes of an assistant's calls is read back as those calls; all else stays text."""

import functools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_templates import ENDS, HERMES, LLAMA, MISTRAL, TEMPLATES, WEATHER, call

from pagecli.core.outputs import RequestOutput, SequenceOutput
from pagecli.jobs.prompts.prompt_options import PromptOptions
from pagecli.jobs.rows.row import InputRow
from pagecli.jobs.tools.answers import ToolAnswers
from pagecli.jobs.tools.forms import form_of, parsed
from pagecli.model.tokenizer.templates.chat_template import ChatTemplate

NAMES = frozenset({"weather", "time"})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
CALLS = st.lists(
    st.tuples(st.sampled_from(sorted(NAMES)), st.dictionaries(st.text(), VALUES, max_size=3)), min_size=1, max_size=3
)


def read(template, text):
    found = parsed(form_of(template), text, NAMES)
    return found and (found.text, [(each.name, json.loads(each.arguments)) for each in found.calls])


@functools.cache
def rendering(template):
    return ChatTemplate(template, {"bos_token": "<s>", "eos_token": "</s>"})


def written(template, calls, content=None):
    """The assistant's turn as the template writes it, without its end."""
    question = {"role": "user", "content": "?"}
    answer = {"role": "assistant", "content": content, "tool_calls": [call(*each) for each in calls]}
    before = rendering(template).render([question])
    after = rendering(template).render([question, answer], {"add_generation_prompt": False})
    assert after.startswith(before)
    return next(after[len(before) :].removesuffix(end) for end in ENDS if after.endswith(end))


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
@settings(deadline=None, max_examples=40)
@given(calls=CALLS)
def test_what_a_template_writes_is_read_back(name, calls):
    assert read(TEMPLATES[name], written(TEMPLATES[name], calls)) == ("", calls)


@settings(deadline=None, max_examples=40)
@given(calls=CALLS, content=st.text('ab {}"', min_size=1).map(str.strip).filter(bool))
def test_text_before_the_calls_stays_text(calls, content):
    for template in (HERMES, MISTRAL):
        assert read(template, written(template, calls, content)) == (content, calls)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(calls=CALLS)
def test_hermes_calls_are_those_that_transformers_reads(calls):
    from transformers.cli.serving import utils
    from transformers.utils.chat_parsing import parse_response

    template = next(spec for kinds, spec in utils._RESPONSE_TEMPLATE_FALLBACKS.items() if "qwen3" in kinds)
    text = written(HERMES, calls)
    theirs = [found["function"] for found in parse_response(text, template, prefix="")["tool_calls"]]
    assert read(HERMES, text) == ("", [(each["name"], each["arguments"]) for each in theirs])


@pytest.mark.parametrize(
    ("template", "text", "expected"),
    [
        (HERMES, '<tool_call>{"name": "time"}</tool_call>', ("", [("time", {})])),
        (HERMES, '<tool_call>{"name": "time", "arguments": {"a": "</tool_call>"}}', ("", [("time", {"a": "</tool_call>"})])),
        (HERMES, 'First\n<tool_call>{"name": "time", "arguments": {}}</tool_call>\nthen', ("First\nthen", [("time", {})])),
        (MISTRAL, '[TOOL_CALLS][{"name": "time", "arguments": {}}]', ("", [("time", {})])),
        (MISTRAL, '[TOOL_CALLS]time[CALL_ID]b2[ARGS]{"a": 1}[TOOL_CALLS]time{}', ("", [("time", {"a": 1}), ("time", {})])),
        (LLAMA, '<|python_tag|>{"name": "other", "parameters": {"a": 1}}', ("", [("other", {"a": 1})])),
        (LLAMA, ' {"name": "time", "parameters": {}}; {"name": "time", "arguments": {}} ', ("", [("time", {}), ("time", {})])),
    ],
)  # fmt: skip
def test_the_forms_that_models_write_are_read(template, text, expected):
    assert read(template, text) == expected


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (HERMES, "It is cold."),
        (HERMES, '<tool_call>{"name": "time", "argum'),
        (HERMES, '<tool_call>{"name": "time", "arguments": "now"}</tool_call>'),
        (HERMES, '<tool_call>{"arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"name": "time", "arguments": {"a": NaN}}</tool_call>'),
        (HERMES, '<tool_call>{"name": "time", "arguments": {"a": 1e999}}</tool_call>'),
        (HERMES, "<tool_call>" + '{"name": "time", "arguments": ' + '{"a":' * 100_000),
        (HERMES, '<tool_call>{"name": "time", "arguments": {}} and more'),
        (HERMES, '<tool_call>{"name": "time", "arguments": {}}</tool_call><tool_call>time</tool_call>'),
        (MISTRAL, "It is cold."),
        (MISTRAL, "[TOOL_CALLS]"),
        (MISTRAL, '[TOOL_CALLS] [{"name": "time", "arguments": {}}'),
        (MISTRAL, "[TOOL_CALLS] [1]"),
        (MISTRAL, "[TOOL_CALLS] []"),
        (MISTRAL, "[TOOL_CALLS]time[ARGS]{} and more"),
        (LLAMA, "It is cold."),
        (LLAMA, '{"name": "Bob", "parameters": {}}'),  # an answer in JSON
        (LLAMA, '{"name": "time"}'),
        (LLAMA, '{"name": "time", "parameters": {}} and more'),
        (LLAMA, '<|python_tag|>brave_search.call(query="time")'),
    ],
)
def test_what_cannot_be_read_stays_text(template, text):
    assert read(template, text) is None


def test_a_template_of_no_known_form_has_none():
    assert form_of("{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}") is None


def test_an_escaped_half_of_a_character_can_be_written_down():
    [found] = parsed(form_of(HERMES), '<tool_call>{"name": "time", "arguments": {"a": "\\ud800"}}</tool_call>', NAMES).calls
    assert found.arguments.encode() == b'{"a": "\\ud800"}'
    assert read(HERMES, '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>') is None


class Tokens:
    """One token a character; Mistral's marker and the end token are special, as in its vocabulary."""

    tool_template = MISTRAL
    eos_token_ids = (2,)
    special_token_ids = [1, 2]  # noqa: RUF012

    def encode(self, text):
        marked = text.replace("[TOOL_CALLS]", "\1").replace("</s>", "\2")
        return [ord(letter) for letter in marked]

    def decode(self, ids, skip_special_tokens=True):
        special = {1: "[TOOL_CALLS]", 2: "</s>"}
        return "".join("" if i in special and skip_special_tokens else special.get(i, chr(i)) for i in ids)


def answer(whole, columns, text=None, **options):
    tokenizer = Tokens()
    ids = tokenizer.encode(whole)
    sequence = SequenceOutput(0, ids, tokenizer.decode(ids) if text is None else text, "stop")
    answers = ToolAnswers(tokenizer, PromptOptions(**options))
    [row] = answers.rows_of(InputRow(0, columns), RequestOutput(0, 3, (sequence,)))
    return row.text, row.tool_calls


def test_special_tokens_that_mark_calls_are_seen_and_a_stop_string_is_not():
    whole = 'Well.[TOOL_CALLS] [{"name": "weather", "arguments": {"place": "Rome"}}]'
    calls = [{"name": "weather", "arguments": '{"place": "Rome"}'}]
    assert answer(whole + "</s>", {"tools": [WEATHER]}) == ("Well.", calls)
    assert answer(whole + "\nObs", {"tools": [WEATHER]}, Tokens().decode(Tokens().encode(whole))) == ("Well.", calls)
    assert answer(whole, {"prompt": "?"}, chat_template_arg=(("tools", [WEATHER]),)) == ("Well.", calls)
    assert answer(whole, {"prompt": "?", "chat_template_kwargs": {"tools": [WEATHER]}}) == ("Well.", calls)


@pytest.mark.parametrize("columns", [{}, {"tools": None}, {"tools": []}, {"tools": "a hammer"}, {"chat_template_kwargs": "no"}])
def test_rows_without_tools_are_left_as_they_are(columns):
    whole = '[TOOL_CALLS] [{"name": "weather", "arguments": {}}]'
    assert answer(whole, columns) == (whole.removeprefix("[TOOL_CALLS]"), None)
