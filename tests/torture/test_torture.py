"""A small torture campaign: kills, faults, changes and damaged journals; the full one is `python tests/torture/kill.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_job_that_is_killed_starved_and_damaged_comes_out_unharmed():
    script = Path(__file__).with_name("kill.py")
    command = [sys.executable, str(script), "--kills", "16", "--rows", "100", "--processes", "1", "--seed", "11", "--each", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    counts = json.loads(ended.stdout[ended.stdout.index("{") :])["counts"]
    assert counts["kills"] >= 16
    assert counts["faults"] > 0
    assert counts["changes"] > 0
    assert counts["targets"] > 0
    assert counts["merges identical to the whole"] == counts["merges"] > 0
    assert counts["outputs identical to an undisturbed run"] >= counts["jobs"] >= 4
    assert counts["losses"] == 0


@pytest.mark.slow
def test_parts_of_killed_processes_are_merged_to_what_one_process_writes():
    script = Path(__file__).with_name("kill_parts.py")
    command = [sys.executable, str(script), "--parts", "6", "--processes", "3", "--kills", "3", "--rows", "90", "--seed", "5"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    counts = json.loads(ended.stdout[ended.stdout.index("{") :])["counts"]
    assert counts["outputs identical to one process's"] == 1
    assert counts["processes that saw the job complete"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["--workers", "--ranks"])
def test_job_whose_processes_are_killed_writes_what_one_process_writes(processes):
    script = Path(__file__).with_name("kill_workers.py")
    command = [sys.executable, str(script), "--rows", "150", processes, "2", "--harms", "3", "--seed", "11"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    counts = json.loads(ended.stdout[ended.stdout.index("{\n") :])["counts"]
    assert counts["outputs identical to one process's"] == counts["jobs"] >= 1


@pytest.mark.slow
def test_retries_scores_embeddings_and_every_kind_of_file_come_out_unharmed():
    names = (
        "retries",
        "errors retried",
        "errors retried in Parquet",
        "forms, retries",
        "CSV",
        "SQLite",
        "DuckDB",
        "score",
        "embed",
    )
    script = Path(__file__).with_name("kill.py")
    command = [sys.executable, str(script), "--kills", str(len(names)), "--each", "1", "--rows", "40", "--processes", "0"]
    command += ["--seed", "3", *(word for name in names for word in ("--case", name))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    counts = json.loads(ended.stdout[ended.stdout.index("{\n") :])["counts"]
    assert all(counts[f"jobs: {name}"] >= 1 for name in names)
    assert counts["outputs identical to an undisturbed run"] >= counts["jobs"] >= len(names)
    assert counts["losses"] == 0
