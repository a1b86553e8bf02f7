"""SQLite and DuckDB output: a table `rows`, its types, columns that come later, ends that come early."""

import os
import resource
import sqlite3
import subprocess
import sys
from collections import deque
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writing import open_writer, results, write_all

from pagecli.errors import InputError, UsageError
from pagecli.jobs.journal.locked_output import lock_output
from pagecli.jobs.rows.row import to_json
from pagecli.jobs.writers.parquet.writer import GROUP_ROWS

VALUES = [None, True, 3, 2.5, "text", "two\nlines", 2**70, [1, {"a": "ü"}], {"b": None}]


def rows_of(path, query="SELECT * FROM rows") -> list[dict]:
    with sqlite3.connect(path) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(query)]


@pytest.mark.parametrize("name", ["out.sqlite", "out.sqlite3", "out.db"])
def test_sqlite_has_a_table_of_the_rows(tmp_path, name):
    write_all(tmp_path / name, results([{"id": f"r{i}", "x": value} for i, value in enumerate(VALUES)]))
    found = rows_of(tmp_path / name)
    results_of = "sample text finish_reason prompt_tokens output_tokens error error_code"
    assert list(found[0]) == ["id", "x", *results_of.split()]
    stored = [None, 1, 3, 2.5, "text", "two\nlines", str(2**70), '[1, {"a": "ü"}]', '{"b": null}']
    assert [row["x"] for row in found] == stored
    assert rows_of(tmp_path / name, "SELECT count(*) AS n FROM rows WHERE finish_reason = 'stop'") == [{"n": len(VALUES)}]


def test_columns_that_come_later_or_differ_in_case_only_have_their_own(tmp_path):
    write_all(tmp_path / "out.sqlite", results([{"a": 1}, {"A": 2, 'q"uote': 3}, {"Text": 4, "text": 5}]))
    found = rows_of(tmp_path / "out.sqlite")
    assert [(row["a"], row["A_2"], row['q"uote'], row["Text_2"], row["input_text"]) for row in found] == [
        (1, None, None, None, None),
        (None, 2, 3, None, None),
        (None, None, None, 4, 5),
    ]


