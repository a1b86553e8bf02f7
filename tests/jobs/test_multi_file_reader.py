"""Directories and patterns as one input: order, row numbers, columns brought together, and files that do not go together."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from whole_jobs import run_job
from writing import read_back

from pagecli.errors import InputError
from pagecli.jobs.readers.open_input import open_input


def write_lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path):
    write_lines(tmp_path / "in" / "b.jsonl", {"prompt": "c"}, "broken", {"prompt": "d"})
    write_lines(tmp_path / "in" / "a.jsonl", {"prompt": "a"}, {"prompt": "b"})
    write_lines(tmp_path / "in" / "sub" / "c.jsonl", {"prompt": "e"})
    write_lines(tmp_path / "in" / "_log.jsonl", {"prompt": "no"})
    write_lines(tmp_path / "in" / ".hidden" / "x.jsonl", {"prompt": "no"})
    return tmp_path / "in"


@pytest.mark.parametrize(("pattern", "files"), [("", "abc"), ("/*.jsonl", "ab"), ("/**/*.jsonl", "abc")])
def test_rows_are_counted_on_from_file_to_file_in_the_order_of_names(folder, pattern, files):
    if pattern:
        (folder / "_log.jsonl").unlink()
    source = open_input(f"{folder}{pattern}")
    rows = list(source)
    source.close()
    assert [row.columns.get("prompt") for row in rows] == ["a", "b", "c", None, "d", "e"][: len(rows)]
    assert [row.index for row in rows] == list(range(5 if files == "ab" else 6))
    assert (rows[3].location, rows[3].error.split(": ")[0]) == ("b.jsonl, line 2", "b.jsonl, line 2")
    assert source.estimate().num_rows == len(rows)


def test_limit_ends_within_a_file_and_opens_none_after_it(folder):
    write_lines(folder / "z.jsonl", "[1]")  # would be refused when it is opened
    assert [row.columns["prompt"] for row in open_input(str(folder), limit=3)] == ["a", "b", "c"]


def test_errors_name_file_and_line_in_the_output(folder, tmp_path):
    run_job(folder, tmp_path / "out.jsonl")
    rows = read_back(tmp_path / "out.jsonl")
    assert [row["id"] for row in rows] == list(range(6))
    assert rows[3]["error"].startswith("b.jsonl, line 2: invalid JSON")
    assert rows[5]["text"] == "e"


def test_parquet_files_bring_their_columns_together(tmp_path):
    (tmp_path / "in").mkdir()
    tables = [
        pa.table({"prompt": ["a"], "x": pa.array([1], pa.int32()), "deep": [{"k": [1, 2]}]}),
        pa.table({"x": pa.array([2**40], pa.int64()), "prompt": ["b"]}),
        pa.table({"prompt": ["c"], "y": ["new"]}),
    ]
    for number, table in enumerate(tables):
        pq.write_table(table, tmp_path / "in" / f"part-{number}.parquet")
    source = open_input(str(tmp_path / "in"))
    assert (source.estimate().num_rows, source.estimate().exact) == (3, True)
    assert source.column_names == ["prompt", "x", "deep", "y"]
    run_job(tmp_path / "in" / "*.parquet", tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["x"].to_pylist() == [1, 2**40, None]
    assert table["deep"].to_pylist() == [{"k": [1, 2]}, None, None]
    assert table["y"].to_pylist() == [None, None, "new"]
    assert table["text"].to_pylist() == ["a", "b", "c"]
    assert table.schema.field("x").type == pa.int64()


def test_files_that_do_not_go_together_are_refused(tmp_path):
    for name, value in (("a", ["text"]), ("b", [{"k": 1}])):
        pq.write_table(pa.table({"prompt": value}), tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match=r"b\.parquet has columns that do not go with those"):
        open_input(str(tmp_path))
    write_lines(tmp_path / "c.jsonl", {"prompt": "a"})
    with pytest.raises(InputError, match="more than one format: jsonl, parquet"):
        open_input(str(tmp_path))
    for pattern in ("*.csv", "none/", "[a"):
        with pytest.raises(InputError, match=r"no file found|no such file"):
            open_input(f"{tmp_path}/{pattern}")


def test_name_with_pattern_characters_is_the_file_it_names(tmp_path):
    write_lines(tmp_path / "in[1].jsonl", {"prompt": "a"})
    (row,) = open_input(str(tmp_path / "in[1].jsonl"))
    assert (row.file, row.columns) == (None, {"prompt": "a"})


def hive_tree(root, name: str, **more) -> None:
    """lang=en/month=01, lang=de (escaped)/month=02, one without a language; the last brings a column of its own."""
    folders = ["lang=de%2FAT/month=02", "lang=en/month=01", "lang=__HIVE_DEFAULT_PARTITION__/month=12"]
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        row = {"prompt": f"p{number}", **more}
        if name.endswith("parquet"):
            pq.write_table(pa.table({key: [value] for key, value in row.items()}), root / folder / name)
        elif name.endswith("csv"):
            (root / folder / name).write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
        else:
            write_lines(root / folder / name, row)


@pytest.mark.parametrize("pattern", ["", "/*/*/*"])
@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl", "x.csv"])
def test_folders_named_key_value_are_columns(tmp_path, name, pattern):
    hive_tree(tmp_path / "in", name)
    source = open_input(f"{tmp_path / 'in'}{pattern}")
    found = {row.columns["prompt"]: (row.columns["lang"], row.columns["month"]) for row in source}
    assert found == {"p0": ("de/AT", 2), "p1": ("en", 1), "p2": (None, 12)}
    assert source.column_names in (None, ["prompt", "lang", "month"])


@pytest.mark.parametrize("output", ["out.parquet", "out.jsonl"])
@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl", "x.csv"])
def test_columns_of_folders_are_chosen_by_and_carried(tmp_path, name, output):
    hive_tree(tmp_path / "in", name)
    run_job(tmp_path / "in", tmp_path / output, where="month < 10 and lang == 'en'")
    (row,) = read_back(tmp_path / output)
    assert (row["prompt"], row["lang"], row["month"]) == ("p1", "en", 1)


@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl", "x.csv"])
def test_a_column_of_the_file_wins_over_its_folder(tmp_path, name):
    hive_tree(tmp_path / "in", name, lang="own")
    assert [row.columns["lang"] for row in open_input(str(tmp_path / "in"))] == ["own"] * 3


def test_folders_above_the_directory_are_no_columns(tmp_path):
    hive_tree(tmp_path / "run=1" / "in", "x.jsonl")
    assert all("run" not in row.columns for row in open_input(str(tmp_path / "run=1" / "in")))


def test_names_that_are_no_utf_8_are_texts_of_rows(tmp_path):
    """In an error's text and in a column by a folder's name: a writer could not encode them."""
    folder = tmp_path / "k=\udcff"
    folder.mkdir()
    (folder / "a\udcff.jsonl").write_text('{"prompt": "x"}\nbad\n')
    (folder / "b.jsonl").write_text('{"prompt": "y"}\n')
    rows = list(open_input(str(tmp_path)))
    assert [row.columns.get("k") for row in rows] == ["?"] * 3
    assert rows[1].error.startswith("a?.jsonl, line 2: invalid JSON")
    assert [row.file for row in rows] == ["a?.jsonl", "a?.jsonl", "b.jsonl"]
