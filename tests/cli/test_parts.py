"""--shard auto/N: processes that share one job part by part, started at any time, ended at any time; the last one merges."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pagecli.cli.app import main
from pagecli.cli.generate import parts as parts_of_jobs
from pagecli.jobs.journal.job_lock import OutputLocked

ROWS = [{"id": i, "prompt": f"number {i} " + "word " * (i % 5)} for i in range(23)]
DOCS = Path(__file__).resolve().parents[2] / "docs/distributed.md"


def files_beside(folder, *known):
    return sorted(path.name for path in folder.iterdir() if path.name not in {"in.jsonl", *known})


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_one_process_runs_all_parts_and_writes_what_a_plain_run_writes(generate, tmp_path, suffix):
    rows = [*ROWS, {"id": "no prompt"}]
    assert generate(rows, f"whole.{suffix}")[0] == 5
    code, _, err = generate("in.jsonl", f"out.{suffix}", "--shard", "auto/5")
    assert code == 5
    assert [line for line in err.splitlines() if line.startswith("part 5/5: 4 rows")]
    if suffix == "parquet":
        assert pq.read_table(tmp_path / "out.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))
    else:
        assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    parts = tmp_path / f".out.{suffix}.pagecli-parts"
    assert sorted(path.name for path in parts.iterdir()) == ["job.json", "merged.json"]
    assert files_beside(tmp_path, f"whole.{suffix}", f"out.{suffix}") == [parts.name]


def test_a_process_that_another_one_comes_before_goes_on_with_other_parts(generate, tmp_path, monkeypatch):
    """Two processes that start together look for a free part at the same moment, and one of them gets it."""
    run, lost = parts_of_jobs.run_generate, []

    def run_unless_taken(job, *rest):
        if len(lost) < 2:
            lost.append(job.output)
            raise OutputLocked("another run of this job has it")
        return run(job, *rest)

    monkeypatch.setattr(parts_of_jobs, "run_generate", run_unless_taken)
    code, _, err = generate(ROWS, "out.jsonl", "--shard", "auto/2")
    assert (code, len(lost)) == (0, 2)
    assert "out.jsonl is complete: 23 rows of 2 parts" in err


def test_more_parts_than_rows_and_no_rows_at_all(generate, tmp_path):
    assert generate(ROWS[:2], "out.jsonl", "--shard", "auto/4", "--quiet")[0] == 0
    assert [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [0, 1]
    (tmp_path / "out.jsonl").unlink()
    assert generate([], "out.jsonl", "--shard", "auto/2", "--quiet")[0] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""


@pytest.mark.slow
def test_start_after_the_end_finds_nothing_to_do_and_a_removed_output_is_made_again(generate, tmp_path):
    assert generate(ROWS, "out.jsonl", "--shard", "auto/2", "--quiet")[0] == 0
    first, made = (tmp_path / "out.jsonl").read_bytes(), (tmp_path / "out.jsonl").stat().st_mtime_ns
    for flags in ((), ("--overwrite",)):
        code, _, err = generate("in.jsonl", "out.jsonl", "--shard", "auto/2", *flags)
        assert code == 0
        assert "out.jsonl is complete: 23 rows of 2 parts" in err
        assert (tmp_path / "out.jsonl").stat().st_mtime_ns == made
    (tmp_path / "out.jsonl").unlink()
    assert generate("in.jsonl", "out.jsonl", "--shard", "auto/2", "--quiet")[0] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == first


@pytest.mark.slow
def test_another_job_or_number_of_parts_is_refused_and_may_overwrite_what_is_complete(generate, tmp_path):
    assert generate(ROWS, "out.jsonl", "--shard", "auto/2", "--quiet")[0] == 0
    code, _, err = generate("in.jsonl", "out.jsonl", "--shard", "auto/2", "--seed", "9")
    assert code == 2
    assert "out.jsonl was begun by another job: what differs: a flag" in err
    code, _, err = generate("in.jsonl", "out.jsonl", "--shard", "auto/3")
    assert code == 2
    assert "was begun in 2 parts, now 3" in err
    assert generate("in.jsonl", "out.jsonl", "--shard", "auto/2", "--max-tokens", "3", "--overwrite", "--quiet")[0] == 0
    assert generate("in.jsonl", "plain.jsonl", "--max-tokens", "3", "--quiet")[0] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "plain.jsonl").read_bytes()


def test_output_of_other_origin_is_not_replaced(generate, tmp_path):
    (tmp_path / "out.jsonl").write_text("mine\n")
    code, _, err = generate(ROWS, "out.jsonl", "--shard", "auto/2")
    assert code == 2
    assert "already exists" in err
    assert (tmp_path / "out.jsonl").read_text() == "mine\n"
    assert generate("in.jsonl", "out.jsonl", "--shard", "auto/2", "--overwrite", "--quiet")[0] == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == len(ROWS)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--stats", "s.json"], "--stats is one process's"),
        (["--profile", "p"], "--profile is one process's"),
        (["--metrics-file", "m.prom"], "--metrics-file is one process's"),
        (["--restart"], "--restart does not go with --shard auto"),
        (["--partial"], "--partial does not go with --shard auto"),
        (["--no-journal"], "--no-journal does not go with --shard auto"),
        (["--order", "completion"], "--order completion"),
        (["--shard", "auto/0"], "--shard is 'auto/0'; give the number of parts: auto/64"),
        (["--shard", "auto"], "--shard is 'auto'"),
    ],
)
def test_what_does_not_go_with_parts_is_one_line(generate, tmp_path, flags, says):
    code, _, err = generate(ROWS, "out.jsonl", "--shard", "auto/2", *flags)
    assert code == 2
    assert says in "; ".join(re.sub("(?m)^(error|hint): ", "", err).splitlines())
    assert files_beside(tmp_path) == []


def test_streams_cannot_be_shared(generate, tmp_path):
    assert generate(ROWS, "-", "--shard", "auto/2")[0] == 2
    code, _, err = generate("-", "out.jsonl", "--shard", "auto/2")
    assert code == 2
    assert "every process reads the input" in err


@pytest.mark.slow
def test_process_that_waits_takes_over_the_part_of_a_killed_one(generate, start, tmp_path):
    """The first is stopped while it has part 1 of 2: the second runs part 2, then part 1 once the first is killed."""
    rows = [{"id": i, "prompt": f"n {i}"} for i in range(200)]
    assert generate(rows, "whole.jsonl", "--max-tokens", "20", "--quiet")[0] == 0
    flags = ("in.jsonl", "out.jsonl", "--shard", "auto/2", "--no-chat", "--max-tokens", "20")
    journal = tmp_path / ".out.jsonl.pagecli-parts" / ".part-1-of-2.jsonl.pagecli-journal" / "journal"
    first = start(*flags)
    deadline = time.monotonic() + 60
    while not journal.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)
    second = start(*flags)
    part = tmp_path / ".out.jsonl.pagecli-parts" / "part-2-of-2.jsonl"
    while not part.exists() and second.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert second.poll() is None
    first.kill()
    assert second.wait(60) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_status_counts_parts_and_rows_of_all(generate, tmp_path, capfd):
    assert generate(ROWS, "out.jsonl", "--shard", "auto/3", "--quiet")[0] == 0
    folder = tmp_path / ".out.jsonl.pagecli-parts"
    (folder / "merged.json").unlink()
    (tmp_path / "out.jsonl").rename(folder / "part-2-of-3.jsonl")
    for as_json in (True, False):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["status", str(tmp_path / "out.jsonl"), *(["--json"] if as_json else [])])
        assert ended.value.code == 11
        out = capfd.readouterr().out
        if as_json:
            found = json.loads(out)
            assert (found["state"], found["num_rows"], found["num_parts"]) == ("stopped", len(ROWS), 3)
            assert (found["num_parts_complete"], found["num_parts_running"]) == (1, 0)
        else:
            assert "1 of 3 complete, 0 running" in out


def commands_of_docs():
    text = DOCS.read_text()
    slurm = re.search(r"^pagecli generate .*--shard auto.*$", text, re.MULTILINE)
    kubernetes = re.search(r"args:\n\s+- (pagecli generate .*)$", text, re.MULTILINE)
    ssh = re.search(r"(?s)```sh\n(for host.*?)```", text)
    return {"slurm": slurm[0], "kubernetes": kubernetes[1], "ssh": ssh[1]}


@pytest.mark.slow
@pytest.mark.parametrize("system", ["slurm", "kubernetes", "ssh"])
def test_examples_of_the_documentation_run_as_processes(generate, tiny_model, tmp_path, system):
    """Three tasks of the batch system at a time; `ssh HOST COMMAND` runs the command here."""
    assert generate(ROWS, "whole.jsonl", "--quiet")[0] == 0
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "pagecli").write_text(f'#!/bin/sh\nexec {sys.executable} -m pagecli "$@" --no-chat --max-tokens 6\n')
    (tools / "ssh").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "SHARED": str(tmp_path), "MODEL": str(tiny_model("llama"))}
    command = ["sh", "-c", commands_of_docs()[system]]
    tasks = [
        subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE)
        for _ in range(1 if system == "ssh" else 3)
    ]
    for task in tasks:
        _, said = task.communicate(timeout=120)
        assert (task.returncode, said) == (0, b"")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
