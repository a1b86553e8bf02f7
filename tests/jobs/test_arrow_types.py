"""Parquet columns of every type with their least and greatest values, null and nested, to any output, journal or not."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_engine import FakeEngine, FakeTokenizer
from whole_jobs import run_job
from writing import read_back

from pagecli.core.sampling_params import SamplingParams
from pagecli.jobs.journal.journal import Journal, JournalContents, row_digest
from pagecli.jobs.readers.open_input import open_input
from pagecli.jobs.readers.parquet_reader import as_schema, plain_schema
from pagecli.jobs.rows.arrow_values import ArrowColumns
from pagecli.jobs.rows.row import InputRow, ResultColumns
from pagecli.jobs.rows.row_preparer import PreparedRow, PromptOptions, RowPreparer
from pagecli.jobs.run.job_loop import JobRun, LoopLimits
from pagecli.jobs.shards.merge import merge_outputs
from pagecli.jobs.storage.job_directory import JobDirectory
from pagecli.jobs.writers.open_output import open_output

INT32, INT64 = (-(2**31), 2**31 - 1), (-(2**63), 2**63 - 1)
DAY_NS = 86_400 * 10**9


def of(kind: pa.DataType, values: list) -> pa.Array:
    """The values and a null; of dates and times the integers that they are kept as."""
    if pa.types.is_temporal(kind):
        whole = pa.int32() if kind.bit_width == 32 else pa.int64()
        return pa.array([*values, None], whole).view(kind)
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array([*values, None], kind.storage_type))
    return pa.array([*values, None], kind)


def decimals(kind: pa.DataType) -> pa.Array:
    digits = "9" * (kind.precision - kind.scale) + "." + "9" * kind.scale
    return pa.array([f"-{digits}", digits, None], pa.string()).cast(kind)


LEAVES = [
    pa.nulls(3),
    of(pa.bool_(), [False, True]),
    *(of(pa.from_numpy_dtype(f"int{n}"), [-(2 ** (n - 1)), 2 ** (n - 1) - 1]) for n in (8, 16, 32, 64)),
    *(of(pa.from_numpy_dtype(f"uint{n}"), [0, 2**n - 1]) for n in (8, 16, 32, 64)),
    of(pa.float16(), [-65504.0, 65504.0]),
    of(pa.float32(), [-3.4028234663852886e38, 1e-45]),
    of(pa.float64(), [-1.7976931348623157e308, 5e-324]),
    *map(
        decimals, (pa.decimal32(9, 2), pa.decimal64(18, 9), pa.decimal128(38, 0), pa.decimal128(38, 38), pa.decimal256(76, 40))
    ),
    *(of(kind, ["", "\U0010ffff\x00"]) for kind in (pa.string(), pa.large_string(), pa.string_view())),
    *(of(kind, [b"", b"\xff\x00"]) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
    of(pa.binary(2), [b"\x00\x00", b"\xff\xff"]),
    of(pa.date32(), [*INT32]),
    of(pa.date32(), [-(10**6), 0]),
    of(pa.time32("s"), [0, 86_399]),
    of(pa.time32("ms"), [INT32[0], INT32[1]]),
    *(of(pa.time64(unit), [*INT64]) for unit in ("us", "ns")),
    of(pa.time64("ns"), [0, DAY_NS - 1]),
    of(pa.timestamp("s"), [value // 1000 for value in INT64]),
    *(of(pa.timestamp(unit), [*INT64]) for unit in ("ms", "us", "ns")),
    *(of(pa.timestamp("ns", zone), [0, 1]) for zone in ("UTC", "Europe/Berlin", "+05:30", "Mars/Base")),
    of(pa.timestamp("us", "America/New_York"), [*INT64]),
    *(of(pa.duration(unit), [*INT64]) for unit in ("s", "ms", "us", "ns")),
    of(pa.duration("ns"), [1, DAY_NS]),
    of(pa.uuid(), [b"\x00" * 16, b"\xff" * 16]),
    of(pa.json_(), ["{}", "[1]"]),
    of(pa.bool8(), [0, 1]),
]
OFFSETS = pa.array([0, 1, 2, 3], pa.int32())
NESTED = {
    "plain": lambda leaf: leaf,
    "list": lambda leaf: pa.ListArray.from_arrays(OFFSETS, leaf),
    "large_list": lambda leaf: pa.LargeListArray.from_arrays(OFFSETS.cast(pa.int64()), leaf),
    "fixed_size_list": lambda leaf: pa.FixedSizeListArray.from_arrays(leaf, 1),
    "list_view": lambda leaf: pa.ListViewArray.from_arrays(OFFSETS[:3], pa.array([1, 1, 1], pa.int32()), leaf),
    "struct": lambda leaf: pa.StructArray.from_arrays([leaf], names=["a"]),
    "map": lambda leaf: pa.MapArray.from_arrays(OFFSETS, pa.array(["x", "y", "z"]), leaf),
    "list_of_struct": lambda leaf: NESTED["list"](NESTED["struct"](leaf)),
    "dictionary": lambda leaf: leaf.dictionary_encode() if not isinstance(leaf, pa.ExtensionArray) else leaf,
}


def all_columns(wrapping: str) -> pa.Table:
    """A column of every type that Parquet can have."""
    columns = {"prompt": pa.array(["abc", "de", "f"])}
    for number, leaf in enumerate(LEAVES):
        try:
            one = pa.table({f"{number} {leaf.type}": NESTED[wrapping](leaf)})
            pq.write_table(one, pa.BufferOutputStream())
        except pa.ArrowException:
            continue
        columns[one.column_names[0]] = one[0]
    assert len(columns) > len(LEAVES) / 3
    return pa.table(columns)


@pytest.fixture(params=NESTED)
def table(request, tmp_path):
    pq.write_table(all_columns(request.param), tmp_path / "in.parquet")
    found = pq.read_table(tmp_path / "in.parquet").combine_chunks()
    schema = plain_schema(found.schema)
    return pa.Table.from_batches([as_schema(batch, schema, {}) for batch in found.to_batches()])


def run_with_journal(source: Path, output: Path) -> int:
    """Runs `source` to `output` with a journal; the number of rows taken over from the run before."""
    rows, directory = open_input(str(source)), JobDirectory(output)
    journal = Journal(directory, {}, JournalContents(directory))
    preparer = RowPreparer(FakeTokenizer(), 256, PromptOptions(), SamplingParams(max_tokens=20))

    def prepare(row: InputRow) -> PreparedRow:
        finished = journal.take(row)
        return preparer.prepare(row) if finished is None else PreparedRow(row, [], SamplingParams(), 0, finished=finished)

    writer = open_output(str(output), True, ResultColumns(), rows.schema, lambda text: None)
    run = JobRun(FakeEngine(), prepare, writer, LoopLimits(8, 16, 8), journal=journal)
    run.run(rows)
    writer.finish()
    journal.close()
    directory.close()
    return run.result.num_taken_over


def test_every_type_comes_back_from_parquet_as_it_was(table, tmp_path):
    run_job(tmp_path / "in.parquet", tmp_path / "out.parquet", sample="3")
    assert pq.read_table(tmp_path / "out.parquet").select(table.column_names).equals(table)


def test_every_type_is_strict_json_in_one_form_for_a_whole_column(table, tmp_path):
    run_job(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text().split("\n")[:-1]
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    for name in table.column_names[1:]:
        found = [record[name] for record in records]
        if pa.types.is_map(table.schema.field(name).type):
            assert all(pair[0] in "xyz" for pairs in found for pair in pairs)
            found = [pair[1] for pairs in found for pair in pairs]
        leaves = [leaf for value in found for leaf in leaves_of(value)]
        assert len(leaves) == (0 if "null" in name else 2), (name, found)
        assert len({type(leaf) for leaf in leaves}) <= 1, (name, found)
        if "time" in name:
            assert len({len(digits) for leaf in leaves for digits in re.findall(r"\.(\d+)", leaf)}) <= 1, (name, found)


def leaves_of(value) -> list:
    """What is in lists and objects, without nulls."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves_of(item)]
    return [] if value is None else [value]


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl"])
def test_every_type_is_recognized_when_a_job_goes_on(table, tmp_path, name):
    assert run_with_journal(tmp_path / "in.parquet", tmp_path / name) == 0
    before = read_back(tmp_path / name) if name.endswith("jsonl") else pq.read_table(tmp_path / name)
    assert run_with_journal(tmp_path / "in.parquet", tmp_path / name) == 3
    after = read_back(tmp_path / name) if name.endswith("jsonl") else pq.read_table(tmp_path / name)
    assert before == after