def test_columns_beyond_the_bound_are_one_of_json(tmp_path):
    write_all(tmp_path / "out.sqlite", results([{f"c{i}": i for i in range(1500)}, {"late": 1}]))
    first, second = rows_of(tmp_path / "out.sqlite")
    assert first["text"] == "text 0"
    assert '"c1499": 1499' in first["pagecli_other_columns"]
    assert second["pagecli_other_columns"] == to_json({"late": 1})


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(
        st.dictionaries(st.text(max_size=4), st.none() | st.text() | st.integers() | st.booleans(), max_size=4), max_size=8
    )
)
def test_sqlite_takes_rows_of_any_columns(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("any") / "out.sqlite"
    write_all(path, results(rows))
    found = rows_of(path)
    assert [row["text"] for row in found] == [f"text {i}" for i in range(len(rows))]
    for row, stored in zip(rows, found, strict=True):
        values = [value for name, value in row.items() if name != "id"]
        assert sum(value is not None for value in stored.values()) >= sum(value is not None for value in values)


def test_an_end_that_comes_early_leaves_a_whole_database_or_none(tmp_path):
    writer = open_writer(tmp_path / "out.sqlite")
    writer.write(results([{"a": 1}])[0])
    path = writer.keep_partial()
    assert (path.name, len(rows_of(path))) == ("out.partial.sqlite", 1)
    writer = open_writer(tmp_path / "other.sqlite")
    writer.write(results([{"a": 1}])[0])
    writer.discard()
    write_all(tmp_path / "empty.sqlite", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.sqlite", "out.partial.sqlite"]
    assert rows_of(tmp_path / "empty.sqlite") == []


def test_an_existing_database_is_not_replaced_unless_asked(tmp_path):
    write_all(tmp_path / "out.sqlite", results([{"a": 1}]))
    with pytest.raises(UsageError, match="already exists"):
        open_writer(tmp_path / "out.sqlite")
    writer = open_writer(tmp_path / "out.sqlite", overwrite=True)
    writer.write(results([{"b": 2}])[0])
    writer.finish()
    assert [row["b"] for row in rows_of(tmp_path / "out.sqlite")] == [2]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    writer = open_writer(tmp_path / "out.sqlite")
    writer._database.execute("PRAGMA max_page_count = 3")
    rows = results([{"a": "x" * 3000}] * 20)
    with pytest.raises(InputError, match="no space left"):
        deque(map(writer.write, rows))
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_duckdb_keeps_types_and_nested_columns(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    rows = [
        {"id": i, "tags": ["a", "b"], "who": {"name": "Ann", "age": i}, **({"late": 0.5} if i > 1 else {})} for i in range(4)
    ]
    write_all(tmp_path / "out.duckdb", results(rows), token_ids=True)
    with duckdb.connect(str(tmp_path / "out.duckdb"), read_only=True) as database:
        found = database.execute(
            "SELECT id, tags[1], who.name, who.age, late, text, token_ids FROM rows ORDER BY id"
        ).fetchall()
        table = database.sql("SELECT * FROM rows").to_arrow_table()
    assert found == [(i, "a", "Ann", i, 0.5 if i > 1 else None, f"text {i}", [i, 2]) for i in range(4)]
    assert table.column_names[:5] == ["id", "tags", "who", "late", "sample"]
    assert table["id"].to_pylist() == [0, 1, 2, 3]
    assert pa.types.is_integer(table.schema.field("id").type)
    assert [path.name for path in tmp_path.iterdir()] == ["out.duckdb"]


def rows_in(path) -> int:
    """Of an output alone, without what may lie beside it."""
    if path.suffix == ".sqlite":
        return rows_of(path, "SELECT count(*) AS n FROM rows")[0]["n"]
    import duckdb

    with duckdb.connect(str(path), read_only=True) as database:
        return database.execute("SELECT count(*) FROM main.rows").fetchone()[0]


@pytest.mark.parametrize("name", ["out.duckdb", "out.sqlite"])
@pytest.mark.parametrize("limit", [0, 5_000, 13_000, 100_000, 300_000, 500_000, 10_000_000])
def test_a_database_that_the_disk_does_not_take_whole_is_refused(tmp_path, name, limit):
    """Not published without its rows."""
    if name == "out.duckdb":
        pytest.importorskip("duckdb")
    rows, refused = [{"x": f"{i}" * 60} for i in range(400)], None
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, former[1]))
    try:
        write_all(tmp_path / name, results(rows))
    except InputError as error:
        refused = error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert refused is not None or limit > 5_000
    assert refused is None or limit < 10_000_000
    if refused is None:
        assert rows_in(tmp_path / name) == len(rows)
    else:
        assert not (tmp_path / name).exists()
        assert not list(tmp_path.glob(".*.wal"))


LOG = {"out.duckdb": ".wal", "out.sqlite": "-journal"}
LEAVES_A_LOG = {
    "out.sqlite": """
import os, sqlite3
database = sqlite3.connect("out.sqlite", isolation_level=None)
database.execute("PRAGMA journal_mode = {mode}")
database.execute("PRAGMA cache_size = 2")
database.execute("CREATE TABLE rows (text)")
database.executemany("INSERT INTO rows VALUES (?)", [("another's" * 100,)] * 50)
database.execute("BEGIN")
database.execute("UPDATE rows SET text = upper(text)")
if "{mode}" == "WAL":
    database.execute("COMMIT")
os._exit(0)
""",
    "out.duckdb": """
import duckdb, os
database = duckdb.connect("out.duckdb")
database.execute("CREATE TABLE rows AS SELECT 1 AS text")
os._exit(0)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), [("out.sqlite", "DELETE"), ("out.sqlite", "WAL"), ("out.duckdb", "")])
@pytest.mark.parametrize("is_gone", [False, True], ids=["beside its database", "alone"])
def test_the_log_of_a_database_that_is_replaced_is_not_read_into_the_output(tmp_path, name, mode, is_gone):
    """Nor one that has survived its database: it stands in the way as the database would."""
    if name == "out.duckdb":
        pytest.importorskip("duckdb")
    subprocess.run([sys.executable, "-c", LEAVES_A_LOG[name].format(mode=mode)], cwd=tmp_path, check=True)
    (log,) = (path for path in tmp_path.iterdir() if path.name in (f"{name}-journal", f"{name}-wal", f"{name}.wal"))
    if is_gone:
        (tmp_path / name).unlink()
    rows = results([{"a": i} for i in range(100)])
    with pytest.raises(UsageError, match=f"{log.name if is_gone else name} already exists") as caught:
        open_writer(tmp_path / name)
    assert "--overwrite" in caught.value.hint
    writer = open_writer(tmp_path / name, overwrite=True)
    for row in rows:
        writer.write(row)
    writer.finish()
    assert rows_in(tmp_path / name) == 100
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", ["out.duckdb", "out.sqlite"])
def test_a_log_that_comes_while_the_job_runs_is_not_read_into_the_output(tmp_path, name):
    if name == "out.duckdb":
        pytest.importorskip("duckdb")
    log = tmp_path / f"{name}{LOG[name]}"
    writer = open_writer(tmp_path / name)
    writer.write(results([{"a": 1}])[0])
    log.write_bytes(b"another's")
    with pytest.raises(UsageError, match=f"{log.name} was created by another process meanwhile"):
        writer.finish()
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["out.duckdb", "out.sqlite"])
def test_the_rows_so_far_get_a_name_that_no_log_belongs_to(tmp_path, name):
    if name == "out.duckdb":
        pytest.importorskip("duckdb")
    suffix = Path(name).suffix
    log = tmp_path / f"out.partial{suffix}{LOG[name]}"
    log.write_bytes(b"another's")
    writer = open_writer(tmp_path / name)
    writer.write(results([{"a": 1}])[0])
    path = writer.keep_partial()
    assert path.name == f"out.partial-2{suffix}"
    assert rows_in(path) == 1
    assert log.read_bytes() == b"another's"


def test_duckdb_keeps_the_rows_whose_group_the_disk_has_taken(tmp_path, monkeypatch):
    pytest.importorskip("duckdb")

    def refuse(path, num_bytes):
        raise InputError(f"{path}: no space left to write to")

    writer = open_writer(tmp_path / "out.duckdb")
    for row in results([{"a": i} for i in range(GROUP_ROWS + 1)]):
        writer.write(row)
    monkeypatch.setattr("pagecli.jobs.writers.parquet.writer._check_space", refuse)
    assert rows_in(writer.keep_partial()) == GROUP_ROWS


@pytest.mark.slow
@pytest.mark.parametrize("how", ["finish", "keep_partial"])
def test_what_a_kill_leaves_of_a_database_is_removed_by_the_next_run(tmp_path, how):
    """Its logs too, in the middle of its last writing."""
    pytest.importorskip("duckdb")
    killed = f"""
import os, sys
sys.path += {sys.path!r}
from pathlib import Path
import duckdb
from writing import open_writer, results
from pagecli.jobs.journal.locked_output import lock_output
path = Path({str(tmp_path)!r}, "out.duckdb")
locked = lock_output(path)
writer = open_writer(path)
writer.write(results([{{"a": 1}}])[0])
real = duckdb.connect
class Killed:
    def __init__(self, *args, **named): self.database = real(*args, **named)
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def execute(self, text, *args):
        if text == "CHECKPOINT":
            os._exit(9)
        return self.database.execute(text, *args)
duckdb.connect = Killed
writer.{how}()
"""
    assert subprocess.run([sys.executable, "-c", killed]).returncode == 9
    left = [path.name for path in (tmp_path / ".out.duckdb.pagecli-journal").iterdir()]
    assert any(name.endswith(".wal") for name in left)
    assert os.listdir(tmp_path) == [".out.duckdb.pagecli-journal"]
    locked = lock_output(tmp_path / "out.duckdb")
    assert [path.name for path in (tmp_path / ".out.duckdb.pagecli-journal").iterdir()] == ["lock"]
    locked.close()
    assert os.listdir(tmp_path) == []


def test_duckdb_that_is_not_installed_is_said_before_the_model_loads(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(InputError, match="not installed") as caught:
        open_writer(tmp_path / "out.duckdb")
    assert caught.value.hint == "pip install pagecli[duckdb]"
