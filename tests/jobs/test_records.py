"""From a row's columns to a request: prompts, chats, sampling columns, and what is said of rows that make none."""

import pyarrow as pa
import pytest
from fake_engine import FakeTokenizer

from pagecli.core.sampling_params import SamplingParams
from pagecli.jobs.rows.arrow_values import ArrowColumns
from pagecli.jobs.rows.row import InputRow
from pagecli.jobs.rows.row_preparer import PromptOptions, RowPreparer, row_key


def prepare(columns, chat_model=False, options=None, params=None):
    preparer = RowPreparer(FakeTokenizer(chat_model), 256, options or PromptOptions(), params or SamplingParams())
    return preparer.prepare(InputRow(5, columns, line=6))


def prompt_text(prepared):
    assert prepared.error is None, prepared.error
    return bytes(prepared.prompt_token_ids).decode()


def test_plain_prompt_goes_as_it_is_to_a_model_without_template():
    assert prompt_text(prepare({"prompt": "hi"})) == "hi"


def test_plain_prompt_is_wrapped_on_a_chat_model_unless_told_otherwise():
    assert prompt_text(prepare({"prompt": "hi"}, chat_model=True)) == "<user>hi"
    assert prompt_text(prepare({"prompt": "hi"}, chat_model=True, options=PromptOptions(chat=False))) == "hi"


def test_messages_go_through_the_template_even_without_chat():
    messages = [{"role": "user", "content": "a", "name": None}]
    assert prompt_text(prepare({"messages": messages}, chat_model=True, options=PromptOptions(chat=False))) == "<user>a"


def test_parts_of_text_are_joined_in_plain_rows_as_in_batch_files():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "image_url": None}]
    assert prompt_text(prepare({"messages": [{"role": "user", "content": parts}]}, chat_model=True)) == "<user>ab"
    batch = pa.record_batch({"messages": [[{"role": "user", "content": parts}]]})
    assert prompt_text(prepare(ArrowColumns(batch, 0), chat_model=True)) == "<user>ab"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (5, "message 0.content is neither text nor a list of parts"),
        ({"text": "a"}, "message 0.content is neither text nor a list of parts"),
        (True, "neither text nor a list"),
        (["a"], "message 0.content[0] is of type None; only text is supported"),
        ([{"type": "image_url", "image_url": {"url": "x"}}], "of type 'image_url'; only text is supported"),
        ([{"type": "text", "text": 1}], "message 0.content[0].text is not text"),
    ],
)
def test_no_value_of_python_gets_into_a_chat(content, says):
    prepared = prepare({"messages": [{"role": "user", "content": content}]}, chat_model=True)
    assert says in prepared.error


def test_system_message_is_added_unless_the_row_has_one():
    options = PromptOptions(system="be kind")
    assert prompt_text(prepare({"prompt": "hi"}, True, options)) == "<system>be kind<user>hi"
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "a"}]
    assert prompt_text(prepare({"messages": own}, True, options)) == "<system>own<user>a"


