"""`pagecli status` of jobs that run, were stopped or killed, are complete, or are none."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecli.cli.app import main
from pagecli.cli.status import duration_text
from pagecli.jobs.journal.job_lock import JobLock
from pagecli.jobs.journal.journal import Journal, JournalContents
from pagecli.jobs.monitoring.job_status import read_heartbeat
from pagecli.jobs.monitoring.monitor import HEARTBEAT, Heartbeat, JobMonitor, JobSnapshot
from pagecli.jobs.rows.row import InputRow, error_row
from pagecli.jobs.storage.job_directory import LOCK, JobDirectory, job_directory_path


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "out.jsonl"


@pytest.fixture
def status(capsys):
    """status(output, *flags) -> (exit code, what --json printed, or the text)."""

    def run(*args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["status", *map(str, args)])
        text = capsys.readouterr().out
        return ended.value.code, json.loads(text) if "--json" in args else text

    return run


class Job:
    """The parts of a running job that others can see: directory, lock, journal and heartbeat."""

    def __init__(self, out) -> None:
        self.directory = JobDirectory(out)
        self.lock = JobLock(self.directory)
        self.journal = Journal(self.directory, {}, JournalContents(self.directory))
        self.monitor = JobMonitor(JobSnapshot("in.jsonl", str(out), "m"), [], pytest.fail)
        self.heartbeat = Heartbeat(out)
        self.monitor.add(self.heartbeat)

    def finish_rows(self, count: int) -> None:
        for index in range(count):
            self.journal.append([error_row(InputRow(index, {"prompt": 1}, index + 1), "no good", None, "invalid_type")])
        self.journal.commit()
        self.journal.sync()

    def look(self, num_rows: int, eta: float = 30.0) -> None:
        figures = {"num_rows": num_rows, "num_error_rows": 1, "num_taken_over": 1, "output_tokens": 40}
        rates = {"output_tokens_per_second": 12.5, "rows_per_second": 2.0, "eta_seconds": eta}
        job = replace(self.monitor.snapshot, num_rows_total=10, total_is_exact=True, **figures, **rates)
        self.heartbeat.on_event("progress", job)

    def close(self, release: bool = True) -> None:
        self.heartbeat.close()
        self.journal.close()
        if release:
            self.lock.release()
        self.directory.close()


@pytest.fixture
def job(out):
    job = Job(out)
    yield job
    job.close()


def test_a_running_job(job, out, status):
    job.finish_rows(3)
    job.monitor.loaded({})
    job.monitor.checkpoint(3)
    job.look(3)
    code, found = status(out, "--json")
    assert code == 10
    assert (found["state"], found["phase"], found["pid"]) == ("running", "generating", os.getpid())
    assert (found["num_rows"], found["num_rows_total"], found["num_error_rows"], found["checkpoint_rows"]) == (3, 10, 3, 3)
    assert (found["output_tokens_per_second"], found["eta_seconds"], found["num_taken_over"]) == (12.5, 30.0, 1)
    assert found["updated"].endswith("Z")
    _, text = status(out)
    assert f"running, generating (process {os.getpid()} on" in text
    assert "3 of 10 (30.0%), 1 of them from earlier runs, 3 error rows" in text
    assert "12.5 output tokens/s, 2.00 rows/s, 30 s left" in text
    assert "3 input rows safe" in text


def test_workers_and_ranks_of_a_running_job_are_listed(job, out, status):
    job.finish_rows(1)
    job.monitor.loaded({})
    worker = {"host": "here", "pid": 5, "cpu_isa": "avx2", "num_rows": 1200, "tokens_per_second": 3.5, "kv_usage": 0.25}
    rows = [{"worker": 1, "num_restarts": 2, **worker, "cpus": [0, 1]}, {"rank": 0, "waited_seconds": 1.25, "num_restarts": 0}]
    rows += [{"rank": number} for number in range(1, 30)]
    job.heartbeat.on_event("progress", replace(job.monitor.snapshot, processes=rows))
    _, found = status(out, "--json")
    assert found["processes"][0] == {"worker": 1, "num_restarts": 2, **worker}
    assert len(found["processes"]) == 31
    text = " ".join(status(out)[1].split())
    assert "worker 1 1,200 rows, 3.5 tokens/s, KV cache 25% used, 2 restarts, avx2, on here" in text
    assert "rank 0 1.2 s waited for others, 0 restarts" in text
    assert "and 15 more: --json has them" in text


@pytest.mark.parametrize("rows", [[5], [{"worker": "one"}], [{"num_rows": 1.5}], [{"host": []}], 3, {"a": 1}])
def test_a_damaged_list_of_processes_counts_as_no_heartbeat(job, out, rows):
    job.look(3)
    path = job_directory_path(out) / HEARTBEAT
    assert read_heartbeat(out) is not None
    path.write_text(json.dumps({**json.loads(path.read_text()), "processes": rows}))
    assert read_heartbeat(out) is None


def test_a_job_that_loads_its_model(job, out, status):
    code, found = status(out, "--json")
    assert (code, found["state"], found["phase"], found["num_rows"]) == (10, "running", "loading", 0)


def test_a_job_that_was_stopped(job, out, status):
    job.finish_rows(2)
    job.look(2)
    job.monitor.end(143, stats={"num_input_rows": 2, "num_error_rows": 2, "num_sampled_tokens": 9})
    job.lock.release()
    code, found = status(out, "--json")
    assert (code, found["state"], found["exit_code"], found["num_rows"], found["eta_seconds"]) == (11, "stopped", 143, 2, None)
    assert "exit code 143)" in status(out)[1]
    assert "run the same command again" in status(out)[1]


@pytest.mark.slow
def test_a_job_that_was_killed(job, out, status):
    job.finish_rows(2)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    owner = json.loads((job_directory_path(out) / LOCK).read_text())
    (job_directory_path(out) / LOCK).write_text(json.dumps({**owner, "pid": int(gone.stdout)}))
    code, found = status(out, "--json")
    assert (code, found["state"], found["pid"], found["num_rows"]) == (12, "killed", int(gone.stdout), 2)
    assert found["phase"] is None


def test_a_job_on_another_host_lives_while_its_lock_is_touched(job, out, status):
    lock = job_directory_path(out) / LOCK
    lock.write_text(json.dumps({**json.loads(lock.read_text()), "host": "elsewhere", "boot_id": "another"}))
    assert status(out)[0] == 10
    long_ago = time.time() - 3600
    os.utime(lock, (long_ago, long_ago))
    assert status(out)[0] == 12


def test_complete_and_none(out, status, tmp_path):
    assert status(out)[0] == 13
    out.write_text("{}\n{}\n")
    assert status(out, "--json")[1]["num_rows"] == 2
    pq.write_table(pa.table({"a": [1, 2, 3]}), tmp_path / "out.parquet")
    code, found = status("out.parquet", "--json")
    assert (code, found["state"], found["num_rows"]) == (0, "complete", 3)
    assert status("out.parquet", "--quiet") == (0, "")
    assert status(tmp_path)[0] == 13
    (tmp_path / "bad.parquet").write_text("no")
    assert status("bad.parquet")[0] == 3


def test_a_job_without_a_journal_is_known_by_its_heartbeat(job, out, status):
    job.look(7)
    code, found = status(out, "--json")
    assert (code, found["num_rows"], found["num_error_rows"]) == (10, 7, 1)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b'{"num_rows": null}', b"\xff", b'{"eta_seconds": []}'])
def test_a_damaged_heartbeat_counts_as_none(job, out, status, content):
    (job_directory_path(out) / HEARTBEAT).write_bytes(content)
    assert read_heartbeat(out) is None
    assert status(out)[0] == 10


def test_a_heartbeat_is_never_written_through_a_link(job, out, tmp_path):
    (tmp_path / "victim").write_text("mine")
    os.symlink(tmp_path / "victim", job_directory_path(out) / f"{HEARTBEAT}.new")
    with pytest.raises(Exception, match="own plain file"):
        job.look(1)
    assert (tmp_path / "victim").read_text() == "mine"


def test_what_is_written_is_read_back(job, out):
    job.look(5, eta=1.25)
    found = read_heartbeat(out)
    assert isinstance(found, JobSnapshot)
    assert (found.num_rows, found.eta_seconds, found.num_rows_total, found.total_is_exact) == (5, 1.25, 10, True)


@pytest.mark.slow
def test_status_needs_no_torch():
    code = "import sys, pagecli.jobs.monitoring.job_status; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@given(st.floats(0, 1e9))
def test_durations_have_at_most_two_units(seconds):
    assert len(duration_text(seconds).split()) in (2, 4)
