"""Rows with tools, from file to file: the template shows them, the calls come back in every format, the same in any batch."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openai_types import valid_chat
from tool_templates import HERMES, WEATHER

CALL = '<tool_call>\n{"name": "weather", "arguments": {"place": "Rome"}}\n</tool_call>'
CALLS = [{"name": "weather", "arguments": '{"place": "Rome"}'}]
CHAT = [{"role": "user", "content": "Is it cold?"}]


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    """A tiny model whose template shows tools; `choice` makes it write a call."""
    directory = tmp_path_factory.mktemp("caller") / "llama"
    shutil.copytree(tiny_model("llama"), directory)
    (directory / "chat_template.jinja").write_text(HERMES)
    return directory


@pytest.fixture
def run(generate, model, tmp_path):
    """run(rows or path, output, *flags) -> the exit code"""

    def command(rows, output, *flags):
        code, _, err = generate(rows, output, "--quiet", "--chat", "--max-tokens", "80", *flags, "--model", str(model))
        assert code in (0, 5), err
        return code

    return command


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def row(number, text=CALL, **columns):
    return {"id": number, "prompt": f"Is it cold? {number}", "tools": [WEATHER], "choice": [text], **columns}


def test_the_template_shows_tools_and_calls_of_earlier_turns(generate, model):
    earlier = {
        "role": "assistant",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Rome"}'}}],
    }
    rows = [
        {"prompt": "a", "tools": [WEATHER]},
        {"messages": [*CHAT, earlier], "tools": json.dumps([WEATHER])},
        {"prompt": "c"},
    ]
    code, out, err = generate(rows, "out.jsonl", "--chat", "--quiet", "--dry-run", "--model", str(model))
    assert code == 0, err
    first, second, third = out.split("\nprompt of ")[1:]
    assert json.dumps(WEATHER) in first
    assert json.dumps(WEATHER) in second
    assert '{"name": "weather", "arguments": {"place": "Rome"}}' in second
    assert "weather" not in third


@pytest.mark.slow
def test_calls_come_back_in_every_format(run, tmp_path):
    rows = [row(0), row(1, "It is."), row(2, "Let me see.\n" + CALL), row(3, CALL, tools=None), row(4, CALL, n=2)]
    expected = [(CALLS, ""), (None, "It is."), (CALLS, "Let me see."), (None, CALL), (CALLS, ""), (CALLS, "")]
    assert run(rows, "out.jsonl", "--temperature", "1") == 0
    assert [(found.get("tool_calls"), found["text"]) for found in rows_of(tmp_path / "out.jsonl")] == expected
    for name in ("out.parquet", "out.csv", "out.sqlite"):
        assert run(rows, name, "--temperature", "1", "--max-num-seqs", "2") == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert list(zip(table["tool_calls"].to_pylist(), table["text"].to_pylist(), strict=True)) == expected
    assert json.dumps(CALLS) in (tmp_path / "out.csv").read_text().replace('""', '"')


@pytest.mark.slow
def test_error_rows_are_run_again_and_calls_stay(run, tmp_path):
    good = [row(0), row(1)]
    assert run([good[0], row(1, CALL, max_tokens=3)], "out.jsonl") == 5
    assert run(good, "out.jsonl", "--retry-errors") == 0
    assert [found["tool_calls"] for found in rows_of(tmp_path / "out.jsonl")] == [CALLS, CALLS]


def test_tools_of_parquet_have_no_keys_of_other_rows(generate, model, tmp_path):
    clock = {"type": "function", "function": {"name": "time", "parameters": {"properties": {"zone": {"type": "string"}}}}}
    pq.write_table(pa.table({"prompt": ["a", "b"], "tools": [[WEATHER], [clock]]}), tmp_path / "in.parquet")
    _, out, _ = generate("in.parquet", "out.jsonl", "--chat", "--quiet", "--dry-run", "--model", str(model))
    shown = out.split("\nprompt of ")[2]
    assert '"zone"' in shown
    assert "null" not in shown
    assert "place" not in shown


def request(number, **body):
    body = {"messages": CHAT, "tools": [WEATHER], "choice": [CALL], **body}
    return {"custom_id": f"r{number}", "url": "/v1/chat/completions", "body": {"model": "m", **body}}


@pytest.mark.slow
def test_batch_files_have_openais_shape(run, tmp_path):
    requests = [
        request(0),
        request(1, choice=["It is."]),
        request(2, tool_choice="none"),
        request(3, tool_choice="auto", n=2, temperature=1),
    ]
    assert run(requests, "out.jsonl") == 0
    answers = [valid_chat(line["response"]["body"]) for line in rows_of(tmp_path / "out.jsonl")]
    called, said, forbidden, both = [answer.choices for answer in answers]
    assert (called[0].finish_reason, called[0].message.content) == ("tool_calls", None)
    function = called[0].message.tool_calls[0].function
    assert (function.name, json.loads(function.arguments)) == ("weather", {"place": "Rome"})
    assert (said[0].finish_reason, said[0].message.content, said[0].message.tool_calls) == ("stop", "It is.", None)
    assert (forbidden[0].message.content, forbidden[0].message.tool_calls) == (CALL, None)
    ids = [call.id for choice in (*called, *both) for call in choice.message.tool_calls]
    assert len(set(ids)) == 3
    assert all(len(each) == 9 and each.isalnum() for each in ids)
    before = (tmp_path / "out.jsonl").read_bytes()
    assert run("in.jsonl", "out.jsonl", "--max-num-seqs", "2", "--overwrite") == 0
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_what_cannot_be_done_with_tools_makes_error_rows(generate, run, tmp_path):
    assert run([row(0, tools="a hammer"), row(1, tools=[1])], "out.jsonl") == 5
    errors = [found["error"] for found in rows_of(tmp_path / "out.jsonl")]
    assert ["no JSON" in errors[0], "not a list of objects" in errors[1]] == [True, True]
    completion = {**request(1, prompt="a", messages=None), "url": "/v1/completions"}
    assert run([request(0, tool_choice="required"), completion], "batch.jsonl") == 5
    errors = [found["error"]["message"] for found in rows_of(tmp_path / "batch.jsonl")]
    assert ["body.tool_choice" in errors[0], "body.tools is not supported" in errors[1]] == [True, True]
    assert generate([row(0)], "plain.jsonl", "--chat", "--quiet")[0] == 5  # of a model whose template shows none
    assert "takes no tools" in rows_of(tmp_path / "plain.jsonl")[0]["error"]
