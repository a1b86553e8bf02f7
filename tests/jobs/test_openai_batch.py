"""OpenAI batch files: found by themselves, their requests as plain rows, answers that the openai package's own types take."""

import json
from dataclasses import replace

import pytest
from fake_engine import FakeTokenizer
from hypothesis import given
from hypothesis import strategies as st
from openai_types import valid_chat, valid_completion

from pagecli.core.outputs import TokenLogprobs
from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import ErrorCode
from pagecli.jobs.readers.jsonl_reader import is_batch_row
from pagecli.jobs.readers.open_input import ReadOptions, open_input
from pagecli.jobs.readers.openai_batch_input import CHAT_URL, COMPLETIONS_URL, from_batch_row
from pagecli.jobs.rows.row import InputRow, OutputRow, error_row
from pagecli.jobs.rows.row_preparer import PromptOptions, RowPreparer
from pagecli.jobs.writers.openai_batch_output import BatchEncoder, TokenTexts

CHAT = [{"role": "user", "content": "Hello world!"}]


def request(body: dict, url: str | None = CHAT_URL, **changes) -> dict:
    return {"custom_id": "request-1", "method": "POST", "url": url, "body": {"model": "gpt-3.5-turbo-0125", **body}, **changes}


def convert(line: dict) -> InputRow:
    return from_batch_row(InputRow(3, line, line=4))


def prepare(line: dict):
    preparer = RowPreparer(FakeTokenizer(True), 256, PromptOptions(prompt_column="other"), SamplingParams(max_tokens=7))
    return preparer.prepare(convert(line))


def test_chat_request_becomes_a_row_of_messages_and_parameters():
    body = {"messages": CHAT, "max_completion_tokens": 5, "temperature": 0.5, "top_p": 0.9, "n": 2, "stop": "x", "seed": 3}
    body |= {"presence_penalty": 1, "frequency_penalty": -1, "logprobs": True, "top_logprobs": 2}
    row = convert(request(body))
    assert (row.error, row.batch_url, row.index, row.line) == (None, CHAT_URL, 3, 4)
    assert (row.columns["id"], row.columns["model"]) == ("request-1", "gpt-3.5-turbo-0125")
    prepared = prepare(request(body))
    assert bytes(prepared.prompt_token_ids) == b"<user>Hello world!"
    assert prepared.params == SamplingParams(
        max_tokens=5, temperature=0.5, top_p=0.9, n=2, stop=("x",), seed=3, presence_penalty=1.0, frequency_penalty=-1.0,
        logprobs=2,
    )  # fmt: skip


def test_completion_request_feeds_its_prompt_without_a_template():
    for prompt in ("Once", ["Once"], list(b"Once"), [list(b"Once")]):
        prepared = prepare(request({"prompt": prompt, "logprobs": 3, "best_of": 1}, COMPLETIONS_URL))
        assert prepared.error is None
        assert bytes(prepared.prompt_token_ids) == b"Once"
        assert prepared.params == SamplingParams(max_tokens=7, logprobs=3)


def test_what_asks_for_nothing_is_taken():
    body = {"messages": CHAT, "stream": False, "logit_bias": {}, "tools": [], "tool_choice": "none", "user": "u", "n": None}
    body |= {"response_format": {"type": "text"}, "metadata": {"a": "b"}, "store": True, "logprobs": False, "seed": -1}
    prepared = prepare(request(body))
    assert prepared.error is None
    assert prepared.params == SamplingParams(max_tokens=7, seed=2**64 - 1)


NOTHING = {
    "top_k": [-1, 0],
    "top_logprobs": [0, None],
    "logprobs": [False, None],
    "logit_bias": [{}, None],
    "stop": ["", [], None],
    "stop_token_ids": [[], None],
    "min_p": [0, 0.0],
    "min_tokens": [0],
    "n": [1],
    "repetition_penalty": [1.0],
    "length_penalty": [1.0],
    "early_stopping": [False],
    "ignore_eos": [False],
    "skip_special_tokens": [True],
    "spaces_between_special_tokens": [True],
    "include_stop_str_in_output": [False],
    "add_generation_prompt": [True],
    "use_beam_search": [False],
    "guided_json": [None],
    "bad_words": [[], None],
    "chat_template_kwargs": [{}],
    "parallel_tool_calls": [True, False],
    "stream_options": [None, {"include_usage": True}],
    "modalities": [["text"]],
}


