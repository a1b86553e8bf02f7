"""--workers: a job on several engines writes what it writes on one, whatever happens to their processes."""

import contextlib
import dataclasses
import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from input_files import write_rows

from pagecli.core.child_process import ChildProcess
from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import UsageError
from pagecli.jobs.workers.pool import EnginePool
from pagecli.jobs.workers.same_job import Facts, difference
from pagecli.jobs.workers.sources import LocalWorkers
from pagecli.jobs.workers.worker import MODULE
from pagecli.profiler.recording.engine_recording import WorkerRecording

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


@pytest.mark.slow
@pytest.mark.parametrize("count", ["1", "3"])
def test_output_is_that_of_one_process(generate, tmp_path, count):
    flags = ("--temperature", "0.8", "--max-num-seqs", "8")
    code, _, _ = generate(MIXED, "whole.jsonl", *flags)
    assert generate("in.jsonl", "pool.jsonl", *flags, "--workers", count, "--stats", "s.json")[0] == code == 5
    assert (tmp_path / "pool.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    stats = json.loads((tmp_path / "s.json").read_text())
    assert len(stats["workers"]) <= int(count)
    assert sum(worker["num_rows"] for worker in stats["workers"]) == stats["num_requests"]
    running = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    assert not [child for child in running if "workers.worker" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_parts_and_resumed_jobs_have_pools_too(generate, tmp_path):
    assert generate(ROWS, "whole.jsonl", "--quiet")[0] == 0
    assert generate("in.jsonl", "out.jsonl", "--shard", "auto/3", "--workers", "2", "--quiet")[0] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.slow
def test_a_job_of_nothing_but_such_a_row_ends_too(generate, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr("pagecli.cli.generate.pool.MODULE", "poison_worker")
    assert generate([{"prompt": "poison"}], "out.jsonl", "--workers", "1")[0] == 5
    assert json.loads((tmp_path / "out.jsonl").read_text())["error_code"] == "worker_lost"


def harmed_job(generate, start, tmp_path, harm, num_harmed, *flags):
    """What --stats says of a job of which workers were harmed on the way; its output is that of one process."""
    rows = [{"id": i, "prompt": f"n {i}"} for i in range(200)]
    lengths = ("--max-tokens", "24")
    assert generate(rows, "whole.jsonl", "--quiet", *lengths)[0] == 0
    few = ("--no-chat", "--workers", "2", "--max-num-seqs", "4", "--stats", "s.json")
    job = start("in.jsonl", "out.jsonl", *few, *flags, *lengths)
    journal = tmp_path / ".out.jsonl.pagecli-journal" / "journal"
    wait_for(lambda: (journal.exists() and journal.stat().st_size > 5000) or job.poll() is not None)
    for worker in wait_for(lambda: len(found := workers_of(job)) == 2 and found)[:num_harmed]:
        worker.send_signal(harm)
    assert job.wait(90) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    return json.loads((tmp_path / "s.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("harm", "num_harmed"), [(signal.SIGKILL, 1), (signal.SIGSTOP, 2)])
def test_lost_workers_are_replaced_and_no_row_with_them(generate, start, tmp_path, harm, num_harmed):
    """Of stopped ones all are: what one of two has would be finished by copies, perhaps before it counts as lost."""
    stats = harmed_job(generate, start, tmp_path, harm, num_harmed, "--worker-timeout", "4")
    num_restarts = sum(worker["num_restarts"] for worker in stats["workers"])
    assert stats["num_workers_lost"] == num_harmed
    assert num_harmed - 1 <= num_restarts <= num_harmed  # another worker may have finished all before one has started again


@pytest.mark.slow
def test_the_other_worker_finishes_copies_of_what_a_stopped_one_has(generate, start, tmp_path):
    stats = harmed_job(generate, start, tmp_path, signal.SIGSTOP, 1, "--worker-timeout", "80")
    assert stats["num_workers_lost"] == 0


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_workers_that_join_midway_get_rows(tiny_model):
    with pool_of(tiny_model, LocalWorkers(), 1) as pool:
        pool.add_worker()
        assert finished_by(pool, 400) == list(range(400))
        assert all(worker["num_rows"] > 0 for worker in pool.stats()["workers"])
        assert len(pool.stats()["workers"]) == 2
    assert threading.active_count() < 20


@pytest.mark.slow
def test_a_pool_says_how_much_of_the_model_its_furthest_worker_has_loaded(tiny_model, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}")
    source, shown = LocalWorkers(module="slow_loading_worker"), []
    config = EngineConfig(str(tiny_model("llama")), kv_memory_bytes=8 << 20, threads=1)
    with contextlib.closing(EnginePool(config, 2, source, on_loading=lambda *read: shown.append(read))) as pool:
        assert finished_by(pool, 4) == [0, 1, 2, 3]
    shares = [read / of for read, of in shown]
    assert shares == sorted(shares)
    assert len(set(shares)) > 2
    assert all(0 < share <= 1 for share in shares)


class MixedWorkers(LocalWorkers):
    """The second worker computes as an older machine does; `grows`: it may come later than the first."""

    def __init__(self, grows):
        super().__init__()
        self.grows = grows

    def start(self, number):
        self.grows = self.grows and number == 0
        return ChildProcess(MODULE, environment={"PAGECLI_CPU_ISA": "generic"} if number % 2 else None)


def pool_of(tiny_model, source, count, **settings):
    config = EngineConfig(str(tiny_model("llama")), kv_memory_bytes=8 << 20, max_num_seqs=4, threads=1)
    return contextlib.closing(EnginePool(config, count, source, **settings))


def finished_by(pool, num_rows, until=lambda: True):
    for request_id in range(num_rows):
        pool.add_request(request_id, [5, 6, 7], SamplingParams(max_tokens=60, ignore_eos=True))
    found = []
    while pool.has_unfinished() or not until():
        found += pool.step()
    return sorted(output.request_id for output in found)


@pytest.mark.slow
def test_workers_of_other_instruction_sets_are_refused_unless_allowed(tiny_model):
    """The first worker computes as the driver does; the second may come first, too."""
    with pytest.raises(UsageError, match="with generic") as refused:  # noqa: SIM117
        with pool_of(tiny_model, MixedWorkers(False), 2) as pool:
            finished_by(pool, 8, lambda: len(pool.stats()["workers"]) == 2)
    assert "--allow-mixed-hardware" in refused.value.hint
    with pool_of(tiny_model, MixedWorkers(False), 2, mixed_hardware=True) as pool:
        assert finished_by(pool, 8, lambda: len(pool.stats()["workers"]) == 2) == list(range(8))
        assert "generic" in {worker["cpu_isa"] for worker in pool.stats()["workers"]}


def test_what_two_hosts_differ_in_is_said_with_what_gives_them_one():
    here = Facts("the driver", "amx", ("amx", "avx512bf16", "avx512", "avx2", "generic"), "a digest")
    other = Facts("vm", "avx2", ("avx2", "generic"), "a digest")
    assert difference(here, here, mixed=False) is None
    assert difference(here, other, mixed=True) is None
    assert "PAGECLI_CPU_ISA=avx2 gives all of them one" in difference(here, other, mixed=False).hint
    changed = dataclasses.replace(other, model="another")
    assert "the model's files on vm differ" in difference(here, changed, mixed=True).message


@pytest.mark.slow
def test_a_growing_pool_takes_more_workers_while_it_has_rows_and_refuses_others_without_ending(tiny_model, monkeypatch):
    monkeypatch.setattr("pagecli.jobs.workers.pool.LOOK_SECONDS", 0.2)
    said, sizes = [], []
    with pool_of(tiny_model, MixedWorkers(True), 1, say=said.append) as pool:
        pool.on_growth = sizes.append
        assert finished_by(pool, 2000, lambda: bool(said)) == list(range(2000))
    assert "a worker was refused: the hardware differs" in said[0]
    with pool_of(tiny_model, MixedWorkers(True), 1, mixed_hardware=True) as pool:
        pool.on_growth = sizes.append
        assert finished_by(pool, 2000) == list(range(2000))
    assert max(sizes) == pool.num_replicas == 2


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--workers", "0"], "--workers is '0'"),
        (["--workers", "many"], "--workers is 'many'"),
        (["--workers", "2", "--kv-memory", "100GiB"], "does not fit"),
        (["--workers", "2", "--model", "nowhere"], "nowhere"),
    ],
)
def test_bad_settings_are_one_line(generate, flags, says):
    code, _, err = generate(ROWS[:2], "out.jsonl", *flags)
    assert code in (2, 4)
    assert says in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_profile_has_a_table_of_workers_and_what_each_recorded(generate, tmp_path):
    flags = ("--workers", "2", "--profile", "p", "--stats", "s.json", "--max-num-seqs", "8")
    assert generate(ROWS, "out.jsonl", *flags)[0] == 0
    stats, page = json.loads((tmp_path / "s.json").read_text()), (tmp_path / "p/report.html").read_text()
    workers = json.loads((tmp_path / "p/summary.json").read_text())["workers"]
    assert [worker["worker"] for worker in workers] == [worker["worker"] for worker in stats["workers"]]
    assert sum(worker["summary"]["num_requests"] for worker in workers) == stats["num_requests"] == len(ROWS)
    assert sum(worker["summary"]["output_tokens"] for worker in workers) == stats["output_tokens"]
    for worker in workers:
        folder, heading = tmp_path / f"p/worker-{worker['worker']}", f"Worker {worker['worker']}: what happened in its run"
        assert pq.read_table(folder / "steps.parquet").num_rows == worker["summary"]["num_steps"]
        assert json.loads((folder / "trace.json").read_text())["traceEvents"]
        assert heading in page
    assert "Workers of the pool" in page


@pytest.mark.slow
def test_profile_of_a_pool_that_lost_a_worker_has_the_others(tmp_path, tiny_model):
    config = EngineConfig(str(tiny_model("llama")), max_num_seqs=4, kv_memory_bytes=1 << 20)
    pool = EnginePool(config, 2, LocalWorkers(), record=WorkerRecording("title", "model"))
    try:
        while len(pool.stats()["workers"]) < 2:
            pool.step()
        for request_id in range(12):
            pool.add_request(request_id, [5, 6, 7], SamplingParams(max_tokens=40, ignore_eos=True))
        finished = pool.step()
        os.kill(pool.stats()["workers"][0]["pid"], signal.SIGKILL)
        while pool.has_unfinished():
            finished += pool.step()
        assert len(finished) == 12
        recorded = pool.recordings(30.0)
        assert 1 in recorded
        assert sum(recording.totals["num_requests"] for recording in recorded.values()) <= 12
    finally:
        pool.close()
