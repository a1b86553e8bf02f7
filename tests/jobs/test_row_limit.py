"""--max-row-bytes: a longer row is an error row in every format, and what is too long of a line is never in memory."""

import gzip
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pagecli.errors import ErrorCode, InputError
from pagecli.jobs.prompts.few_shot import read_examples
from pagecli.jobs.readers import text_input
from pagecli.jobs.readers.open_input import ReadOptions, open_input
from pagecli.profiler.workloads.workload_files import is_trace, read_csv

LIMIT = 50


def write(path: Path, content: bytes) -> str:
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    elif path.suffix == ".zst":
        content = pa.compress(content, "zstd", asbytes=True)
    path.write_bytes(content)
    return str(path)


def read(path: str, limit: int = LIMIT) -> list:
    source = open_input(path, options=ReadOptions(max_row_bytes=limit))
    try:
        return list(source)
    finally:
        source.close()


def jsonl_line(num_bytes: int) -> bytes:
    return b'{"prompt": "' + b"a" * (num_bytes - 14) + b'"}'


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz", "in.jsonl.zst"])
def test_a_line_of_the_limit_is_a_row_and_a_longer_one_an_error_row(tmp_path, name, end):
    sizes = [20, LIMIT, LIMIT + 1, LIMIT + 2, LIMIT + 3, 5000, 3 << 20, 20]
    lines = [jsonl_line(size) for size in sizes]
    rows = read(write(tmp_path / name, (end or b"\n").join(lines) + end))
    assert [row.error_code for row in rows] == [None if size <= LIMIT else ErrorCode.ROW_TOO_LARGE for size in sizes]
    assert [row.line for row in rows] == list(range(1, len(sizes) + 1))
    assert rows[6].error.endswith("more than the 50 of --max-row-bytes")


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([b"a", b"\n", b"\xff", b"{}", b"[1]"]), max_size=40), st.integers(1, 8))
def test_no_content_gives_other_rows_than_its_lines(tmp_path, pieces, limit):
    lines = [b"x", *b"".join(pieces).split(b"\n")]
    rows = read(write(tmp_path / "in.jsonl", b"\n".join(lines)), limit)
    assert [row.error_code == ErrorCode.ROW_TOO_LARGE for row in rows] == [len(line) > limit for line in lines if line]


def test_records_of_csv_are_bounded_with_their_line_breaks(tmp_path):
    records = [b"short,1", b"a" * 60 + b",2", b'"' + b"b\n" * 40 + b'",3', b"short,4"]
    rows = read(write(tmp_path / "in.csv", b"prompt,x\n" + b"\n".join(records) + b"\n"))
    assert [row.error_code for row in rows] == [None, ErrorCode.ROW_TOO_LARGE, ErrorCode.ROW_TOO_LARGE, None]
    assert rows[-1].columns == {"prompt": "short", "x": "4"}


@pytest.mark.parametrize("size", [10, 49, 50, 51, 100, 5000, 3 << 20])
def test_what_follows_a_long_record_is_read_as_it_is(tmp_path, size):
    """Quotes and line breaks of a record that is passed over are no records of their own."""
    text = ('one ""two"",\n' * (size // 13 + 1))[:size].replace('"', "").encode()
    content = b"prompt,x\n" + b'"' + text + b'",1\n' + b'"' + b'""' * (size // 2) + b'",2\nlast,3\n'
    first, second, last = read(write(tmp_path / "in.csv", content))
    if not 40 < size < 80:
        assert (first.error is None, second.error is None) == (size < LIMIT, size < LIMIT)
    assert last.columns == {"prompt": "last", "x": "3"}


def test_a_header_that_is_too_long_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="the header is no CSV: 60 bytes, more than the 50"):
        read(write(tmp_path / "in.csv", b"a" * 60))


ENDLESS = {
    "in.jsonl.gz": b'{"prompt": "a"}\n' + b"\0" * (1 << 20),
    "blank.jsonl.zst": b'{"prompt": "a"}\n' + b"\n" * (1 << 20),
    "in.csv.gz": b'prompt\na\n"quote\n' + b"text\n" * 200_000,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_content_of_unknown_size_that_has_no_row_for_long_is_not_read_to_its_end(tmp_path, monkeypatch, name):
    monkeypatch.setattr(text_input, "MAX_BYTES_WITHOUT_ROW", 1 << 18)
    path = write(tmp_path / name, ENDLESS[name])
    with pytest.raises(InputError, match=r"no whole row in [0-9,]+ bytes after row 1"):
        read(path)
    source = open_input(path, 1, ReadOptions(max_row_bytes=LIMIT))
    assert [row.columns for row in source] == [{"prompt": "a"}]


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv"])
def test_a_device_without_end_is_an_input_error(tmp_path, monkeypatch, name):
    monkeypatch.setattr(text_input, "MAX_BYTES_WITHOUT_ROW", 1 << 20)
    (tmp_path / name).symlink_to("/dev/zero")
    options = ReadOptions("csv" if name == "in.csv" else "auto", LIMIT)
    with pytest.raises(InputError, match=r"no whole row in"):
        list(open_input(str(tmp_path / name), options=options))
    monkeypatch.setattr(text_input, "MAX_BYTES_WITHOUT_ROW", 17 << 20)
    with pytest.raises(InputError, match=r"no whole row in|more than 1,000 examples or 1 MiB"):
        read_examples(str(tmp_path / name), ("prompt",))
    with pytest.raises(InputError, match="a line has more than 16,777,216 characters"):
        is_trace(tmp_path / name) if name == "in.jsonl" else read_csv(tmp_path / name)


def test_rows_of_parquet_are_measured_one_by_one(tmp_path):
    texts = ["a" * size for size in (10, 20_000, 10, 300_000)]
    table = pa.table({"prompt": texts, "kind": pa.array(["x" * 5000] * 4).dictionary_encode()})
    pq.write_table(table, tmp_path / "in.parquet")
    rows = read(str(tmp_path / "in.parquet"), 10_000)
    assert [row.error_code for row in rows] == [None, ErrorCode.ROW_TOO_LARGE] * 2
    assert rows[1].columns["prompt"] == texts[1]
    assert [row.error for row in read(str(tmp_path / "in.parquet"), 400_000)] == [None] * 4


MEASURED = """
import resource, sys
from pagecli.jobs.readers.open_input import open_input
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = list(open_input(sys.argv[1]))
print(len(rows), rows[0].error_code, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_a_gigabyte_in_a_line_takes_no_more_memory_than_the_limit(tmp_path):
    with gzip.open(tmp_path / "in.jsonl.gz", "wb", compresslevel=1) as file:
        file.write(b'{"prompt": "')
        for _ in range(600):
            file.write(b" " * (1 << 20))
        file.write(b'"}\n{"prompt": "a"}\n')
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "in.jsonl.gz")], capture_output=True, text=True, check=True
    )
    num_rows, code, mebibytes = done.stdout.split()
    assert (num_rows, code) == ("2", "row_too_large")
    assert int(mebibytes) < 300
