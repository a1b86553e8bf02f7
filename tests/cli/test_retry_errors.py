"""`generate --retry-errors`: the error rows of a finished output run again, everything else stays, at once or not at all."""

import csv
import json
import os
import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pagecli.engine.engine import Engine

ROWS = [{"id": f"r{i}", "prompt": "the quick, brown fox\n" * (1 + 3 * (i % 3)), "tags": ["a", i]} for i in range(9)]
FLAGS = ("--temperature", "1", "--quiet", "--n", "2", "--token-ids", "--logprobs", "1")
SHORT, LONG = ("--max-model-len", "32"), ("--max-model-len", "200")
FORMATS = ["out.jsonl", "out.jsonl.gz", "out.parquet", "out.csv", "out.tsv.zst", "out.sqlite"]


def rows_of(path) -> list[dict]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".sqlite":
        with sqlite3.connect(path) as database:
            return database.execute("SELECT * FROM rows").fetchall()
    content = path.read_bytes()
    if path.suffix in (".gz", ".zst"):
        codec = "gzip" if path.suffix == ".gz" else "zstd"
        content = pa.input_stream(pa.py_buffer(content), compression=codec).read()
    if ".jsonl" in path.name:
        return [json.loads(line) for line in content.splitlines()]
    return list(csv.DictReader(content.decode().splitlines(keepends=True), delimiter="\t" if ".tsv" in path.name else ","))


@pytest.mark.parametrize("name", FORMATS)
def test_the_error_rows_are_put_in_place_as_if_they_had_never_failed(generate, tmp_path, name):
    whole = f"whole{name[3:]}"
    assert generate(ROWS, whole, *FLAGS, *LONG)[0] == 0
    assert generate(ROWS, name, *FLAGS, *SHORT)[0] == 5
    before = rows_of(tmp_path / name)
    assert before != rows_of(tmp_path / whole)
    assert generate(ROWS, name, *FLAGS, *LONG, "--retry-errors", "--stats", "stats.json")[0] == 0
    assert rows_of(tmp_path / name) == rows_of(tmp_path / whole)
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert 0 < stats["num_requests"] < len(ROWS)
    if name == "out.jsonl":
        assert (tmp_path / name).read_bytes() == (tmp_path / whole).read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_columns_that_the_output_has_stay_though_the_flags_are_left_out(generate, tmp_path):
    assert generate(ROWS, "out.jsonl", *FLAGS, *SHORT)[0] == 5
    good = [row for row in rows_of(tmp_path / "out.jsonl") if row["error"] is None]
    assert generate(ROWS, "out.jsonl", *LONG, "--quiet", "--retry-errors")[0] == 0
    found = rows_of(tmp_path / "out.jsonl")
    assert all(row in found for row in good)
    assert all(row["token_ids"] for row in found)


@pytest.mark.slow
def test_a_run_that_ends_early_leaves_the_output_as_it_was_and_resumes(generate, tmp_path, monkeypatch):
    assert generate(ROWS, "whole.jsonl", *FLAGS, *LONG)[0] == 0
    assert generate(ROWS, "out.jsonl", *FLAGS, *SHORT)[0] == 5
    before, step, left = (tmp_path / "out.jsonl").read_bytes(), Engine.step, [9]

    def breaking(self):
        left[0] -= 1
        if left[0] < 0:
            raise SystemExit(99)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", breaking)
        generate(ROWS, "out.jsonl", *FLAGS, *LONG, "--retry-errors", "--max-num-seqs", "2")
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert os.path.isdir(tmp_path / ".out.jsonl.pagecli-journal")
    code, _, err = generate(ROWS, "out.jsonl", *FLAGS, *LONG)
    assert (code, "already exists" in err or "what differs" in err) == (2, True), err
    assert generate(ROWS, "out.jsonl", *FLAGS, *LONG, "--retry-errors", "--stats", "stats.json")[0] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert json.loads((tmp_path / "stats.json").read_text())["num_requests"] < sum(len(row["prompt"]) > 60 for row in ROWS)


