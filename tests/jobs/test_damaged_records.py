"""Files that runs leave each other, damaged in every way: `status` and a later run say so in one line, or do without them."""

import json
import math
import os
import shutil
from dataclasses import asdict

import pytest

from pagecli.cli.app import main
from pagecli.jobs.journal.job_lock import JobLock, LockOwner, read_owner
from pagecli.jobs.monitoring.monitor import JobSnapshot
from pagecli.jobs.shards.part_directory import JOB, MERGED, MergedRecord, PartDirectory, PartFiles, PartsJob
from pagecli.jobs.storage.job_directory import HEARTBEAT, LOCK, JobDirectory

VALUES = [None, -1, 0, "x", [], {}, 1e308, math.nan, math.inf, 10**30, 2**63, True]
JOB_OF_3 = PartsJob(3, "key", "2026-12-01T01:02:03")


@pytest.fixture
def status(tmp_path, capsys, monkeypatch):
    """status(name) -> (exit code, what it said on stderr), the same with and without --json."""
    monkeypatch.chdir(tmp_path)

    def run(name):
        found = set()
        for flags in ((), ("--json",)):
            with pytest.raises(SystemExit) as ended:
                main(["status", name, *flags])
            said = capsys.readouterr()
            assert "internal error" not in said.err
            if flags and said.out:
                json.loads(said.out)
            found.add((ended.value.code, said.err))
        assert len(found) == 1
        return found.pop()

    return run


def put(path, kind):
    """Something else than a file of that name."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()


@pytest.mark.slow
@pytest.mark.parametrize("name", [HEARTBEAT, LOCK])
def test_a_field_of_any_value_in_a_jobs_files_is_no_internal_error(tmp_path, status, name):
    directory = JobDirectory(tmp_path / "out.jsonl")
    lock = JobLock(directory)
    owner = read_owner(directory)
    record = asdict(owner if name == LOCK else JobSnapshot(pid=owner.pid, started=owner.started, updated=owner.started))
    for field in record:
        for value in VALUES:
            (directory.path / name).write_text(json.dumps({**record, field: value}))
            assert status("out.jsonl")[0] in (10, 11, 12)
    lock.release()
    directory.close()


def test_no_process_has_a_number_that_the_system_does_not_have():
    for pid in (0, -1, 2**31, 2**63):
        with pytest.raises(ValueError, match="process"):
            LockOwner(pid, "host", 0.0)


@pytest.mark.parametrize("record", [JOB_OF_3, MergedRecord("key", 0, 5, 0)], ids=lambda record: type(record).__name__)
def test_a_field_of_another_type_in_a_record_of_parts_is_an_input_error(tmp_path, status, record):
    parts = PartDirectory(tmp_path / "out.jsonl", 3)
    (parts.path / JOB).write_text(json.dumps(asdict(JOB_OF_3)))
    name = JOB if record is JOB_OF_3 else MERGED
    (tmp_path / "out.jsonl").touch()
    for field, old in asdict(record).items():
        for value in VALUES:
            if type(value) is type(old) and not (field in ("time", "count") and name == JOB):
                continue
            (parts.path / name).write_text(json.dumps({**asdict(record), field: value}))
            with pytest.raises(Exception, match=f"{name} cannot be read"):
                parts.merged() if name == MERGED else PartFiles(tmp_path / "out.jsonl").read(JOB, PartsJob)
    if name == JOB:
        assert status("out.jsonl")[0] == 3


@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_what_is_no_file_among_the_parts_is_not_read(tmp_path, status, kind):
    parts = PartDirectory(tmp_path / "out.jsonl", 3)
    put(parts.path / JOB, kind)
    code, said = status("out.jsonl")
    assert (code, "job.json cannot be read" in said) == (3, True)
    (shutil.rmtree if kind == "directory" else os.unlink)(parts.path / JOB)
    (parts.path / JOB).write_text(json.dumps(asdict(JOB_OF_3)))
    put(parts.part(1), kind)
    code, said = status("out.jsonl")
    assert (code, "is no file" in said) == (3, True)
