"""Formats and the choice of rows through the command line: OpenAI batch files, parts, conditions, cut prompts, dry runs."""

import json

import pyarrow.parquet as pq
import pytest
from input_files import write_rows
from openai_types import valid_chat, valid_completion

from pagecli.cli.app import main

# The example of platform.openai.com/docs/guides/batch, and a completion.
EXAMPLE = [
    {
        "custom_id": f"request-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "gpt-3.5-turbo-0125",
            "messages": [{"role": "system", "content": text}, {"role": "user", "content": "Hello world!"}],
            "max_tokens": 1000,
        },
    }
    for number, text in ((1, "You are a helpful assistant."), (2, "You are an unhelpful assistant."))
]


def batch_of_all_kinds() -> list[dict]:
    rows = [json.loads(json.dumps(row)) for row in EXAMPLE]
    for row in rows:
        row["body"]["max_tokens"] = 5
    rows[1]["body"] |= {"n": 2, "temperature": 1, "seed": 3, "logprobs": True, "top_logprobs": 2}
    plain = {"custom_id": "c", "method": "POST", "url": "/v1/completions"}
    rows.append({**plain, "body": {"model": "m", "prompt": "The quick", "max_tokens": 3, "logprobs": 1}})
    rows.append({**plain, "custom_id": "d", "body": {"model": "m", "prompt": "x", "tools": [{}]}})
    return rows


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_openais_documented_example_goes_through_and_is_valid_by_its_types(generate, tmp_path):
    assert generate(EXAMPLE, "out.jsonl")[0] == 0
    answers = lines(tmp_path / "out.jsonl")
    assert [answer["custom_id"] for answer in answers] == ["request-1", "request-2"]
    for answer in answers:
        body = valid_chat(answer["response"]["body"])
        assert (answer["error"], answer["response"]["status_code"]) == (None, 200)
        assert body.choices[0].finish_reason in ("stop", "length")
        assert body.usage.total_tokens == body.usage.prompt_tokens + body.usage.completion_tokens


@pytest.mark.slow
def test_batch_of_all_kinds_is_answered_alike_twice_and_as_rows_in_parquet(generate, tmp_path):
    rows = batch_of_all_kinds()
    assert generate(rows, "out.jsonl")[0] == 5
    first, second, plain, error = lines(tmp_path / "out.jsonl")
    for answer, valid in ((first, valid_chat), (second, valid_chat), (plain, valid_completion)):
        valid(answer["response"]["body"])
    body = second["response"]["body"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    tokens = [position["token"] for position in body["choices"][0]["logprobs"]["content"]]
    assert "".join(tokens).startswith(body["choices"][0]["message"]["content"][:1])
    assert len(plain["response"]["body"]["choices"][0]["logprobs"]["tokens"]) == 3
    assert (error["custom_id"], error["error"]["code"], error["response"]) == ("d", "unsupported", None)
    before = (tmp_path / "out.jsonl").read_bytes()
    assert generate("in.jsonl", "again.jsonl")[0] == 5
    assert (tmp_path / "again.jsonl").read_bytes() == before
    assert generate("in.jsonl", "out.parquet")[0] == 5
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == ["request-1", "request-2", "request-2", "c", "d"]
    assert table["text"][0].as_py() == first["response"]["body"]["choices"][0]["message"]["content"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_parts_through_the_command_line_are_the_whole(generate, tmp_path, capfd, suffix):
    rows = [{"prompt": f"row {i}", "n": 1 + i % 2, "temperature": 1.0} for i in range(7)]
    generate(rows, f"whole.{suffix}")
    for number in (1, 2):
        assert generate("in.jsonl", f"part-{number}.{suffix}", "--shard", f"{number}/2")[0] == 0
    with pytest.raises(SystemExit) as ended:
        main(["merge", *(str(tmp_path / f"{name}.{suffix}") for name in ("part-2", "part-1", "merged"))])
    assert ended.value.code == 0
    if suffix == "parquet":
        whole, merged = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "merged"))
        assert merged.equals(whole)
    else:
        assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    with pytest.raises(SystemExit) as ended:
        main(["merge", *(str(tmp_path / f"{name}.{suffix}") for name in ("part-2", "merged-2"))])
    assert ended.value.code == 3
    assert "parts are missing: 1/2" in capfd.readouterr().err


def test_rows_are_chosen_and_keep_their_text(generate, tmp_path):
    rows = [{"prompt": f"row {i}", "lang": "en" if i % 2 else "de"} for i in range(6)]
    generate(rows, "all.jsonl", "--temperature", "1")
    generate("in.jsonl", "some.jsonl", "--temperature", "1", "--where", "lang == 'en'", "--limit", "2")
    assert lines(tmp_path / "some.jsonl") == [lines(tmp_path / "all.jsonl")[i] for i in (1, 3)]
    code, _, err = generate("in.jsonl", "x.jsonl", "--where", "lang = ")
    assert code == 2
    assert err.startswith("error: --where needs a value")


