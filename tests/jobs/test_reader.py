"""Reading rows: every format, every kind of bad line, and inputs that are not what they say."""

import gzip
import json
import math
import os
import random
import threading
from collections import deque
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.errors import InputError
from pagecli.jobs.readers.jsonl_reader import parse_line
from pagecli.jobs.readers.open_input import open_input

LINES = ['{"prompt": "a"}', "", '{"prompt": "b", "n": 123456789012345678901234567890}', "  ", '{"prompt": "ü"}']


def write_bytes(path: Path, content: bytes) -> str:
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    elif path.suffix == ".zst":
        content = pa.compress(content, "zstd", asbytes=True)
    path.write_bytes(content)
    return str(path)


def read(path: str, limit: int | None = None) -> list:
    source = open_input(path, limit)
    try:
        return list(source)
    finally:
        source.close()


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz", "in.jsonl.zst", "in.json", "in.ndjson"])
def test_every_jsonl_format_yields_rows_with_index_and_line(tmp_path, name):
    rows = read(write_bytes(tmp_path / name, "\n".join(LINES).encode()))
    assert [row.columns["prompt"] for row in rows] == ["a", "b", "ü"]
    assert [(row.index, row.line) for row in rows] == [(0, 1), (1, 3), (2, 5)]
    assert rows[1].columns["n"] == 123456789012345678901234567890


def test_byte_order_mark_and_windows_line_ends_are_no_part_of_the_data(tmp_path):
    path = write_bytes(tmp_path / "in.jsonl", b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n{"prompt": "b"}\r\n')
    assert [row.columns for row in read(path)] == [{"prompt": "a"}, {"prompt": "b"}]


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv"])
def test_a_byte_order_mark_before_any_row_is_no_part_of_it(tmp_path, name):
    """Files put together by cat have one in the middle; inside of quotes it is data."""
    if name == "in.csv":
        content = '\ufeffprompt,x\na,1\n\ufeffb,2\n"c\n\ufeffd",3\n'
        expected = [{"prompt": "a", "x": "1"}, {"prompt": "b", "x": "2"}, {"prompt": "c\n\ufeffd", "x": "3"}]
    else:
        content = '\ufeff{"prompt": "a"}\n\ufeff{"prompt": "b"}\n{"prompt": "\ufeff"}\n'
        expected = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "\ufeff"}]
    path = write_bytes(tmp_path / name, content.encode())
    assert [row.columns for row in read(path)] == expected


@pytest.mark.parametrize(
    ("content", "says", "hint"),
    [
        (gzip.compress(b"{}", mtime=0), "is gzip-compressed, not JSON Lines", "gzip -dc"),
        (pa.compress(b"{}", "zstd", asbytes=True), "is zstd-compressed", "zstd -dc"),
        (b"BZh91AY", "is bzip2-compressed", "bzip2 -dc"),
        (b"\xfd7zXZ\x00\x00", "is xz-compressed", "xz -dc"),
        (b"PK\x03\x04", "is a ZIP archive", "unzip -p"),
        (b"PAR1", "is a Parquet file", "name the file"),
        ('{"prompt": "a"}'.encode("utf-16"), "is UTF-16 text", "iconv"),
    ],
)
def test_a_pipe_of_another_format_is_one_line_with_what_to_do(tmp_path, content, says, hint):
    os.mkfifo(tmp_path / "pipe")
    keep_open = os.open(tmp_path / "pipe", os.O_RDWR)
    os.write(keep_open, content)
    source = open_input(str(tmp_path / "pipe"))
    os.close(keep_open)
    with pytest.raises(InputError, match=says) as caught:
        list(source)
    assert hint in caught.value.hint
    source.close()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"prompt": "a"', "line 7: invalid JSON: Expecting ',' delimiter at column 15"),
        (b'["a"]', "line 7: a JSON array, not an object"),
        (b"3", "line 7: a JSON number, not an object"),
        (b"null", "line 7: a JSON null, not an object"),
        (b'{"prompt": "\xff"}', "line 7: invalid UTF-8 at byte 13"),
        (b'{"a": ' + b"9" * 5000 + b"}", "line 7: invalid JSON: Exceeds the limit"),
        (b"[" * 100_000, "line 7: nested more than 100 levels deep"),
    ],
)
def test_bad_line_is_a_row_that_says_what_is_wrong(line, says):
    row = parse_line(line, 3, 7)
    assert row.index == 3
    assert row.columns == {}
    assert row.error.startswith(says)


