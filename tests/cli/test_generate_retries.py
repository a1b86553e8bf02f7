"""`generate --retry` on a tiny model: attempts in a column, the same text in any batch and after an interruption."""

import json

import pyarrow.parquet as pq

ROWS = [{"id": f"r{i}", "prompt": f"the quick brown fox {i}"} for i in range(12)]
FLAGS = ("--temperature", "1", "--max-tokens", "5", "--stop", "e", "--retry", "4", "--token-ids", "--quiet")


def records(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_run_again_until_one_is_good_whatever_their_batch(generate, tmp_path):
    assert generate(ROWS, "out.jsonl", *FLAGS)[0] == 0
    found = records(tmp_path / "out.jsonl")
    assert len({row["attempts"] for row in found}) > 2
    assert all(row["finish_reason"] == "stop" for row in found if row["attempts"] < 5)
    assert generate(ROWS, "small.jsonl", *FLAGS, "--max-num-seqs", "2", "--threads", "2", "--kv-memory", "150KiB")[0] == 0
    assert (tmp_path / "small.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert generate(ROWS[::-1], "reversed.parquet", *FLAGS)[0] == 0
    columns = ["id", "text", "attempts", "finish_reason"]
    assert pq.read_table(tmp_path / "reversed.parquet").select(columns).to_pylist()[::-1] == [
        {name: row[name] for name in columns} for row in found
    ]


def test_without_retry_there_is_no_column_and_the_first_attempt_is_that_text(generate, tmp_path):
    plain = [flag for flag in FLAGS if flag not in ("--retry", "4")]
    assert generate(ROWS, "plain.jsonl", *plain)[0] == generate(ROWS, "out.jsonl", *FLAGS)[0] == 0
    first = {row["id"]: row["text"] for row in records(tmp_path / "plain.jsonl")}
    assert "attempts" not in records(tmp_path / "plain.jsonl")[0]
    assert all(row["text"] == first[row["id"]] for row in records(tmp_path / "out.jsonl") if row["attempts"] == 1)


def test_a_job_that_resumes_ends_with_the_same_attempts_and_retrying_is_part_of_it(generate, tmp_path):
    rows = [*ROWS[:8], {"id": "bad", "prompt": "a", "max_tokens": 0}, *ROWS[8:]]
    assert generate(rows, "whole.jsonl", *FLAGS)[0] == 5
    assert generate(rows, "out.jsonl", *FLAGS, "--on-error", "stop", "--max-num-seqs", "1")[0] == 5
    assert not (tmp_path / "out.jsonl").exists()
    code, _, err = generate(rows, "out.jsonl", *FLAGS, "--retry", "3")
    assert (code, "what differs: --retry (4, now 3)" in err) == (2, True), err
    assert generate(rows, "out.jsonl", *FLAGS)[0] == 5
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_an_input_column_of_the_same_name_is_carried_beside_it(generate, tmp_path):
    assert generate([{"prompt": "a", "attempts": "mine"}], "out.jsonl", *FLAGS)[0] == 0
    [row] = records(tmp_path / "out.jsonl")
    assert (row["input_attempts"], row["attempts"] >= 1) == ("mine", True)
