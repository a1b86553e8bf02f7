"""benchmarks/gpu's measuring parts run from end to end, at next to no size, on the emulator: so that nothing but the figures is
new on the day of the GPU. A process that hangs, a figure that fails and a missing peer leave what was measured."""

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import emulated
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
GPU = ROOT / "benchmarks" / "gpu"
sys.path.insert(0, str(GPU))


def run(build: Path, out: Path, *parts: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = emulated.environment(build, "plain") | {"PYTHON": sys.executable, "OUT": str(out), "TINY": "1"} | variables
    command = ["bash", str(GPU / "run.sh"), *parts]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_throughput_and_the_papers_figures_are_measured(tmp_path):
    done = run(emulated.build(), tmp_path, "ceilings", "throughput", "paper")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = json.loads((tmp_path / "throughput.json").read_text())
    ways = {row["way"] for row in rows}  # a peer that fails has a line like the others: whether it works is its business
    assert {"pagecli, n = 1", "pagecli, n = 3", "transformers one by one", "transformers continuous batching"} <= ways
    assert [row for row in rows if row["system"] == "pagecli" and "error" in row] == []
    speeds = {row["way"]: row["tokens_per_second"] for row in rows if "error" not in row}
    assert min(speeds.values()) > 0
    assert all(row["roofline_share"] > 0 for row in rows if row["system"] == "pagecli")
    figures = [row["figure"] for row in json.loads((tmp_path / "paper.json").read_text())]
    assert set(figures) == {"attention", "swap", "recompute", "policies", "block sizes", "preemption"}
    for name in ("throughput.md", "paper.md", "throughput.log", "paper.log"):
        assert (tmp_path / name).stat().st_size > 100
    assert "throughput: exit 0" in (tmp_path / "summary.txt").read_text()


@pytest.mark.slow
def test_a_way_of_a_peer_that_fails_is_a_line_and_the_ways_after_it_run(tmp_path, monkeypatch, capsys):
    import systems
    import throughput
    from model_shapes import model_directory, requests

    def fails(*_):
        raise AttributeError("no attribute 'get_seq_length'\nat all")

    monkeypatch.setattr(systems, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(systems, "generate", fails)
    monkeypatch.setattr(systems, "continuous", lambda *_: (12, 3, True))
    monkeypatch.setattr(systems, "metered", lambda work: (work(), 2.0, None))
    options = types.SimpleNamespace(seconds=1.0, tiny=True)
    systems.run_transformers(model_directory("opt-13b", tiny=True), requests(3, 64, tiny=True), options)
    rows = [{"system": "transformers", "model": "opt-13b"} | row for row in systems.results_in(capsys.readouterr().out)]
    assert [row.get("error") for row in rows] == [*["AttributeError: no attribute 'get_seq_length'"] * 2, None]
    assert rows[2]["tokens_per_second"] == 6.0
    assert "| opt-13b | transformers one by one | AttributeError: no attribute 'get_seq_length' |" in throughput.table(rows)


@pytest.mark.slow
def test_parts_are_known_by_name(tmp_path):
    command = ["bash", str(GPU / "run.sh"), "kernels", "speed"]
    done = subprocess.run(command, env=os.environ | {"OUT": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown part: speed" in done.stderr


def test_parts_of_tests_name_files_that_a_gpu_runs():
    lists = dict(re.findall(r'\[(tests|families)\]="([^"]*)"', (GPU / "run.sh").read_text()))
    names = [name for part in ("tests", "families") for name in lists[part].split()]
    assert len(names) == len({*names})
    for name in names:
        marked = re.search(r"mark\.cuda", (ROOT / "tests" / "cuda" / f"test_cuda_{name}.py").read_text())
        assert marked, name


@pytest.mark.slow
def test_the_sanitizers_part_chooses_tests_of_every_kind():
    """Both attention kernels, on the tensor cores and without them, and the draws."""
    chosen = re.search(r'small="([^"]*)"', (GPU / "run.sh").read_text())[1]
    files = [f"tests/cuda/test_cuda_{name}.py" for name in ("attention", "sampling")]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "cuda", "-k", chosen, "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    found = [line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line]
    for wanted in ("test_decode[2-2-64-", "test_decode[8-2-128-", "test_prefill", "test_draws"):
        assert any(name.startswith(wanted) for name in found), (wanted, found)
    assert len(found) < 10  # under compute-sanitizer each takes long


@pytest.mark.slow
def test_a_process_that_hangs_is_stopped_and_what_it_measured_stays():
    from throughput import output_of

    says = (
        "import time; print('RESULT {\"way\": \"a\"}', flush=True); print('RESULT {\"wa', end='', flush=True); time.sleep(60)"
    )
    rows, error = output_of([sys.executable, "-c", says], 1.0)
    assert rows == [{"way": "a"}]
    assert error == "stopped after 1 s"
    assert output_of([sys.executable, "-c", "raise SystemExit(3)"], 30.0) == ([], "exit code 3")


def test_a_figure_that_fails_or_comes_too_late_leaves_the_others(tmp_path, monkeypatch, capsys):
    import paper

    def fails():
        yield {"figure": "half", "value": 1.5}
        raise RuntimeError("no such kernel\nat all")

    figures = [("good", lambda: iter([{"figure": "good", "value": None}])), ("half", fails)]
    monkeypatch.setattr(paper, "sources", lambda *_, **__: figures)
    for limit, wanted in ((90, ["good", "half", "not measured"]), (5, ["not measured", "not measured"])):
        monkeypatch.setattr(sys, "argv", ["paper.py", "--out", str(tmp_path), "--limit", str(limit)])
        paper.main()
        rows = json.loads((tmp_path / "paper.json").read_text())
        assert [row["figure"] for row in rows] == wanted
        assert rows[-1]["why"] == f"RuntimeError: {'no such kernel' if limit == 90 else 'no time was left'}"
    assert "| - |" in capsys.readouterr().out