def test_bad_lines_do_not_end_the_reading(tmp_path):
    rows = read(write_bytes(tmp_path / "in.jsonl", b'{"prompt": "a"}\n{oops\n\xff\xfe\n{"prompt": "b"}\n'))
    assert [row.error is None for row in rows] == [True, False, False, True]


def test_half_a_surrogate_pair_is_replaced_in_an_error_row():
    row = parse_line(b'{"prompt": "x\\ud83d", "id": 4}', 0, 1)
    assert "surrogate" in row.error
    assert row.columns == {"prompt": "x?", "id": 4}
    assert parse_line(rb'{"prompt": "\ud83d\ude00"}', 0, 1).columns == {"prompt": "😀"}


def test_nan_and_infinity_are_read_as_python_writes_them():
    columns = parse_line(b'{"a": NaN, "b": -Infinity}', 0, 1).columns
    assert math.isnan(columns["a"])
    assert columns["b"] == -math.inf


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_no_line_of_bytes_raises(line):
    row = parse_line(line, 0, 1)
    json.dumps(dict(row.columns), ensure_ascii=False).encode("utf-8")  # whatever is carried can be written


def test_parquet_rows_keep_their_types(tmp_path):
    table = pa.table({"id": [1, 2, 3], "prompt": ["a", None, "c"], "nested": [{"x": [1]}, {"x": []}, None]})
    pq.write_table(table, tmp_path / "in.parquet")
    rows = read(str(tmp_path / "in.parquet"))
    assert [dict(row.columns) for row in rows] == table.to_pylist()
    assert [row.index for row in rows] == [0, 1, 2]
    assert "missing" not in rows[0].columns


@pytest.mark.parametrize("name", ["in.jsonl", "in.parquet"])
def test_limit_reads_only_the_first_rows(tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.table({"prompt": [str(i) for i in range(1000)]}), path)
    else:
        path.write_text("\n".join(json.dumps({"prompt": str(i)}) for i in range(1000)))
    assert [row.columns["prompt"] for row in read(str(path), limit=300)] == [str(i) for i in range(300)]


