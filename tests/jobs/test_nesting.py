"""Values nested deep, and objects of many keys: what the reader takes, every output, the digest and the journal take."""

import json
import math

import pyarrow.parquet as pq
import pytest
from test_arrow_types import run_with_journal
from whole_jobs import run_job
from writing import read_back, results, write_all

from pagecli.jobs.readers.jsonl_reader import parse_line
from pagecli.jobs.rows.row import MAX_DEPTH, OTHER_COLUMNS
from pagecli.jobs.writers.parquet.columns import MAX_LEAVES

NESTS = {"list": ("[", "]"), "object": ('{"a":', "}"), "both": ('[{"a":', "}]")}
DEPTHS = [1, 20, 31, 32, 33, 49, 50, 97, 98, 99, 100, 101, 500, 900, *range(960, 1010, 7), 5000, 100_000]


def nested(kind: str, depth: int) -> str:
    (opened, closed), times = NESTS[kind], depth // (2 if kind == "both" else 1)
    return opened * times + "1" + closed * times


@pytest.mark.parametrize("output", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("kind", NESTS)
def test_what_is_read_is_written_and_taken_over_and_what_is_not_is_an_error_row(tmp_path, kind, output):
    lines = [f'{{"prompt": "a", "x": {nested(kind, depth)}}}\n' for depth in DEPTHS]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    assert run_with_journal(tmp_path / "in.jsonl", tmp_path / output) == 0
    assert run_with_journal(tmp_path / "in.jsonl", tmp_path / output) == len(DEPTHS)
    for depth, row in zip(DEPTHS, read_back(tmp_path / output), strict=True):
        if 1 + depth // (2 if kind == "both" else 1) * (2 if kind == "both" else 1) <= MAX_DEPTH:
            assert (row["error"], row["text"]) == (None, "a")
            found = json.loads(row["x"]) if isinstance(row["x"], str) else row["x"]
            assert found == json.loads(nested(kind, depth))
        else:
            assert (row["error_code"], row["text"]) == ("row_too_large", None)
            assert row["error"].endswith("nested more than 100 levels deep")


def test_a_row_of_many_shallow_lists_is_not_deep():
    row = parse_line(json.dumps({"prompt": "a", "x": [[]] * 1000}).encode(), 0, 1)
    assert row.error is None


@pytest.mark.parametrize("depth", [32, 33, 60])
def test_a_parquet_column_is_nested_or_json_text(tmp_path, depth):
    write_all(tmp_path / "out.parquet", results([{"x": json.loads(nested("list", depth))}]), warnings := [])
    (row,) = read_back(tmp_path / "out.parquet")
    assert (row["x"] if depth <= 32 else json.loads(row["x"])) == json.loads(nested("list", depth))
    assert len(warnings) == (depth > 32)


@pytest.mark.slow
def test_objects_with_keys_of_their_own_are_json_text_beyond_a_bound(tmp_path):
    rows = [{"x": {f"k{number}": number}, "y": [{"z": {f"k{number}": 1}}], "few": {"a": 1}} for number in range(3000)]
    write_all(tmp_path / "out.parquet", results(rows), warnings := [])
    records = read_back(tmp_path / "out.parquet")
    assert [without_nulls(json.loads(record["x"])) for record in records] == [row["x"] for row in rows]
    assert [without_nulls(json.loads(record["y"])[0]["z"]) for record in records] == [row["y"][0]["z"] for row in rows]
    assert records[0]["few"] == {"a": 1}
    assert len(warnings) == 2
    assert pq.read_metadata(tmp_path / "out.parquet").num_columns < 20


def without_nulls(value: dict) -> dict:
    return {name: item for name, item in value.items() if item is not None}


@pytest.mark.slow
def test_columns_beyond_a_bound_go_into_one(tmp_path):
    rows = [{"prompt": "a", f"c{number}": number} for number in range(2500)]
    write_all(tmp_path / "out.parquet", results(rows), warnings := [])
    records = read_back(tmp_path / "out.parquet")
    for number, record in enumerate(records):
        others = json.loads(record[OTHER_COLUMNS]) if record[OTHER_COLUMNS] else {}
        assert {**record, **others}[f"c{number}"] == number
    assert len(warnings) == 1
    assert pq.read_metadata(tmp_path / "out.parquet").num_columns < MAX_LEAVES + 20


@pytest.mark.slow
def test_a_file_whose_rows_all_have_many_columns_keeps_them(tmp_path):
    rows = [{f"c{number}": number for number in range(1500)}] * 2
    write_all(tmp_path / "out.parquet", results(rows), warnings := [])
    assert read_back(tmp_path / "out.parquet")[1]["c1499"] == 1499
    assert not warnings


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_numbers_that_are_not_finite_are_null_in_json(tmp_path, name):
    values = ["NaN", "[1, -Infinity]", '{"a": [Infinity]}', "1e999", "1.5", '"NaN"']
    (tmp_path / "in.jsonl").write_text("".join(f'{{"prompt": "a", "x": {value}, "id": {value}}}\n' for value in values))
    run_job(tmp_path / "in.jsonl", tmp_path / name)
    if name == "out.jsonl":
        lines = (tmp_path / name).read_text().splitlines()
        found = [json.loads(line, parse_constant=pytest.fail)["x"] for line in lines]
    else:
        found = [json.loads(row["x"], parse_constant=pytest.fail) for row in read_back(tmp_path / name)]
    assert found == [None, [1, None], {"a": [None]}, None, 1.5, "NaN"]


def test_a_parquet_column_of_numbers_keeps_those_that_are_not_finite(tmp_path):
    write_all(tmp_path / "out.parquet", results([{"x": math.inf}, {"x": 1.0}]))
    assert [row["x"] for row in read_back(tmp_path / "out.parquet")] == [math.inf, 1.0]


def test_a_file_that_cannot_be_read_back_is_not_published(tmp_path, monkeypatch):
    from pagecli.errors import InputError
    from pagecli.jobs.writers.parquet import json_inference

    monkeypatch.setattr(json_inference, "MAX_LEVELS", 80)
    with pytest.raises(InputError, match="cannot be read back"):
        write_all(tmp_path / "out.parquet", results([{"x": json.loads(nested("list", 60))}]))
    assert not (tmp_path / "out.parquet").exists()
