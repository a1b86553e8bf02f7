"""Writing rows: columns and their names, what comes back, and types that change while rows come."""

import ast
import datetime
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from writing import open_writer, read_back, result, results, write_all

from pagecli.core.outputs import TokenLogprobs
from pagecli.errors import UsageError
from pagecli.jobs.readers.open_input import open_input
from pagecli.jobs.rows.row import RESULT_COLUMNS, InputRow, carried_name, error_row
from pagecli.jobs.writers.parquet import writer as parquet_writer

FORMATS = ["out.parquet", "out.jsonl", "out.jsonl.gz", "out.jsonl.zst"]
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
json_rows = st.lists(st.dictionaries(texts, json_values, max_size=4), max_size=8)


@pytest.mark.parametrize("name", FORMATS)
def test_columns_come_in_the_documented_order(tmp_path, name):
    rows = results([{"b": 1, "id": "x", "prompt": "p"}])
    write_all(tmp_path / name, rows, token_ids=True)
    (record,) = read_back(tmp_path / name)
    assert list(record.items()) == [
        ("id", "x"),
        ("b", 1),
        ("prompt", "p"),
        ("sample", 0),
        ("text", "text 0"),
        ("token_ids", [0, 2]),
        ("finish_reason", "stop"),
        ("prompt_tokens", 3),
        ("output_tokens", 2),
        ("error", None),
        ("error_code", None),
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_token_ids_and_logprobs_only_when_asked_for(tmp_path, name):
    logprobs = [TokenLogprobs(5, -0.5, ((5, -0.5), (6, -math.inf)))]
    rows = [result(InputRow(0, {}), logprobs=logprobs), error_row(InputRow(1, {}), "bad")]
    write_all(tmp_path / name, rows, logprobs=True)
    first, second = read_back(tmp_path / name)
    top = [{"token_id": 5, "logprob": -0.5}, {"token_id": 6, "logprob": None}]
    assert first["logprobs"] == [{"token_id": 5, "logprob": -0.5, "top": top}]
    assert second["logprobs"] is None
    assert "token_ids" not in first


@pytest.mark.parametrize("name", FORMATS)
def test_one_row_that_asks_for_logprobs_gets_them(tmp_path, name, monkeypatch):
    monkeypatch.setattr(parquet_writer, "GROUP_ROWS", 1)
    logprobs = [TokenLogprobs(5, -0.5, ())]
    write_all(tmp_path / name, [result(InputRow(0, {})), result(InputRow(1, {}), logprobs=logprobs)])
    first, second = read_back(tmp_path / name)
    assert first.get("logprobs") is None
    assert second["logprobs"] == [{"token_id": 5, "logprob": -0.5, "top": []}]
    assert list(second)[-3:] == ["logprobs", "error", "error_code"]


@pytest.mark.parametrize("name", FORMATS)
def test_scores_only_when_asked_for_or_brought_by_a_row(tmp_path, name, monkeypatch):
    monkeypatch.setattr(parquet_writer, "GROUP_ROWS", 1)
    plain, scored = result(InputRow(0, {})), result(InputRow(1, {}), score=-0.25)
    write_all(tmp_path / f"all-{name}", [plain, scored], score=True)
    first, second = read_back(tmp_path / f"all-{name}")
    assert (first["score"], second["score"]) == (None, -0.25)
    assert list(second)[-3:] == ["score", "error", "error_code"]
    write_all(tmp_path / f"one-{name}", [plain, scored])
    first, second = read_back(tmp_path / f"one-{name}")
    assert (first.get("score"), second["score"]) == (None, -0.25)
    write_all(tmp_path / f"none-{name}", [plain])
    assert "score" not in read_back(tmp_path / f"none-{name}")[0]


@pytest.mark.parametrize("name", FORMATS)
def test_error_row_and_missing_and_null_ids(tmp_path, name):
    rows = [error_row(InputRow(0, {}), "line 1: bad"), result(InputRow(1, {"id": None})), result(InputRow(2, {"id": 7}))]
    write_all(tmp_path / name, rows)
    records = read_back(tmp_path / name)
    assert [record["id"] for record in records] == [0, None, 7]
    bad = records[0]
    assert (bad["text"], bad["finish_reason"], bad["prompt_tokens"], bad["output_tokens"]) == (None, "error", None, 0)
    assert bad["error"] == "line 1: bad"


def test_ids_of_different_types_become_plain_text_in_parquet(tmp_path):
    write_all(tmp_path / "out.parquet", results([{"id": "a"}, {}, {"id": 3}]))
    assert [record["id"] for record in read_back(tmp_path / "out.parquet")] == ["a", "1", "3"]


@pytest.mark.parametrize("name", FORMATS)
def test_input_columns_named_like_results_are_renamed(tmp_path, name):
    write_all(tmp_path / name, results([{"text": "mine", "input_text": "too", "error": 1}]))
    (record,) = read_back(tmp_path / name)
    assert (record["input_text"], record["input_input_text"], record["input_error"]) == ("mine", "too", 1)
    assert record["text"] == "text 0"


@given(st.lists(st.sampled_from([*RESULT_COLUMNS, "x", "input_", "input_x"]) | texts, unique=True))
def test_renaming_never_makes_two_columns_one(names):
    prefixed = [*names, *("input_" + name for name in names)]
    renamed = {carried_name(name) for name in prefixed}
    assert len(renamed) == len(set(prefixed))
    assert not renamed & set(RESULT_COLUMNS)


@pytest.mark.slow
@QUICK
@given(json_rows)
def test_any_json_comes_back_from_jsonl(tmp_path, rows):
    for name in ("out.jsonl", "out.jsonl.zst"):
        write_all(tmp_path / name, results(rows), overwrite=True)
        for index, (record, row) in enumerate(zip(read_back(tmp_path / name), rows, strict=True)):
            expected = {carried_name(key): value for key, value in row.items() if key != "id"}
            assert {key: record[key] for key in expected} == expected
            assert record["id"] == row.get("id", index)
            assert record["text"] == f"text {index}"


@pytest.mark.slow
@QUICK
@given(json_rows, st.integers(1, 4))
def test_any_json_comes_back_from_parquet_in_columns_of_one_type(tmp_path, rows, group_rows):
    """Whatever changes from row group to row group; mixed columns come back out of their JSON text."""
    warnings: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_writer, "GROUP_ROWS", group_rows)
        write_all(tmp_path / "out.parquet", results(rows), warnings, overwrite=True)
    mixed = {ast.literal_eval(warning.removeprefix("column ").split(" holds values")[0]) for warning in warnings}
    records = read_back(tmp_path / "out.parquet")
    assert [record["text"] for record in records] == [f"text {index}" for index in range(len(rows))]
    assert len(warnings) == len(set(warnings)), "one warning a column"
    for record, row in zip(records, rows, strict=True):
        for key, value in row.items():
            name = carried_name(key)
            if key == "id":
                continue
            found = record[name]
            if name in mixed:
                found = None if found is None else json.loads(found)
            assert says_the_same(found, value), (name, found, value)
    assert not list(tmp_path.glob(".*tmp")), "no temporary file is left"