def test_token_ids_and_a_renamed_prompt_column():
    assert prepare({"prompt_token_ids": [1, 2]}).prompt_token_ids == [1, 2]
    options = PromptOptions(prompt_column="question")
    assert prompt_text(prepare({"question": "q", "prompt": "ignored", "messages": None}, options=options)) == "q"


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({}, "has no prompt, messages, prompt_token_ids; name the column of the prompts with --prompt-column"),
        ({"prompt": None}, "has no prompt"),
        ({"prompt": "a", "prompt_token_ids": [1]}, "has prompt and prompt_token_ids; a row needs exactly one"),
        ({"prompt": 3}, "column prompt is int, not text"),
        ({"prompt": ""}, "column prompt is empty"),
        ({"messages": []}, "not a list of at least one message"),
        ({"messages": "hi"}, "column messages is text that is no JSON"),
        ({"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}, "message 1 is not an object with a role"),
        ({"messages": [{"role": "user"}]}, "message 0 has no content"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no chat template"),
        ({"prompt_token_ids": [1, "2"]}, "not a list of integers"),
        ({"prompt_token_ids": [1, True]}, "not a list of integers"),
        ({"prompt_token_ids": [-1]}, "negative"),
        ({"prompt_token_ids": [256]}, "outside the model's vocabulary of 256"),
        ({"prompt": "a", "temperature": "hot"}, "column temperature is 'hot', not a number"),
        ({"prompt": "a", "temperature": True}, "column temperature is True, not a number"),
        ({"prompt": "a", "temperature": -1}, "column temperature is -1.0; temperature must be in [0, 3.4e38] (0: greedy)"),
        ({"prompt": "a", "max_tokens": 1.5}, "column max_tokens is 1.5, not an integer"),
        ({"prompt": "a", "max_tokens": float("nan")}, "column max_tokens is nan, not an integer"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens must be"),
        ({"prompt": "a", "stop": [1]}, "column stop is [1], not a string or a list of strings"),
        ({"prompt": "a", "stop_token_ids": [None]}, "column stop_token_ids is [None], not an integer or a list"),
        ({"prompt": "a", "ignore_eos": 1}, "column ignore_eos is 1, not true or false"),
        ({"prompt": "a", "temperature": 10**400}, "column temperature is 1000"),
        ({"prompt": "a", "n": 0}, "column n is 0; n must be in [1, 64]"),
        ({"prompt": "a", "n": "2"}, "column n is '2', not an integer"),
        ({"prompt": "a", "n": 3, "best_of": 2}, "column best_of is 2; best_of must be in [n = 3, 64]"),
        ({"prompt": "a", "beam_width": 65}, "column beam_width is 65"),
        ({"prompt": "a", "beam_width": 2, "n": 3}, "n must be at most beam_width = 2 with beam search"),
        ({"prompt": "a", "beam_width": 2, "temperature": 1}, "temperature must be 0 with beam search"),
        ({"prompt": "a", "beam_width": 2, "stop": "x"}, "stop must be left out with beam search"),
        ({"prompt": "a", "length_penalty": float("inf")}, "column length_penalty is inf"),
        ({"prompt": "a", "early_stopping": "sometimes"}, "column early_stopping is 'sometimes', not true, false or \"never\""),
        ({"prompt": "a", "early_stopping": 1}, "column early_stopping is 1, not true, false or"),
        ({"prompt": "a", "early_stopping": [True]}, "column early_stopping is [True], not true, false or"),
    ],
)
def test_row_that_makes_no_request_says_why(columns, says):
    prepared = prepare(columns)
    assert says in prepared.error
    assert "\n" not in prepared.error


def test_a_template_that_crashes_spoils_only_its_row():
    class Crashing(FakeTokenizer):
        def encode(self, text):
            raise KeyError("boom")

    prepared = RowPreparer(Crashing(), 256, PromptOptions(), SamplingParams()).prepare(InputRow(0, {"prompt": "a"}))
    assert prepared.error == "cannot be tokenized: KeyError: 'boom'"


def test_sampling_columns_override_the_flags_and_null_does_not():
    base = SamplingParams(temperature=0.5, max_tokens=7, seed=3)
    columns = {
        "prompt": "a",
        "temperature": 1,
        "max_tokens": 9.0,
        "seed": None,
        "stop": "end",
        "stop_token_ids": [4],
        "top_p": 0.5,
    }
    expected = SamplingParams(temperature=1.0, max_tokens=9, seed=3, stop=("end",), stop_token_ids=(4,), top_p=0.5)
    assert prepare(columns, params=base).params == expected
    assert prepare({"prompt": "a", "stop": ["x", "y"]}, params=base).params.stop == ("x", "y")


@pytest.mark.parametrize(
    ("value", "meant"),
    [(True, "true"), (False, "false"), ("never", "never"), ("true", "true"), ("false", "false"), (None, "never")],
)
def test_early_stopping_is_a_truth_value_or_never_and_null_is_the_flags(value, meant):
    prepared = prepare({"prompt": "a", "early_stopping": value}, params=SamplingParams(early_stopping="never"))
    assert prepared.params.early_stopping == meant


def test_samples_and_beams_are_overridden_row_by_row():
    assert prepare({"prompt": "a", "n": 4, "best_of": 8}).params == SamplingParams(n=4, best_of=8)
    beams = prepare({"prompt": "a", "beam_width": 4, "length_penalty": 2}, params=SamplingParams(n=2)).params
    assert beams == SamplingParams(n=2, beam_width=4, length_penalty=2.0)


def test_prompt_column_named_like_a_sampling_field_is_just_the_prompt():
    assert prompt_text(prepare({"stop": "a prompt"}, options=PromptOptions(prompt_column="stop"))) == "a prompt"


def test_columns_of_a_record_batch_work_like_a_dict():
    batch = pa.record_batch({"prompt": ["x", "hi"], "max_tokens": [1, 8], "stop": [None, ["a"]]})
    prepared = prepare(ArrowColumns(batch, 1))
    assert prompt_text(prepared) == "hi"
    assert (prepared.params.max_tokens, prepared.params.stop) == (8, ("a",))


def test_row_key_is_stable_and_belongs_to_the_id():
    assert row_key(InputRow(7, {})) == 7
    assert row_key(InputRow(7, {"id": None})) == 7
    assert row_key(InputRow(1, {"id": "a"})) == row_key(InputRow(9, {"id": "a"}))
    assert row_key(InputRow(1, {"id": "a"})) == 12111382473771085846  # b2sum -l 64 of "a" with its quotes
    assert len({row_key(InputRow(0, {"id": value})) for value in ("1", 1, "a", [1], {"a": 1})}) == 5
    assert 0 <= row_key(InputRow(0, {"id": "ü"})) < 2**64
