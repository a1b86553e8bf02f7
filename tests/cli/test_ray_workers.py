"""--ray: a job on the hosts of a Ray cluster writes what it writes on one engine, whatever happens to its workers."""

import contextlib
import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from input_files import write_rows
from test_workers import MIXED, wait_for

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
ACTOR = "ray::RemoteWorker"
ROWS = [{"id": i, "prompt": f"n {i}"} for i in range(600)]
LONG = ("--no-chat", "--max-tokens", "100", "--max-num-seqs", "32")


def actors():
    found = []
    for process in psutil.process_iter():
        try:
            if process.name().startswith(ACTOR[:15]) and ACTOR in process.cmdline()[0]:
                found.append(process)
        except (psutil.Error, IndexError):
            continue
    return found


def ray_processes_of(process):
    """Those of Ray below a job's, and ours that speaks to it."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "ray" in " ".join(child.cmdline()[:3]):
                found.append(child)
    return found


@pytest.fixture
def cluster():
    """cluster.address of a cluster with one host of 1 CPU; cluster.add_host()."""
    script = Path(__file__).parent / "ray_hosts.py"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    hosts = subprocess.Popen([sys.executable, str(script)], **pipes)
    hosts.address = hosts.stdout.readline().strip()
    assert hosts.address

    def add_host():
        print("add", file=hosts.stdin, flush=True)
        assert hosts.stdout.readline().strip() == "added"

    hosts.add_host = add_host
    yield hosts
    hosts.communicate()


@needs_ray
@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".org", "[::1", ""])
def test_what_can_be_no_host_is_one_line(generate, host):
    code, _, err = generate([{"prompt": "a"}], "out.jsonl", "--ray", f"{host}:1")
    assert code == 4
    assert f"error: --ray {host}:1: cannot be reached: " in err


def journal_of(folder):
    return folder / ".out.jsonl.pagecli-journal" / "journal"


@needs_ray
@pytest.mark.slow
def test_output_is_that_of_one_process_and_nothing_is_left(generate, tmp_path):
    flags = ("--temperature", "0.8", "--max-num-seqs", "8")
    code, _, _ = generate(MIXED, "whole.jsonl", *flags)
    assert generate("in.jsonl", "ray.jsonl", *flags, "--ray", "local", "--workers", "2", "--stats", "s.json")[0] == code == 5
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    stats = json.loads((tmp_path / "s.json").read_text())
    assert sum(worker["num_rows"] for worker in stats["workers"]) == stats["num_requests"]
    running = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    assert not [child for child in running if "workers.ray_cluster" in " ".join(child.cmdline())]


@needs_ray
@pytest.mark.slow
def test_workers_are_replaced_hosts_join_and_no_row_is_lost(generate, start, tmp_path, cluster):
    """One job that wants two workers begins on a host with room for one; a second host joins, then a worker is killed."""
    rows = ROWS * 2
    assert generate(rows, "whole.jsonl", "--quiet", *LONG)[0] == 0
    flags = ("--ray", cluster.address, "--workers", "2", "--threads", "1", "--stats", "s.json")
    job = start("in.jsonl", "out.jsonl", *LONG, *flags)
    (first,) = wait_for(actors)
    wait_for(lambda: journal_of(tmp_path).exists() and journal_of(tmp_path).stat().st_size)
    first.send_signal(signal.SIGSTOP)  # the job lasts until the second is there
    cluster.add_host()
    wait_for(lambda: len(actors()) == 2)
    first.send_signal(signal.SIGKILL)
    assert job.wait(90) == 0, job.communicate()
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    stats = json.loads((tmp_path / "s.json").read_text())
    assert stats["num_workers_lost"] == 1
    assert all(worker["num_rows"] for worker in stats["workers"])
    wait_for(lambda: not actors())


@needs_ray
@pytest.mark.slow
def test_no_process_of_ray_outlives_a_killed_job_and_the_same_command_resumes_it(generate, start, tmp_path):
    write_rows(tmp_path / "in.jsonl", ROWS * 4)
    job = start("in.jsonl", "out.jsonl", *LONG, "--ray", "local", "--workers", "2")
    wait_for(lambda: journal_of(tmp_path).exists() and journal_of(tmp_path).stat().st_size > 5000)
    processes = ray_processes_of(job)
    assert len(processes) > 3
    workers = [process for process in processes if ACTOR in process.cmdline()[0]]
    workers[0].send_signal(signal.SIGSTOP)  # a stopped one must go too
    job.kill()
    assert not psutil.wait_procs(processes, timeout=15)[1]
    assert generate("in.jsonl", "out.jsonl", *LONG, "--quiet")[0] == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4 * len(ROWS)


@needs_ray
@pytest.mark.slow
def test_a_job_that_is_interrupted_while_ray_starts_ends_at_once_and_ray_with_it(start, tmp_path):
    write_rows(tmp_path / "in.jsonl", ROWS)
    job = start("in.jsonl", "out.jsonl", *LONG, "--ray", "local")
    processes = wait_for(lambda: len(found := ray_processes_of(job)) > 1 and found)
    job.send_signal(signal.SIGINT)
    assert job.wait(10) == 130
    assert not psutil.wait_procs(processes, timeout=30)[1]


def test_without_ray_a_line_says_what_works(generate, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find_spec(name))
    code, _, err = generate(ROWS[:2], "out.jsonl", "--ray", "local")
    assert code == 2
    assert "Ray is not installed" in err
    assert "pip install 'pagecli[ray]'" in err


@needs_ray
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--ray", "nowhere"], "--ray is 'nowhere'"),
        (["--ray", "ray://127.0.0.1:10001"], "HOST:PORT"),
        (["--ray", "127.0.0.1:1"], "cannot be reached"),
        (["--ray", "local", "--workers", "none"], "--workers is 'none'"),
    ],
)
def test_bad_settings_are_one_line(generate, flags, says):
    code, _, err = generate(ROWS[:2], "out.jsonl", *flags)
    assert code in (2, 4)
    assert says in err
    assert len(err.strip().splitlines()) == 2  # the error and its hint