@pytest.mark.parametrize("url", [CHAT_URL, COMPLETIONS_URL])
@pytest.mark.parametrize("name", NOTHING)
def test_no_key_that_asks_for_nothing_fails_a_row(name, url):
    prompt = {"messages": CHAT} if url == CHAT_URL else {"prompt": "Hello"}
    for value in NOTHING[name]:
        prepared = prepare(request({**prompt, name: value}, url))
        assert (prepared.error, prepared.params) == (None, SamplingParams(max_tokens=7)), (name, value)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("/chat/completions", CHAT_URL),
        ("/completions", COMPLETIONS_URL),
        ("/v1/chat/completions/", CHAT_URL),
        ("/openai/v1/chat/completions", CHAT_URL),
        ("https://api.openai.com/v1/completions", COMPLETIONS_URL),
        ("/chat/completions?api-version=2024-10-21", CHAT_URL),
        (None, CHAT_URL),
    ],
)
def test_the_urls_of_every_host_are_one(url, meant):
    prompt = {"messages": CHAT} if meant == CHAT_URL else {"prompt": "Hello"}
    row = convert(request(prompt, url))
    assert (row.error, row.batch_url) == (None, meant)


def test_unknown_keys_are_ignored_with_one_warning_each(tmp_path):
    bodies = [{"messages": CHAT, "tempreature": 1, "verbosity": "low"}, {"messages": CHAT, "reasoning_effort": "high"}]
    lines = [request(body, metadata={"a": 1}) for body in [*bodies, *bodies]]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    warnings: list[str] = []
    rows = list(open_input(str(tmp_path / "in.jsonl"), options=ReadOptions(warn=warnings.append)))
    assert [row.error for row in rows] == [None] * 4
    ignored = ("metadata", "body.tempreature", "body.verbosity", "body.reasoning_effort")
    assert warnings == [f"{name!r} of batch requests is ignored" for name in ignored]


def test_warnings_about_ignored_keys_are_bounded(tmp_path):
    lines = [request({"messages": CHAT, f"key{number}": 1}) for number in range(50)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    warnings: list[str] = []
    assert all(row.error is None for row in open_input(str(tmp_path / "in.jsonl"), options=ReadOptions(warn=warnings.append)))
    assert len(warnings) == 9
    assert warnings[-1] == "more keys of batch requests are ignored"


def test_parts_of_text_are_joined_and_developers_speak_as_system():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "be kind"}, {"role": "user", "content": parts}]
    assert bytes(prepare(request({"messages": messages})).prompt_token_ids) == b"<system>be kind<user>ab"


@pytest.mark.parametrize(
    ("body", "constraint"),
    [
        ({"response_format": {"type": "json_object"}}, ("json_schema", '{"type": "object"}')),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "null"}}}},
            ("json_schema", '{"type": "null"}'),
        ),
        ({"guided_json": {"enum": [1, 2]}}, ("json_schema", '{"enum": [1, 2]}')),
        ({"guided_regex": "[a-z]+"}, ("regex", "[a-z]+")),
        ({"guided_choice": ["yes", "no"]}, ("choice", ("yes", "no"))),
        ({"structured_outputs": {"regex": "x+", "json": None}}, ("regex", "x+")),
        ({"response_format": {"type": "text"}}, None),
    ],
)
def test_the_form_that_a_request_asks_for_is_the_constraint_of_its_row(body, constraint):
    prepared = prepare(request({"messages": CHAT, **body}))
    assert prepared.error is None
    assert prepared.params.constraint == constraint


def test_an_answer_that_is_not_what_was_asked_for_is_kept_beside_its_error():
    row = InputRow(0, {"id": "a"}, batch_url=CHAT_URL)
    output = OutputRow(row, text='{"a', finish_reason="length", prompt_tokens=3, output_tokens=2)
    bad = replace(output, error="cut", error_code=ErrorCode.INVALID_OUTPUT)
    record = BatchEncoder("m", 0, lambda token_id: None).record([bad])
    assert record["error"] == {"code": "invalid_output", "message": "cut"}
    assert record["response"]["body"]["choices"][0]["message"]["content"] == '{"a'
    assert record["response"]["body"]["choices"][0]["finish_reason"] == "length"


def test_reasoning_is_a_field_of_its_own_and_counted():
    row = InputRow(0, {"id": "a"}, batch_url=CHAT_URL)
    output = OutputRow(row, text="4", finish_reason="stop", prompt_tokens=3, output_tokens=9)
    encoder = BatchEncoder("m", 0, lambda token_id: None)
    body = encoder.record([replace(output, reasoning="2 + 2", reasoning_tokens=7)])["response"]["body"]
    assert body["choices"][0]["message"]["reasoning_content"] == "2 + 2"
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": 7}
    plain = encoder.record([output])["response"]["body"]
    assert "reasoning_content" not in plain["choices"][0]["message"]


