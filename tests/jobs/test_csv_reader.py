"""CSV and TSV input: quoting, encodings, broken records, and cells that mean more than text."""

import csv
import gzip
import io

import pytest
from fake_engine import FakeTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from whole_jobs import run_job
from writing import read_back

from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import InputError
from pagecli.jobs.readers.open_input import open_input
from pagecli.jobs.rows.row_preparer import PromptOptions, RowPreparer


def read(path, **settings) -> list:
    source = open_input(str(path), **settings)
    try:
        return list(source)
    finally:
        source.close()


def test_records_with_quotes_line_breaks_and_a_byte_order_mark(tmp_path):
    text = '\ufeffid,prompt,note\r\n007,"a ""b"", c","line 1\nline 2"\r\n\r\n8,ü,\r\n'
    (tmp_path / "in.csv").write_bytes(text.encode())
    rows = read(tmp_path / "in.csv")
    assert [row.columns for row in rows] == [
        {"id": "007", "prompt": 'a "b", c', "note": "line 1\nline 2"},
        {"id": "8", "prompt": "ü", "note": ""},
    ]
    assert [(row.index, row.line) for row in rows] == [(0, 2), (1, 5)]
    assert [row.columns["id"] for row in read(tmp_path / "in.csv", limit=1)] == ["007"]


@pytest.mark.parametrize("name", ["in.tsv", "in.csv.gz", "in.tsv.gz"])
def test_tabs_and_compression_by_name(tmp_path, name):
    content = b"prompt,x\na,1\n".replace(b",", b"\t" if ".tsv" in name else b",")
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (row,) = read(tmp_path / name)
    assert row.columns == {"prompt": "a", "x": "1"}


def test_cells_that_pagecli_looks_at_are_json_and_empty_ones_null(tmp_path):
    header = ["prompt", "messages", "temperature", "max_tokens", "stop", "seed", "zip"]
    records = [
        ["a", "", "0.5", "3", "123", "", "01234"],
        ["", '[{"role": "user", "content": "hi"}]', "", "", '["x", "y"]', "7", ""],
    ]
    with open(tmp_path / "in.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *records])
    first, second = read(tmp_path / "in.csv")
    preparer = RowPreparer(FakeTokenizer(True), 256, PromptOptions(), SamplingParams())
    assert preparer.prepare(first).params == SamplingParams(temperature=0.5, max_tokens=3, stop=("123",))
    assert first.columns["zip"] == "01234"
    assert second.columns["messages"] == [{"role": "user", "content": "hi"}]
    assert second.columns["stop"] == ["x", "y"]


def test_broken_records_are_error_rows_with_their_line_and_the_rest_goes_on(tmp_path):
    (tmp_path / "in.csv").write_bytes(b'id,prompt\na,1\nb\nc,1,2\nd,\xff\n"e"x,1\nf,"2\n3"\n')
    rows = read(tmp_path / "in.csv")
    assert [(row.line, row.error_code) for row in rows] == [
        *((2, None), (3, "invalid_csv"), (4, "invalid_csv"), (5, "invalid_encoding"), (6, "invalid_csv"), (7, None))
    ]
    assert rows[1].error == "line 3: invalid CSV: 1 fields, but 2 columns"
    assert rows[3].error == "line 5: invalid UTF-8 in column prompt"
    assert rows[3].columns["id"] == "d"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        ("prompt\na\n".encode("utf-16"), "UTF-16 text, not CSV"),
        (b"pr\xf6mpt\na\n", "line 1: the header is not UTF-8"),
        (b"a,b,a\n", "more than one column named 'a'"),
        (b'"a\n', "line 1: the header is no CSV"),
        (b"PAR1....", "a Parquet file, not CSV"),
        (b"\x1f\x8b", "gzip-compressed, not CSV"),
    ],
)
def test_file_that_is_no_csv_is_one_line_before_anything_is_read(tmp_path, content, says):
    (tmp_path / "in.csv").write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        open_input(str(tmp_path / "in.csv"))
    assert "\n" not in caught.value.message


def test_csv_to_parquet_and_back_keeps_texts(tmp_path):
    (tmp_path / "in.csv").write_text("id,prompt,n_words\n007,hello,1\n8,,2\n")
    run_job(tmp_path / "in.csv", tmp_path / "out.parquet")
    first, second = read_back(tmp_path / "out.parquet")
    assert (first["id"], first["n_words"], first["text"]) == ("007", "1", "olleh")
    assert (second["error_code"], second["error"]) == ("empty_prompt", "line 3: column prompt is empty: no token to start from")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), min_size=2, max_size=2), max_size=6))
def test_whatever_python_writes_comes_back(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("csv") / "in.csv"
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["prompt", "x"], *records])
    path.write_bytes(text.getvalue().encode())
    assert [list(row.columns.values()) for row in read(path)] == records