def says_the_same(found, value) -> bool:
    """Equal but for what Arrow's columns add: keys of other rows as null, and 1.0 for 1 among floats."""
    if isinstance(value, dict) and isinstance(found, dict):
        return all(says_the_same(found.get(key), value.get(key)) for key in {*found, *value})
    if isinstance(value, list) and isinstance(found, list):
        return len(found) == len(value) and all(map(says_the_same, found, value))
    if isinstance(value, bool) or isinstance(found, bool):
        return found is value
    if isinstance(found, dict) and value is None:
        return all(item is None for item in found.values())
    return found == value


@pytest.mark.parametrize(
    ("values", "kind", "warned"),
    [
        ([1, 2], pa.int64(), False),
        ([1, 2.5], pa.float64(), False),
        ([2.5, None, 3], pa.float64(), False),
        ([None, None, "a"], pa.string(), False),
        ([[], [1]], pa.list_(pa.int64()), False),
        ([{"a": 1}, {"b": "x"}], pa.struct({"a": pa.int64(), "b": pa.string()}), False),
        ([1, "a"], pa.string(), True),
        ([1.5, True], pa.string(), True),
        ([2**60 + 1, 0.5], pa.string(), True),
        ([0.5, 2**60 + 1], pa.string(), True),
        ([1, 2**70], pa.string(), True),
        ([{}, {"a": 1}], pa.struct({"a": pa.int64()}), False),
        ([{}], pa.string(), True),
    ],
)
@pytest.mark.parametrize("group_rows", [1, 1000])
def test_types_widen_and_end_as_json_text_where_nothing_else_fits(tmp_path, monkeypatch, values, kind, warned, group_rows):
    if values[0] == {} and len(values) == 2 and group_rows == 1:
        kind, warned = pa.string(), True  # Parquet has no object without keys, and the first group has no other
    monkeypatch.setattr(parquet_writer, "GROUP_ROWS", group_rows)
    warnings: list[str] = []
    write_all(tmp_path / "out.parquet", results([{"x": value} for value in values]), warnings)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.field("x").type.equals(kind)
    assert len(warnings) == warned
    found = [value if not warned or value is None else json.loads(value) for value in table["x"].to_pylist()]
    assert all(map(says_the_same, found, values))