@pytest.mark.slow
def test_estimate_is_exact_for_parquet_and_close_for_jsonl(tmp_path):
    pq.write_table(pa.table({"prompt": ["a"] * 700}), tmp_path / "in.parquet")
    source = open_input(str(tmp_path / "in.parquet"))
    assert (source.estimate().num_rows, source.estimate().exact) == (700, True)
    source.close()

    (tmp_path / "in.jsonl").write_text('{"prompt": "hello hello"}\n' * 100_000)
    source = open_input(str(tmp_path / "in.jsonl"))
    assert source.estimate() is None
    rows = iter(source)
    for _ in range(50_000):
        next(rows)
    assert source.estimate().num_rows == pytest.approx(100_000, rel=0.3)
    assert not source.estimate().exact
    list(rows)
    assert (source.estimate().num_rows, source.estimate().exact) == (100_000, True)
    source.close()
    assert source.estimate().num_rows == 100_000


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz", "in.jsonl.zst", "in.csv", "in.csv.gz", "files/"])
@pytest.mark.parametrize("num_rows", [10, 300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_estimates_go_by_the_bytes_parsed_not_by_those_that_buffers_took(tmp_path, name, num_rows):
    """Rows of one length, of text that a compressor halves: after any of them the whole is known well."""
    draw = random.Random(0)
    texts = [f"{i:06} {draw.randbytes(60).hex()}" for i in range(num_rows)]
    header = "a_long_name_of_a_column_that_is_not_looked_at,prompt\n" if ".csv" in name else ""
    content = (header + "".join(f"x,{t}\n" if header else json.dumps({"prompt": t}) + "\n" for t in texts)).encode()
    path = tmp_path / name
    if name == "files/":  # of different sizes
        path.mkdir()
        lines = content.splitlines(keepends=True)
        (path / "a.jsonl").write_bytes(b"".join(lines[: num_rows // 10]))
        (path / "b.jsonl").write_bytes(b"".join(lines[num_rows // 10 :]))
    else:
        codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
        with pa.CompressedOutputStream(str(path), codec) if codec else path.open("wb") as file:
            file.write(content)
    source = open_input(str(path))
    seen = []
    for _ in source:
        if (estimate := source.estimate()) is not None and not estimate.exact:
            seen.append(estimate.num_rows)
    assert len(seen) >= num_rows - 1
    tolerance = 0.35 if path.suffix in (".gz", ".zst") else 0.02
    assert max(abs(rows / num_rows - 1) for rows in seen) < tolerance
    assert (source.estimate().num_rows, source.estimate().exact) == (num_rows, True)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.jsonl", None, "no such file"),
        ("missing.csv", None, "no such file"),
        ("in.txt", b"prompt\na\n", "unknown input format"),
        ("in.parquet", b"not parquet", "not a readable Parquet file"),
        ("in.parquet", b"", "not a readable Parquet file"),
        ("in.jsonl", b"PAR1....", "is a Parquet file"),
        ("in.jsonl", gzip.compress(b"{}", mtime=0), "is gzip-compressed"),
        ("in.jsonl", b"BZh91AY", "is bzip2-compressed"),
        ("in.csv", b"PK\x03\x04", "is a ZIP archive"),
        ("in.jsonl", '{"prompt": "a"}'.encode("utf-16"), "UTF-16"),
        ("in.json", b'[\n {"prompt": "a"}]', "one JSON value"),
        ("in.json", b'{\n "prompt": "a"}', "one JSON value"),
    ],
)
def test_unreadable_input_is_one_line_before_anything_is_read(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        open_input(str(tmp_path / name))
    assert "\n" not in caught.value.message


def test_directory_and_unreadable_permission_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="no file found"):
        open_input(str(tmp_path))
    (tmp_path / "in.jsonl").write_text("{}")
    (tmp_path / "in.jsonl").chmod(0)
    if not os.access(tmp_path / "in.jsonl", os.R_OK):  # root reads everything
        with pytest.raises(InputError, match="permission denied"):
            open_input(str(tmp_path / "in.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_truncated_compressed_input_fails_after_the_rows_that_are_whole(tmp_path, suffix):
    path = tmp_path / f"in.jsonl{suffix}"
    text = "".join(json.dumps({"prompt": os.urandom(50).hex()}) + "\n" for _ in range(20_000))
    write_bytes(path, text.encode())
    path.write_bytes(path.read_bytes()[:-1000])
    source = open_input(str(path))
    rows = []
    with pytest.raises(InputError, match="cannot be read after line") as caught:
        deque(map(rows.append, source))
    assert len(rows) > 10_000
    assert "zstd -t" in caught.value.hint
    source.close()


def test_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(InputError, match="more than one column named 'x'"):
        open_input(str(tmp_path / "in.parquet"))


def test_a_read_waiting_for_a_pipe_can_be_interrupted(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    keep_open = os.open(tmp_path / "pipe", os.O_RDWR)
    source = open_input(str(tmp_path / "pipe"))
    rows = []
    reader = threading.Thread(target=lambda: rows.extend(source))
    reader.start()
    os.write(keep_open, b'{"prompt": "a"}\n')
    source.interrupt()
    reader.join(timeout=10)
    assert not reader.is_alive()
    source.close()
    os.close(keep_open)