def test_too_long_prompts_are_errors_or_cut(generate, tmp_path):
    rows = [{"prompt": "word " * 500}, {"prompt": "short"}]
    assert generate(rows, "a.jsonl")[0] == 5
    first, second = lines(tmp_path / "a.jsonl")
    assert (first["error_code"], second["error_code"]) == ("prompt_too_long", None)
    assert first["error"].startswith("line 1: the prompt has")
    assert generate(rows, "b.jsonl", "--too-long", "truncate-left")[0] == 0
    assert lines(tmp_path / "b.jsonl")[0]["prompt_tokens"] == 512 - 6


def test_dry_run_checks_every_row_and_writes_nothing(generate, tmp_path):
    rows = [{"prompt": "a b c"}, {"prompt": ""}, {"prompt": "x", "temperature": "hot"}, {"prompt": "word " * 500}]
    code, out, err = generate(rows, "out.parquet", "--dry-run")
    assert code == 5
    found = dict(line.split("  ", 1) for line in out.split("\n\nprompt of")[0].replace("\n  ", "\n").splitlines())
    assert found["rows"].strip() == "4"
    assert found["error rows"].strip() == "3"
    assert "1; the first, line 3: column temperature" in found["invalid_parameter"]
    assert {"prompt_too_long", "empty_prompt", "weights", "KV cache", "time"} <= set(found)
    assert "nothing was written" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]
    write_rows(tmp_path / "good.jsonl", rows[:1])
    assert generate("good.jsonl", "out.parquet", "--dry-run", "--dtype", "int8", "--kv-dtype", "int8")[0] == 0


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ("--device cuda", 4),
        ("--dtype fp8", 2),
        ("--kv-dtype fp8", 2),
        ("--kv-memory 100B", 4),
        ("--kv-memory 900GiB", 4),
        ("--preemption swap --swap-memory 1KiB", 4),
        ("--kv-policy reserve-max --beam-width 2", 5),
        ("--max-model-len 4", 5),
    ],
)
def test_what_a_job_would_be_refused_for_a_dry_run_is_refused_for(generate, flags, code, monkeypatch):
    """In the same words; a row that would be an error row is one of a dry run, too."""
    monkeypatch.setattr("pagecli.devices.cuda.presence.may_have_gpu", lambda: False)
    rows = [{"prompt": "a b c d e f"}]
    dry = generate(rows, "out.jsonl", "--dry-run", *flags.split())
    real = generate(rows, "out.jsonl", *flags.split())
    assert (dry[0], real[0]) == (code, code)
    if code != 5:
        assert dry[2].split("; ")[0] == real[2].split("; ")[0], "but for the memory that is available at the moment"


def test_csv_in_and_compression_out(generate, tmp_path):
    (tmp_path / "in.csv").write_text("id,prompt,max_tokens\na,hello,2\nb,world,\n")
    assert generate("in.csv", "out.parquet", "--compression", "snappy", "--row-group-rows", "1")[0] == 0
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    assert (metadata.num_row_groups, metadata.row_group(0).column(0).compression) == (2, "SNAPPY")
    assert pq.read_table(tmp_path / "out.parquet")["output_tokens"].to_pylist() == [2, 6]
    code, _, err = generate("in.csv", "x.jsonl", "--prompt-column", "question")
    assert (code, "has no column question" in err) == (3, True)


def test_a_wrong_prompt_column_is_refused_before_the_model_is_loaded(generate, tmp_path):
    code, out, err = generate([{"question": "a", "lang": "en"}] * 3, "out.jsonl", model="llama")
    assert (code, out) == (3, "")
    assert "in.jsonl has no column prompt, messages, prompt_token_ids; it has question, lang" in err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_condition_on_an_unknown_column_is_wrong_usage(generate, tmp_path):
    (tmp_path / "in.csv").write_text("prompt,lang\na,en\n")
    code, _, err = generate(str(tmp_path / "in.csv"), "out.jsonl", "--where", "langs == 'en'")
    assert code == 2
    assert "did you mean lang?" in err


def test_a_row_beyond_the_limit_is_an_error_row(generate, tmp_path):
    code, _, _ = generate([{"prompt": "a"}, {"prompt": "b" * 200}], "out.jsonl", "--max-row-bytes", "100B")
    assert code == 5
    assert [json.loads(line)["error_code"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        None,
        "row_too_large",
    ]
    assert generate([{"prompt": "a"}], "new.jsonl", "--max-row-bytes", "auto")[0] == 2


@pytest.mark.parametrize(
    "flags", [("--max-row-bytes", "99999999999TiB"), ("--row-group-rows", "1" * 20), ("--limit", "1" * 20)]
)
def test_a_number_beyond_every_use_is_taken_or_is_wrong_usage(generate, tmp_path, flags):
    """And no error of the job's end, when its rows are computed."""
    code, _, err = generate([{"prompt": "a"}], "out.parquet", *flags)
    assert code in (0, 2), err
    assert code == 0 or f"Invalid value for '{flags[0]}'" in err
    assert (tmp_path / "out.parquet").exists() == (code == 0)