def test_shards_of_every_type_are_merged(table, tmp_path):
    parts = [tmp_path / f"part-{number}.parquet" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        run_job(tmp_path / "in.parquet", part, shard=f"{number}/2")
    merge_outputs(list(map(str, parts)), str(tmp_path / "out.parquet"), overwrite=False)
    assert pq.read_table(tmp_path / "out.parquet").select(table.column_names).equals(table)


def digests(batch: pa.RecordBatch) -> list[bytes]:
    return [row_digest(InputRow(0, ArrowColumns(batch, offset))) for offset in range(batch.num_rows)]


def test_a_digest_is_of_the_row_whatever_batch_it_is_in(table):
    whole = table.combine_chunks().to_batches()[0]
    assert len(set(digests(whole))) == 3
    assert digests(whole.slice(1, 1)) == digests(whole)[1:2]
    twice = pa.concat_tables([table.slice(1), table]).combine_chunks().to_batches()[0]
    assert digests(twice)[2:] == digests(whole)


@pytest.mark.parametrize("column", range(len(LEAVES)))
def test_a_digest_tells_every_value_from_every_other(column):
    for wrap in NESTED.values():
        try:
            batch = pa.record_batch({"x": wrap(LEAVES[column])})
        except pa.ArrowException:
            continue
        num_different = 1 if pa.types.is_null(LEAVES[column].type) and wrap is not NESTED["map"] else 3
        assert len(set(digests(batch))) == num_different


def test_dates_and_times_are_iso_8601_with_the_digits_of_their_unit(tmp_path):
    table = pa.table(
        {
            "prompt": ["a"],
            "day": of(pa.date32(), [2**31 - 1])[:1],
            "early": of(pa.date32(), [-(10**6)])[:1],
            "s": of(pa.timestamp("s"), [0])[:1],
            "ns": of(pa.timestamp("ns", "+05:30"), [1])[:1],
            "time": of(pa.time64("us"), [1])[:1],
            "duration": of(pa.duration("ns"), [1])[:1],
            "decimal": pa.array(["0.00"]).cast(pa.decimal128(9, 2)),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    run_job(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    (row,) = read_back(tmp_path / "out.jsonl")
    assert row["day"] == "+5881580-07-11"
    assert row["early"] == "-0768-02-04"
    assert row["s"] == "1970-01-01T00:00:00.000"  # Parquet has no seconds
    assert row["ns"] == "1970-01-01T05:30:00.000000001+05:30"
    assert (row["time"], row["duration"], row["decimal"]) == ("00:00:00.000001", 1e-09, "0.00")


@pytest.mark.parametrize("wrapping", [name for name in NESTED if name != "list_view"])
def test_text_that_is_not_utf_8_is_replaced_in_an_error_row(tmp_path, wrapping):
    content = pa.array([b"good", b"bad \xff", None, b"fine"])
    texts = pa.Array.from_buffers(pa.string(), 4, content.buffers(), content.null_count)
    offsets = pa.array([0, 1, 2, 3, 4], pa.int32())
    values = {
        "list": lambda: pa.ListArray.from_arrays(offsets, texts),
        "large_list": lambda: pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), texts),
        "map": lambda: pa.MapArray.from_arrays(offsets, pa.array(["x"] * 4), texts),
        "list_of_struct": lambda: pa.ListArray.from_arrays(offsets, NESTED["struct"](texts)),
        "dictionary": lambda: pa.DictionaryArray.from_arrays(
            pa.array([0, 1, None, 2], pa.int32()), texts.filter(texts.is_valid())
        ),
    }.get(wrapping, lambda: NESTED[wrapping](texts))()
    pq.write_table(pa.table({"prompt": ["a"] * 4, "x": values}), tmp_path / "in.parquet")
    for name in ("out.parquet", "out.jsonl"):
        run_job(tmp_path / "in.parquet", tmp_path / name)
        rows = read_back(tmp_path / name)
        assert [row["error"] for row in rows] == [None, "row 1: invalid UTF-8 in column x", None, None]
        assert rows[1]["error_code"] == "invalid_encoding"
        assert "bad \ufffd" in str(rows[1]["x"])


@pytest.mark.parametrize("wrapping", [name for name in NESTED if name != "dictionary"])
def test_dictionaries_of_every_row_group_are_read_wherever_they_are(tmp_path, wrapping):
    words = pa.array([f"word {number}" for number in range(9)]).dictionary_encode()
    columns = [NESTED[wrapping](words.slice(start, 3)) for start in (0, 3, 6)]
    table = pa.concat_tables([pa.table({"prompt": ["a"] * 3, "x": column}) for column in columns])
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=2)
    for name in ("out.parquet", "out.jsonl"):
        run_job(tmp_path / "in.parquet", tmp_path / name)
        assert [f"word {number}" in str(row["x"]) for number, row in enumerate(read_back(tmp_path / name))] == [True] * 9