@pytest.mark.slow
def test_parquet_columns_are_carried_with_their_exact_types(tmp_path):
    schema = pa.schema(
        [
            pa.field("prompt", pa.large_string(), nullable=False, metadata={"unit": "words"}),
            pa.field("when", pa.timestamp("ns", tz="Europe/Berlin")),
            pa.field("kind", pa.dictionary(pa.int32(), pa.string())),
            pa.field("price", pa.decimal128(20, 4)),
            pa.field("deep", pa.list_(pa.struct({"a": pa.int8(), "b": pa.map_(pa.string(), pa.float32())}))),
            pa.field("text", pa.binary()),
            pa.field("id", pa.uint16()),
        ]
    )
    rows = [
        {
            "prompt": f"p{i}",
            "when": i,
            "kind": f"k{i % 300}",
            "price": None if i % 2 else 3,
            "deep": [{"a": 1, "b": [("k", 0.5)]}],
            "text": b"\xff",
            "id": i % 7,
        }
        for i in range(2500)
    ]
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=400)
    source = open_input(str(tmp_path / "in.parquet"))
    write_all(tmp_path / "out.parquet", [result(row) for row in source], schema=source.schema)
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.column_names[:7] == ["id", "prompt", "when", "kind", "price", "deep", "input_text"]
    for name in schema.names:
        new_name = carried_name(name) if name != "id" else "id"
        assert written.schema.field(new_name).type == pq.read_table(tmp_path / "in.parquet").schema.field(name).type
        assert written[new_name].to_pylist() == table[name].to_pylist() if name != "when" else True
    assert written["when"].cast(pa.int64()).equals(table["when"].cast(pa.int64()))
    assert not written.schema.field("prompt").nullable


def test_parquet_rows_in_any_order_and_to_jsonl(tmp_path):
    table = pa.table({"id": list(range(600)), "d": [datetime.date(2024, 1, 1)] * 600, "b": [b"\x00"] * 600})
    pq.write_table(table, tmp_path / "in.parquet")
    source = open_input(str(tmp_path / "in.parquet"))
    rows = [result(row) for row in source][::-1]
    write_all(tmp_path / "out.parquet", rows, schema=source.schema)
    assert [record["id"] for record in read_back(tmp_path / "out.parquet")] == list(range(600))[::-1]
    write_all(tmp_path / "out.jsonl", rows, schema=source.schema)
    record = read_back(tmp_path / "out.jsonl")[0]
    assert (record["id"], record["d"], record["b"]) == (599, "2024-01-01", "AA==")


def test_no_rows_make_an_empty_file(tmp_path):
    for name in FORMATS:
        write_all(tmp_path / name, [])
        assert read_back(tmp_path / name) == []
    assert pq.read_schema(tmp_path / "out.parquet").names == [
        "id",
        "sample",
        "text",
        "finish_reason",
        "prompt_tokens",
        "output_tokens",
        "error",
        "error_code",
    ]


def test_unknown_output_format_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="unknown output format"):
        open_writer(tmp_path / "out.xlsx")
