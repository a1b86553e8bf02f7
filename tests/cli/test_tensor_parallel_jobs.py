"""--tensor-parallel-size and --sum-segments: what decides the bits is the job's identity, and nothing outlives a job."""

import json
import signal
import time

import psutil
import pytest
from input_files import write_rows

from pagecli.cli.generate.options import parse_ranks

ROWS = [{"id": i, "prompt": f"number {i} " + "word " * (i % 5)} for i in range(20)]


@pytest.mark.slow
def test_ranks_write_what_segments_write_and_are_listed(generate, tmp_path):
    flags = ("--temperature", "0.7", "--dtype", "float32")
    assert generate(ROWS, "segments.jsonl", "--sum-segments", "2", *flags)[0] == 0
    assert generate("in.jsonl", "ranks.jsonl", "--tensor-parallel-size", "2", "--stats", "s.json", *flags)[0] == 0
    assert (tmp_path / "ranks.jsonl").read_bytes() == (tmp_path / "segments.jsonl").read_bytes()
    ranks = json.loads((tmp_path / "s.json").read_text())["ranks"]
    assert [(rank["rank"], rank["num_restarts"]) for rank in ranks] == [(0, 0), (1, 0)]
    running = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    assert not [child for child in running if "distributed.rank" in " ".join(child.cmdline())]


@pytest.mark.parametrize(("nodes", "free_bytes", "chosen"), [(1, 1 << 20, 1), (4, 64 << 30, 1), (4, (4 << 30) + (1 << 20), 4)])
def test_auto_is_the_least_number_of_ranks_that_have_room_on_a_numa_node(tiny_model, monkeypatch, nodes, free_bytes, chosen):
    monkeypatch.setattr("pagecli.engine.replicas.numa_nodes", lambda: [[0]] * nodes)
    monkeypatch.setattr("pagecli.devices.memory.available_bytes", lambda: free_bytes)
    config = parse_ranks("auto", {"model": str(tiny_model("llama")), "dtype": "float32"})
    assert config == chosen


@pytest.mark.slow
def test_a_recorded_job_of_ranks_has_a_table_of_them(generate, tmp_path):
    assert generate(ROWS[:4], "out.jsonl", "--tensor-parallel-size", "2", "--profile", "p", "--dtype", "float32")[0] == 0
    assert [rank["rank"] for rank in json.loads((tmp_path / "p/summary.json").read_text())["facts"]["ranks"]] == [0, 1]
    assert "Ranks that share the model" in (tmp_path / "p/report.html").read_text()


@pytest.mark.slow
def test_job_of_ranks_is_resumed_by_segments_only(generate, start, tmp_path):
    rows = [{"id": i, "prompt": f"n {i}"} for i in range(400)]
    assert generate(rows, "whole.jsonl", "--max-tokens", "60", "--sum-segments", "2", "--quiet")[0] == 0
    write_rows(tmp_path / "in.jsonl", rows)
    job = start("in.jsonl", "out.jsonl", "--no-chat", "--max-tokens", "60", "--tensor-parallel-size", "2")
    journal = tmp_path / ".out.jsonl.pagecli-journal" / "journal"
    for _ in range(6000):
        if (journal.exists() and journal.stat().st_size > 3000) or job.poll() is not None:
            break
        time.sleep(0.01)
    ranks = psutil.Process(job.pid).children()
    job.send_signal(signal.SIGKILL)
    job.wait(30)
    assert not psutil.wait_procs(ranks, timeout=5)[1]
    code, _, err = generate("in.jsonl", "out.jsonl", "--max-tokens", "60")
    assert code == 2
    assert "--sum-segments (2, now null)" in err
    assert generate("in.jsonl", "out.jsonl", "--max-tokens", "60", "--sum-segments", "2", "--quiet")[0] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--tensor-parallel-size", "3"],
            "--tensor-parallel-size 3 does not divide the model's 4 heads and 160",
        ),
        (["--tensor-parallel-size", "2", "--dtype", "int8"], "in whole groups of 64"),
        (["--sum-segments", "3"], "--sum-segments 3 does not divide"),
        (["--tensor-parallel-size", "4", "--sum-segments", "2"], "is no multiple of --tensor-parallel-size 4"),
        (["--tensor-parallel-size", "0"], "--tensor-parallel-size is '0'"),
        (["--tensor-parallel-size", "many"], "write auto, or a number"),
    ],
)
def test_bad_settings_are_one_line(generate, flags, says):
    code, _, err = generate(ROWS[:2], "out.jsonl", *flags)
    assert code == 2
    assert says in err
    assert "Traceback" not in err