def test_rows_that_fail_again_stay_error_rows_and_an_output_without_any_is_left_alone(generate, tmp_path):
    rows = [*ROWS[:4], {"id": "bad", "prompt": 5}]
    assert generate(rows, "out.jsonl", *FLAGS, *SHORT)[0] == 5
    assert generate(rows, "out.jsonl", *FLAGS, *LONG, "--retry-errors")[0] == 5
    assert [row["id"] for row in rows_of(tmp_path / "out.jsonl") if row["error"]] == ["bad"]
    assert generate(ROWS[:2], "good.jsonl", *FLAGS, *LONG)[0] == 0
    inode = os.stat(tmp_path / "good.jsonl").st_ino
    code, _, err = generate(ROWS[:2], "good.jsonl", *FLAGS[:-5], "--retry-errors")
    assert (code, os.stat(tmp_path / "good.jsonl").st_ino) == (0, inode), err


def test_a_part_is_put_right_and_still_merges(generate, tmp_path):
    from pagecli.jobs.shards.merge import merge_outputs

    assert generate(ROWS, "whole.jsonl", *FLAGS, *LONG)[0] == 0
    for number in (1, 2):
        assert generate(ROWS, f"part-{number}.jsonl", *FLAGS, *LONG, "--shard", f"{number}/2")[0] == 0
    lines = (tmp_path / "part-1.jsonl").read_text().splitlines()
    failed = json.loads(lines[2]) | {
        "text": None,
        "error": "it failed",
        "error_code": "engine_failure",
        "finish_reason": "error",
    }
    label = {**failed.pop("pagecli_shard"), "line": 2}
    kept = [*lines[:2], json.dumps({**failed, "pagecli_shard": label})]
    for line in lines[4:]:
        record = json.loads(line)
        record["pagecli_shard"]["line"] -= 1
        kept.append(json.dumps(record))
    (tmp_path / "part-1.jsonl").write_text("\n".join(kept) + "\n")
    assert generate(ROWS, "part-1.jsonl", *FLAGS, *LONG, "--shard", "1/2", "--retry-errors")[0] == 0
    merge_outputs([str(tmp_path / f"part-{number}.jsonl") for number in (1, 2)], str(tmp_path / "all.jsonl"), False)
    assert rows_of(tmp_path / "all.jsonl") == rows_of(tmp_path / "whole.jsonl")


@pytest.mark.parametrize(
    ("output", "flags", "code", "says"),
    [
        ("none.jsonl", (), 2, "none.jsonl is not there: --retry-errors is for a finished output"),
        ("out.jsonl", ("--overwrite",), 2, "--retry-errors does not go with --overwrite"),
        ("out.jsonl", ("--order", "completion"), 2, "--retry-errors does not go with --order completion"),
        ("-", (), 2, "needs an output that is a file"),
        ("out.duckdb", (), 2, "--retry-errors does not go with .duckdb output"),
        ("other.jsonl", (), 2, "is not as pagecli writes it"),
        ("batch.jsonl", (), 2, "is in OpenAI's batch format"),
        ("out.jsonl", ("--limit", "3"), 2, "has rows behind the input's last one"),
        ("out.jsonl", ("--where", "id != 'r0'"), 2, "the input has 'r1', and"),
    ],
)
def test_what_does_not_go_together_is_refused_and_changes_nothing(generate, tmp_path, output, flags, code, says):
    assert generate(ROWS[:5], "out.jsonl", "--quiet", *SHORT)[0] == 5
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "batch.jsonl").write_text('{"id": "x", "custom_id": "a", "response": null, "error": {}}\n')
    (tmp_path / "out.duckdb").write_text("")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and path.name != "in.jsonl"}
    found, _, err = generate(ROWS[:5], output, *LONG, "--retry-errors", *flags)
    assert (found, says in err) == (code, True), err
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_the_end_of_a_job_with_error_rows_names_the_command_that_runs_them_again(generate, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pagecli", "generate", "in put.jsonl", "out.jsonl", "-m", "x", "--overwrite"])
    code, _, err = generate(ROWS, "out.jsonl", "--overwrite", *SHORT)
    assert code == 5
    hint = next(line for line in err.splitlines() if line.startswith("hint: "))
    assert hint.endswith("run them again with: pagecli generate 'in put.jsonl' out.jsonl -m x --retry-errors")
    batch = [
        {"custom_id": f"{i}", "method": "POST", "url": "/v1/completions", "body": {"model": "x", "prompt": "a " * (i * 40 + 1)}}
        for i in range(2)
    ]
    code, _, err = generate(batch, "batch.jsonl", *SHORT)
    assert code == 5
    assert "--retry-errors" not in err, "which does not take a batch file's output"