@pytest.mark.parametrize(
    ("line", "says", "code"),
    [
        (request({"messages": CHAT, "tools": [{}]}), "the model's chat template takes no tools", "unsupported"),
        (request({"messages": CHAT, "stream": True}), "body.stream is not supported", "unsupported"),
        (request({"messages": CHAT, "stream": 0}), "body.stream is not supported", "unsupported"),
        (request({"messages": CHAT, "logit_bias": {"1": 1}}), "body.logit_bias is not supported", "unsupported"),
        (request({"messages": CHAT, "response_format": {"type": "xml"}}), "response_format.type is 'xml'", "unsupported"),
        (request({"messages": CHAT, "response_format": {"type": "json_schema"}}), "has no schema", "invalid_parameter"),
        (
            request({"messages": CHAT, "guided_json": {"type": "object"}, "guided_regex": "a"}),
            "body has guided_json and guided_regex",
            "invalid_parameter",
        ),
        (
            request({"messages": CHAT, "structured_outputs": {"grammar": "x"}}),
            "structured_outputs.grammar is not supported",
            "unsupported",
        ),
        (
            request({"messages": CHAT, "guided_json": {"type": "unheard-of"}}),
            "cannot be compiled",
            "invalid_parameter",
        ),
        (request({"messages": CHAT, "prompt": "a"}), "body.prompt is not a parameter", "unsupported"),
        (request({"messages": CHAT}, "/v1/embeddings"), "url is '/v1/embeddings'", "unsupported"),
        (request({"messages": CHAT}, method="GET"), "method is 'GET'", "unsupported"),
        (request({"prompt": ["a", "b"]}, COMPLETIONS_URL), "a list of 2 prompts; write one request for each", "unsupported"),
        (request({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "only text", "unsupported"),
        (request({"messages": "hi"}), "body.messages is not a list", "invalid_type"),
        (request({"messages": [1]}), "body.messages[0] is not an object with a role", "invalid_type"),
        (request({"messages": [{"role": "user", "content": 1}]}), "neither text nor a list of parts", "invalid_type"),
        (request({"prompt": None}, COMPLETIONS_URL), "body.prompt is missing", "invalid_type"),
        (request({}, custom_id=3), "custom_id is missing, or not text", "invalid_type"),
        ({"custom_id": "request-1", "body": []}, "body is missing, or not an object", "invalid_type"),
        (request({"messages": CHAT, "max_tokens": 1, "max_completion_tokens": 2}), "differ", "invalid_parameter"),
        (request({"messages": CHAT, "top_logprobs": 2}), "given without logprobs", "invalid_parameter"),
        (request({"messages": CHAT, "logprobs": 2}), "body.logprobs is 2, not true or false", "invalid_parameter"),
        (request({"messages": CHAT, "temperature": "hot"}), "temperature is 'hot', not a number", "invalid_parameter"),
        (request({"messages": CHAT, "n": 1000}), "n must be in", "invalid_parameter"),
    ],
)
def test_request_that_cannot_be_answered_says_why_and_keeps_its_id(line, says, code):
    prepared = prepare(line)
    assert says in prepared.error
    assert prepared.error_code == code
    if isinstance(line.get("custom_id"), str):
        assert prepared.row.columns["id"] == "request-1"


def logprobs(*token_ids: int) -> list[TokenLogprobs]:
    return [TokenLogprobs(i, -0.5, ((i, -0.5), (9, float("-inf")))) for i in token_ids]


def answer(url: str = CHAT_URL, **values) -> OutputRow:
    row = InputRow(0, {"id": "request-1", "url": url}, line=1, batch_url=url)
    return OutputRow(row, **{"text": "Hi", "finish_reason": "stop", "prompt_tokens": 5, "output_tokens": 2, **values})


def encoder() -> BatchEncoder:
    texts = TokenTexts()
    known = {1: b"a", 2: b"\xe2\x80", 4: b" true", 5: b"true", 6: b"\xe2", 7: None}
    texts.bind(lambda token_id: known.get(token_id, f"<{token_id}>".encode()))
    return BatchEncoder("smollm2-135m", 1_700_000_000, texts)


def test_chat_answer_is_valid_by_openais_types():
    encode = encoder()
    first = answer(num_samples=2, logprobs=logprobs(1, 2))
    assert encode(first) == b""
    line = json.loads(encode(answer(sample=1, num_samples=2, finish_reason="length", logprobs=logprobs(1))))
    assert (line["custom_id"], line["error"], line["response"]["status_code"]) == ("request-1", None, 200)
    body = valid_chat(line["response"]["body"])
    assert [(c.index, c.message.content, c.finish_reason) for c in body.choices] == [(0, "Hi", "stop"), (1, "Hi", "length")]
    assert (body.usage.prompt_tokens, body.usage.completion_tokens, body.usage.total_tokens) == (5, 4, 9)
    content = body.choices[0].logprobs.content
    assert [(t.token, t.bytes) for t in content] == [("a", [97]), ("\ufffd", [0xE2, 0x80])]
    assert [(t.token, t.logprob) for t in content[0].top_logprobs] == [("a", -0.5), ("<9>", -9999.0)]
    assert not body.model_extra


def test_completion_answer_is_valid_by_openais_types():
    line = json.loads(encoder()(answer(COMPLETIONS_URL, logprobs=logprobs(1, 3, 1))))
    body = valid_completion(line["response"]["body"])
    assert (body.object, body.model, body.choices[0].text) == ("text_completion", "smollm2-135m", "Hi")
    assert body.choices[0].logprobs.text_offset == [0, 1, 4]
    assert body.choices[0].logprobs.top_logprobs[0] == {"a": -0.5, "<9>": -9999.0}


def test_tokens_that_differ_never_take_each_others_place():
    """Among them a space in front, and parts of characters, which have no text of their own."""
    top = tuple((token_id, -float(token_id)) for token_id in (2, 4, 5, 6, 7))
    position = TokenLogprobs(4, -4.0, top)
    line = json.loads(encoder()(answer(COMPLETIONS_URL, text="true", logprobs=[position, position])))
    found = valid_completion(line["response"]["body"]).choices[0].logprobs
    assert found.top_logprobs[0] == {r"bytes:\xe2\x80": -2, " true": -4, "true": -5, r"bytes:\xe2": -6, "token_id:7": -7}
    assert found.text_offset == [0, 4]  # the text lacks the first token's space
    line = json.loads(encoder()(answer(logprobs=[position])))
    (token,) = valid_chat(line["response"]["body"]).choices[0].logprobs.content
    assert [t.bytes for t in token.top_logprobs] == [[0xE2, 0x80], [*b" true"], [*b"true"], [0xE2], None]


def test_error_is_an_error_object_with_the_code_of_the_row():
    row = InputRow(6, {"id": "request-7"}, line=7, batch_url=CHAT_URL)
    line = json.loads(encoder()(error_row(row, "too long", code=ErrorCode.PROMPT_TOO_LONG)))
    assert (line["custom_id"], line["response"]) == ("request-7", None)
    assert line["error"] == {"code": "prompt_too_long", "message": "line 7: too long"}


def test_file_is_known_by_its_first_readable_row(tmp_path):
    (tmp_path / "in.jsonl").write_text("not json\n\n" + json.dumps(request({"messages": CHAT})) + '\n{"prompt": "x"}\n')
    for kind, urls in (("auto", ["", CHAT_URL, ""]), ("jsonl", [None] * 3), ("openai-batch", ["", CHAT_URL, ""])):
        source = open_input(str(tmp_path / "in.jsonl"), options=ReadOptions(kind))
        assert [row.batch_url for row in source] == urls
        source.close()


def test_plain_rows_with_a_custom_id_are_no_batch():
    assert not is_batch_row({"custom_id": "a", "prompt": "b"})
    assert not is_batch_row({"custom_id": "a", "body": "text"})
    assert is_batch_row({"custom_id": "a", "body": {"prompt": "b"}})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KNOWN = ["messages", "prompt", "n", "stop", "seed", "logprobs", "top_logprobs", "max_tokens", "stream", "tools", "role"]


@pytest.mark.slow
@given(
    body=st.dictionaries(st.sampled_from(KNOWN), json_values | st.just(CHAT), max_size=5) | json_values,
    rest=st.dictionaries(st.sampled_from(["custom_id", "method", "url"]), json_values | st.just(CHAT_URL)),
)
def test_whatever_a_request_holds_it_becomes_a_request_or_an_error(body, rest):
    prepared = prepare({"custom_id": "a", "url": COMPLETIONS_URL, "body": body, **rest})
    assert (prepared.error is None) == bool(prepared.prompt_token_ids)
    assert (prepared.error is None) == (prepared.error_code is None)
    rows = [answer()] if prepared.error is None else [error_row(prepared.row, prepared.error, code=prepared.error_code)]
    assert json.loads(encoder()(rows[0]))["error"] == (None if prepared.error is None else {
        "code": prepared.error_code, "message": rows[0].error
    })  # fmt: skip
