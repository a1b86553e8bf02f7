"""--workers: a job on several engines writes what it writes on one, whatever happens to their processes."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from input_files import write_rows

ROWS = [{"id": i, "prompt": f"number {i} " + "word " * (i % 5)} for i in range(40)]
MIXED = [
    *ROWS,
    {"id": "no prompt"},
    {"id": "too long", "prompt": "word " * 900},
    {"id": "samples", "prompt": "and", "n": 3, "temperature": 1},
    {"id": "beams", "prompt": "or", "beam_width": 3},
    {"id": "wide", "prompt": "x", "n": 60},
]


def workers_of(process):
    try:
        found = psutil.Process(process.pid).children()
        return [child for child in found if "pagecli.jobs.workers.worker" in child.cmdline()]
    except psutil.Error:
        return []


def is_tied_to_its_parent(worker):
    """Whether it has come so far: signals of the job are ignored from then on."""
    ignored = Path(f"/proc/{worker.pid}/status").read_text().split("SigIgn:")[1].split()[0]
    return bool(int(ignored, 16) >> (signal.SIGTERM - 1) & 1)


def wait_for(condition):
    for _ in range(6000):
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("waited in vain")


@pytest.mark.parametrize("count", ["1", "3"])
def test_output_is_that_of_one_process(generate, tmp_path, count):
    flags = ("--temperature", "0.8", "--max-num-seqs", "8")
    code, _, _ = generate(MIXED, "whole.jsonl", *flags)
    assert generate("in.jsonl", "pool.jsonl", *flags, "--workers", count, "--stats", "s.json")[0] == code == 5
    assert (tmp_path / "pool.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    stats = json.loads((tmp_path / "s.json").read_text())
    assert len(stats["workers"]) <= int(count)
    assert sum(worker["num_rows"] for worker in stats["workers"]) == stats["num_requests"]
    assert not [child for child in psutil.Process().children() if "workers.worker" in " ".join(child.cmdline())]


def test_parts_and_resumed_jobs_have_pools_too(generate, tmp_path):
    assert generate(ROWS, "whole.jsonl", "--quiet")[0] == 0
    assert generate("in.jsonl", "out.jsonl", "--shard", "auto/3", "--workers", "2", "--quiet")[0] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_lost_worker_is_replaced_and_no_row_with_it(generate, start, tmp_path, harm):
    rows = [{"id": i, "prompt": f"n {i}"} for i in range(600)]
    flags = ("--max-tokens", "24")
    assert generate(rows, "whole.jsonl", "--quiet", *flags)[0] == 0
    job = start("in.jsonl", "out.jsonl", "--no-chat", "--workers", "2", "--worker-timeout", "2", "--stats", "s.json", *flags)
    journal = tmp_path / ".out.jsonl.pagecli-journal" / "journal"
    wait_for(lambda: (journal.exists() and journal.stat().st_size > 5000) or job.poll() is not None)
    for worker in workers_of(job)[:1]:
        worker.send_signal(harm)
    assert job.wait(90) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    lost = json.loads((tmp_path / "s.json").read_text())["num_workers_lost"]
    assert lost == 1 or (lost == 0 and harm == signal.SIGSTOP)  # a second copy of a stopped worker's last rows may be quicker


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_the_job_and_the_same_command_resumes_it(generate, start, tmp_path, end):
    rows = [{"id": i, "prompt": f"n {i}"} for i in range(600)]
    flags = ("--no-chat", "--max-tokens", "100", "--workers", "2")
    write_rows(tmp_path / "in.jsonl", rows)
    job = start("in.jsonl", "out.jsonl", *flags)
    workers = wait_for(lambda: len(found := workers_of(job)) == 2 and all(map(is_tied_to_its_parent, found)) and found)
    workers[0].send_signal(signal.SIGSTOP)  # a stopped one must go too
    job.send_signal(end)
    assert job.wait(30) in (-signal.SIGKILL, 128 + signal.SIGTERM)
    assert not psutil.wait_procs(workers, timeout=5)[1]
    assert generate("in.jsonl", "out.jsonl", "--max-tokens", "100", "--quiet")[0] == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 600


def test_row_that_ends_its_workers_becomes_one_error_row(generate, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr("pagecli.cli.generate.pool.MODULE", "poison_worker")
    rows = [*ROWS[:10], {"id": "bad", "prompt": "poison"}, *ROWS[10:20]]
    assert generate([row for row in rows if row["id"] != "bad"], "whole.jsonl", "--quiet")[0] == 0
    good = (tmp_path / "whole.jsonl").read_text().splitlines()
    code, _, _ = generate(rows, "out.jsonl", "--workers", "2")
    assert code == 5
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    (failed,) = [row for row in map(json.loads, lines) if row["id"] == "bad"]
    assert failed["error_code"] == "worker_lost"
    assert "killed by SIGKILL" in failed["error"]
    assert [line for line in lines if '"bad"' not in line] == good


def test_workers_that_join_midway_get_rows(tiny_model):
    from pagecli.core.child_process import ChildProcess
    from pagecli.core.engine_config import EngineConfig
    from pagecli.core.sampling_params import SamplingParams
    from pagecli.jobs.workers.pool import EnginePool
    from pagecli.jobs.workers.worker import MODULE

    config = EngineConfig(str(tiny_model("llama")), kv_memory_bytes=8 << 20, max_num_seqs=4, threads=1)
    pool = EnginePool(config, 1, lambda number: ChildProcess(MODULE))
    try:
        for request_id in range(400):
            pool.add_request(request_id, [5, 6, 7], SamplingParams(max_tokens=60, ignore_eos=True))
        pool.add_worker()
        found = []
        while pool.has_unfinished():
            found += pool.step()
        assert sorted(output.request_id for output in found) == list(range(400))
        assert all(worker["num_rows"] > 0 for worker in pool.stats()["workers"])
        assert len(pool.stats()["workers"]) == 2
    finally:
        pool.close()
    assert threading.active_count() < 20


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--workers", "0"], "--workers is '0'"),
        (["--workers", "many"], "--workers is 'many'"),
        (["--workers", "2", "--profile", "p"], "--profile records one engine"),
        (["--workers", "2", "--kv-memory", "100GiB"], "does not fit"),
        (["--workers", "2", "--model", "nowhere"], "nowhere"),
    ],
)
def test_bad_settings_are_one_line(generate, flags, says):
    code, _, err = generate(ROWS[:2], "out.jsonl", *flags)
    assert code in (2, 4)
    assert says in err
    assert "Traceback" not in err
