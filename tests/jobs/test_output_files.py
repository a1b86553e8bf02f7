"""The output's name: given only to a complete file, never taken from another, and what remains of a job that ends early."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import namedtuple

import pytest
from writing import open_writer, read_back, results, write_all

from pagecli.errors import ExitCode, InputError, UsageError
from pagecli.jobs.storage.atomic_file import write_atomically
from pagecli.jobs.writers.open_output import check_writable
from pagecli.jobs.writers.parquet import writer as parquet_writer

NAMES = ["out.parquet", "out.jsonl", "out.jsonl.gz"]
ROWS = [{"x": i} for i in range(2500)]


@pytest.mark.parametrize("name", NAMES)
def test_existing_output_is_refused_without_overwrite(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(UsageError, match="already exists") as caught:
        open_writer(tmp_path / name)
    assert "--overwrite" in caught.value.hint
    assert (tmp_path / name).read_text() == "precious"
    write_all(tmp_path / name, results(ROWS), overwrite=True)
    assert len(read_back(tmp_path / name)) == len(ROWS)


def test_output_created_by_another_process_meanwhile_is_not_replaced(tmp_path):
    writer = open_writer(tmp_path / "out.jsonl")
    writer.write(results(ROWS)[0])
    (tmp_path / "out.jsonl").write_text("precious")
    with pytest.raises(UsageError, match="another process"):
        writer.finish()
    assert writer.keep_partial() == tmp_path / "out.partial.jsonl"
    assert (tmp_path / "out.jsonl").read_text() == "precious"


@pytest.mark.parametrize("name", NAMES)
def test_name_appears_only_when_complete(tmp_path, name):
    writer = open_writer(tmp_path / name)
    for row in results(ROWS):
        writer.write(row)
        assert not (tmp_path / name).exists()
    writer.finish()
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_new_file_has_the_usual_permissions(tmp_path, name):
    (tmp_path / "plain").touch()
    write_all(tmp_path / name, results(ROWS))
    assert (tmp_path / name).stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", NAMES)
def test_partial_rows_are_kept_as_a_valid_file_under_another_name(tmp_path, name):
    stem, suffix = name.split(".", 1)
    for number in ("", "-2"):
        writer = open_writer(tmp_path / name)
        for row in results(ROWS)[:1500]:
            writer.write(row)
        path = writer.keep_partial()
        assert path == tmp_path / f"{stem}.partial{number}.{suffix}"
        assert [record["x"] for record in read_back(path)] == list(range(1500))
    assert not (tmp_path / name).exists()
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_of_a_job_without_rows_or_discarded(tmp_path, name):
    assert open_writer(tmp_path / name).keep_partial() is None
    writer = open_writer(tmp_path / name)
    for row in results(ROWS):
        writer.write(row)
    writer.discard()
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_kill_leaves_no_file_under_the_final_name(tmp_path, name):
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(os.path.dirname(__file__))!r})
from pathlib import Path
from writing import open_writer, results
writer = open_writer(Path({str(tmp_path / name)!r}))
for row in results([{{"x": i}} for i in range(2500)]):
    writer.write(row)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    assert not (tmp_path / name).exists()
    write_all(tmp_path / name, results(ROWS))  # its temporary does not block this run
    assert len(read_back(tmp_path / name)) == len(ROWS)


def test_missing_and_unwritable_directories_are_found_at_once(tmp_path):
    with pytest.raises(InputError, match="no such directory") as caught:
        open_writer(tmp_path / "none" / "out.parquet")
    assert "mkdir -p" in caught.value.hint
    with pytest.raises(UsageError, match="is a directory"):
        check_writable(str(_directory(tmp_path)), overwrite=True)
    for name in NAMES:
        with pytest.raises(InputError):
            open_writer(type(tmp_path)("/proc") / name)  # not even root creates files there


def test_directory_that_may_be_written_but_not_read_takes_a_file(tmp_path, monkeypatch):
    """Its names cannot be forced to the disk from here; the file is complete, which is what counts."""

    def without_reading(path, *arguments, **more):
        if path == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, *arguments, **more)

    opened = os.open
    monkeypatch.setattr(os, "open", without_reading)
    write_all(tmp_path / "out.jsonl", results(ROWS))
    assert len(read_back(tmp_path / "out.jsonl")) == len(ROWS)


def write_rows(writer):
    for row in results(ROWS):
        writer.write(row)


def _directory(tmp_path):
    (tmp_path / "dir.parquet").mkdir()
    return tmp_path / "dir.parquet"


def test_full_disk_is_said_and_the_rows_before_are_kept(tmp_path, monkeypatch):
    """The Parquet writer stops while there is still room for the file's footer."""
    usage = namedtuple("usage", "total used free")
    free = iter([10**9, 10**9, *[0] * 10])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, next(free)))
    monkeypatch.setattr(parquet_writer, "GROUP_ROWS", 100)
    writer = open_writer(tmp_path / "out.parquet")
    with pytest.raises(InputError, match="no space left") as caught:
        write_rows(writer)
    assert caught.value.exit_code == ExitCode.INPUT
    path = writer.keep_partial()
    assert [record["x"] for record in read_back(path)] == list(range(200))
    assert os.listdir(tmp_path) == ["out.partial.parquet"]


def test_file_size_limit_keeps_the_whole_lines_of_jsonl(tmp_path):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = open_writer(tmp_path / "out.jsonl")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, former[1]))
    try:
        with pytest.raises(InputError, match="no space left"):
            write_rows(writer)
        path = writer.keep_partial()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    records = read_back(path)
    assert len(records) > 300
    assert [record["x"] for record in records] == list(range(len(records)))


def test_segments_are_kept_one_by_one_if_there_is_no_room_to_join_them(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    free = iter([10**9, 10**9, *[0] * 10])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, next(free)))
    monkeypatch.setattr(parquet_writer, "GROUP_ROWS", 1)
    writer = open_writer(tmp_path / "out.parquet")
    for row in results([{"x": 1}, {"x": 2, "y": 1}]):
        writer.write(row)
    with pytest.raises(InputError, match="no space left"):
        writer.finish()
    assert writer.keep_partial() == tmp_path / "out.partial.parquet"
    assert sorted(os.listdir(tmp_path)) == ["out.partial-2.parquet", "out.partial.parquet"]
    assert read_back(tmp_path / "out.partial-2.parquet")[0]["y"] == 1


def test_atomic_write_replaces_and_cleans_up(tmp_path):
    write_atomically(tmp_path / "s.json", b"1")
    write_atomically(tmp_path / "s.json", b"2")
    assert (tmp_path / "s.json").read_bytes() == b"2"
    (tmp_path / "d").mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        write_atomically(tmp_path / "d", b"3")
    assert sorted(os.listdir(tmp_path)) == ["d", "s.json"]
