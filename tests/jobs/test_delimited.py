"""CSV and TSV output: every value as text that standard readers read back, columns that come later, parts and merge."""

import csv
import decimal
import gzip
import io
import json

import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whole_jobs import run_job
from writing import open_writer, result, results, write_all

from pagecli.errors import InputError, UsageError
from pagecli.jobs.readers.open_input import open_input
from pagecli.jobs.shards.merge import merge_outputs
from pagecli.jobs.writers.delimited_writer import cell

NAMES = ["out.csv", "out.csv.gz", "out.csv.zst", "out.tsv", "out.tsv.gz", "out.tsv.zst"]
TEXTS = ["plain", "a,b", "tab\there", 'say "hi"', "two\nlines", "cr\rhere", "crlf\r\n", " spaces ", "ünï 🙂", "", "=1+1"]


def records(path) -> list[dict[str, str]]:
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    elif path.suffix == ".zst":
        content = pa.input_stream(pa.py_buffer(content), compression="zstd").read()
    delimiter = "\t" if ".tsv" in path.name else ","
    return list(csv.DictReader(io.StringIO(content.decode(), newline=""), delimiter=delimiter, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_every_text_is_read_back_as_it_was(tmp_path, name):
    write_all(tmp_path / name, results([{"id": f"r{i}", "prompt": text} for i, text in enumerate(TEXTS)]))
    found = records(tmp_path / name)
    assert [row["prompt"] for row in found] == TEXTS
    results_of = "sample text finish_reason prompt_tokens output_tokens error error_code"
    assert list(found[0]) == ["id", "prompt", *results_of.split()]
    assert [row["text"] for row in found] == [f"text {i}" for i in range(len(TEXTS))]
    source = open_input(str(tmp_path / name))
    assert [row.columns["prompt"] for row in source] == TEXTS
    source.close()


def test_another_programs_reader_sees_the_same_table(tmp_path):
    write_all(tmp_path / "out.csv", results([{"id": i, "prompt": text} for i, text in enumerate(TEXTS)]))
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    table = pa.csv.read_csv(tmp_path / "out.csv", parse_options=parse)
    assert table["prompt"].to_pylist() == TEXTS
    assert table["id"].to_pylist() == list(range(len(TEXTS)))
    assert table["output_tokens"].to_pylist() == [2] * len(TEXTS)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (3, "3"),
        (2.5, "2.5"),
        (float("nan"), ""),
        (2**70, str(2**70)),
        (decimal.Decimal("1.50"), "1.50"),
        (b"\x00\xff", "AP8="),
        ([1, "ü"], '[1, "ü"]'),
        ({"a": None}, '{"a": null}'),
    ],
)
def test_values_that_are_no_text_are_json(value, text):
    assert cell(value) == text


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text() | st.lists(st.text()), max_size=4),
        max_size=12,
    ),
    name=st.sampled_from(["out.csv", "out.tsv.gz"]),
)
def test_rows_of_any_columns_end_in_one_table_that_has_all(tmp_path_factory, rows, name):
    path = tmp_path_factory.mktemp("any") / name
    written = results(rows)
    write_all(path, written)
    found = records(path)
    assert len(found) == len(rows)
    expected = [json.loads(json.dumps(row, ensure_ascii=True)) for row in rows]
    for row, record in zip(expected, found, strict=True):
        for key, value in row.items():
            if key != "id" and key in record:
                assert record[key] == cell(value).encode("utf-8", "replace").decode()
        assert set(record) == set(found[0])


def test_columns_that_come_later_stand_before_the_results_and_pad_what_was_written(tmp_path):
    rows = [{"a": 1}, {"a": 2, "b": "two\nlines"}, {"c": [1]}, {"a": 4}]
    write_all(tmp_path / "out.csv", [*results(rows), result(results([{}, {}, {}, {}, {"a": 5}])[4].row, score=0.5)])
    found = records(tmp_path / "out.csv")
    assert list(found[0])[:5] == ["id", "a", "b", "c", "sample"]
    assert [(row["a"], row["b"], row["c"], row["score"]) for row in found] == [
        ("1", "", "", ""),
        ("2", "two\nlines", "", ""),
        ("", "", "[1]", ""),
        ("4", "", "", ""),
        ("5", "", "", "0.5"),
    ]


def test_an_output_without_rows_has_its_header(tmp_path):
    write_all(tmp_path / "out.csv", [], token_ids=True)
    assert (tmp_path / "out.csv").read_text().startswith("id,sample,text,token_ids,finish_reason,")
    assert records(tmp_path / "out.csv") == []


def test_a_job_that_ends_early_leaves_a_whole_table(tmp_path):
    writer = open_writer(tmp_path / "out.csv")
    for row in results([{"a": "x\ny"}, {"b": 1}]):
        writer.write(row)
    path = writer.keep_partial()
    assert (path.name, not (tmp_path / "out.csv").exists()) == ("out.partial.csv", True)
    assert [(row["a"], row["b"]) for row in records(path)] == [("x\ny", ""), ("", "1")]


@pytest.mark.parametrize("name", ["out.csv", "out.tsv.gz"])
@pytest.mark.parametrize("later", [False, True])
def test_parts_merge_into_what_one_run_writes(tmp_path, name, later):
    rows = [{"prompt": f'row "{i}",\n' + "x" * (i % 3), **({"more": i} if later and i > 7 else {})} for i in range(23)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_job(tmp_path / "in.jsonl", tmp_path / name)
    parts = [tmp_path / f"part-{number}{name[3:]}" for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        run_job(tmp_path / "in.jsonl", part, seed=number, shard=f"{number}/3")
    assert merge_outputs([str(part) for part in parts[::-1]], str(tmp_path / f"merged{name[3:]}"), False).num_rows == 23
    assert records(tmp_path / f"merged{name[3:]}") == records(tmp_path / name)
    if name == "out.csv":
        assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()
    with pytest.raises(InputError, match="missing"):
        merge_outputs([str(part) for part in parts[:2]], str(tmp_path / f"two{name[3:]}"), False)


def test_what_is_no_part_or_another_format_is_refused(tmp_path):
    write_all(tmp_path / "plain.csv", results([{"a": 1}]))
    with pytest.raises(InputError, match="no row of a part"):
        merge_outputs([str(tmp_path / "plain.csv")], str(tmp_path / "out.csv"), False)
    with pytest.raises(UsageError, match="not all TSV"):
        merge_outputs([str(tmp_path / "plain.csv")], str(tmp_path / "out.tsv"), False)
    with pytest.raises(UsageError, match=r"not merged into \.sqlite"):
        merge_outputs([str(tmp_path / "plain.csv")], str(tmp_path / "out.sqlite"), False)
