"""CSV and database outputs on the command line: a job that ends early resumes into the file that one run writes."""

import csv
import datetime
import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS = [{"id": f"r{i}", "prompt": f"the quick, brown fox\n{i}", "tags": ["a", str(i)]} for i in range(7)]
ROWS.insert(4, {"id": "bad", "prompt": "x", "max_tokens": 0})
FLAGS = ("--temperature", "1", "--quiet", "--token-ids")


def rows_of(path) -> list[dict]:
    if path.suffix == ".csv":
        return list(csv.DictReader(path.open(newline="")))
    with sqlite3.connect(path) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM rows")]


@pytest.mark.parametrize("suffix", ["csv", "sqlite"])
def test_a_job_that_ended_resumes_into_the_same_rows(generate, tmp_path, suffix):
    assert generate(ROWS, f"whole.{suffix}", *FLAGS)[0] == 5
    assert generate(ROWS, f"out.{suffix}", *FLAGS, "--on-error", "stop", "--max-num-seqs", "1")[0] == 5
    assert not (tmp_path / f"out.{suffix}").exists()
    assert generate(ROWS, f"out.{suffix}", *FLAGS)[0] == 5
    found = rows_of(tmp_path / f"out.{suffix}")
    assert found == rows_of(tmp_path / f"whole.{suffix}")
    assert [row["error_code"] or "" for row in found] == [""] * 4 + ["invalid_parameter"] + [""] * 3
    if suffix == "csv":
        assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("suffix", ["csv", "sqlite"])
def test_columns_of_parquet_have_one_form_for_a_column(generate, tmp_path, suffix):
    when = datetime.datetime(2026, 1, 2, 3, 4, 5)
    table = pa.table({"prompt": ["a", "b"], "when": [when, None], "raw": [b"\x00\xff", None], "nested": [{"x": [1]}, None]})
    pq.write_table(table, tmp_path / "in.parquet")
    assert generate("in.parquet", f"out.{suffix}", *FLAGS)[0] == 0
    first, second = rows_of(tmp_path / f"out.{suffix}")
    raw, nothing = ("AP8=", "") if suffix == "csv" else (b"\x00\xff", None)
    assert (first["when"][:19], first["raw"], first["nested"]) == ("2026-01-02T03:04:05", raw, '{"x": [1]}')
    assert (second["when"], second["raw"], second["nested"]) == (nothing, nothing, nothing)


def test_what_a_pipe_and_parts_cannot_take_is_said_first(generate, tmp_path):
    code, _, err = generate(ROWS, "out.sqlite", "--shard", "1/2")
    assert (code, "--shard does not go with .sqlite output" in err) == (2, True)
    (tmp_path / "pipe.csv").symlink_to("/dev/null")
    code, _, err = generate(ROWS, "pipe.csv")
    assert (code, "takes rows as JSON Lines" in err) == (2, True)
