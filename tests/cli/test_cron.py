"""The crontab line and the systemd units of sample_data/nightly/ do what they say, as they are written."""

import datetime
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from input_files import write_rows

ROOT = Path(__file__).resolve().parent.parent.parent
NIGHTLY = ROOT / "sample_data" / "nightly"


def crontab_command() -> str:
    """The command as cron hands it to the shell: without the five fields of time, `\\%` as `%`."""
    [line] = [line for line in (NIGHTLY / "crontab").read_text().splitlines() if re.match(r"[\d*]", line)]
    command = re.fullmatch(r"(?:\S+\s+){5}(.*)", line)[1]
    assert not re.search(r"(?<!\\)%", command), "cron takes a plain % as the end of the line"
    return command.replace(r"\%", "%")


def unit_command() -> str:
    """The service's command as systemd hands it to the shell."""
    text = (NIGHTLY / "pagecli-nightly.service").read_text()
    quoted = re.search(r"^ExecStart=/bin/sh -c '(.*)'$", text, re.MULTILINE)[1]
    return quoted.replace("$$", "$").replace("%%", "%").replace("%h", '"$HOME"')


@pytest.fixture
def run_at_night(tiny_model, tmp_path):
    """run_at_night(command) in a home directory with a job, and no more in the environment than cron gives."""
    jobs, program = tmp_path / "jobs", tmp_path / "pagecli" / ".venv" / "bin" / "pagecli"
    jobs.mkdir()
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pagecli "$@"\n')
    program.chmod(0o755)
    write_rows(jobs / "in.jsonl", [{"prompt": f"number {i}"} for i in range(3)])
    (jobs / "pagecli.toml").write_text(f'model = "{tiny_model("llama")}"\nmax-tokens = 4\nkv-memory = "8MiB"\nchat = false\n')

    def run(command: str, **settings) -> subprocess.CompletedProcess:
        bare = ["env", "-i", f"HOME={tmp_path}", "PATH=/usr/bin:/bin", "sh", "-c", command]
        return subprocess.run(bare, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, **settings)

    return run


@pytest.mark.slow
def test_the_crontab_line_does_the_job_once_and_is_silent(run_at_night, tmp_path):
    days = {datetime.date.today().isoformat()}
    done = run_at_night(crontab_command(), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    days.add(datetime.date.today().isoformat())
    [output] = [tmp_path / "jobs" / f"out-{day}.parquet" for day in days if (tmp_path / "jobs" / f"out-{day}.parquet").exists()]
    assert pq.read_table(output).num_rows == 3
    assert "exit_code=0" in (tmp_path / "jobs" / "nightly.log").read_text()
    assert "pagecli_job_last_success_timestamp_seconds{" in (tmp_path / "jobs" / "nightly.prom").read_text()
    written = output.stat().st_mtime_ns
    done = run_at_night(crontab_command(), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert output.stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_failure_in_the_night_says_why_and_the_unit_runs_the_same_job(run_at_night, tmp_path):
    jobs = tmp_path / "jobs"
    os.rename(jobs / "in.jsonl", jobs / "elsewhere.jsonl")
    done = run_at_night(unit_command(), cwd=jobs)
    assert done.returncode == 3
    assert done.stderr.startswith("error: in.jsonl: no such file\n")
    os.rename(jobs / "elsewhere.jsonl", jobs / "in.jsonl")
    done = run_at_night(unit_command(), cwd=jobs)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len([*jobs.glob("out-*.parquet")]) == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units_as_they_are(tmp_path):
    for name in ("pagecli-nightly.service", "pagecli-nightly.timer"):
        shutil.copy(NIGHTLY / name, tmp_path)
    (tmp_path / "jobs").mkdir()
    done = subprocess.run(
        ["systemd-analyze", "--user", "--recursive-errors=no", "verify", *sorted(map(str, tmp_path.glob("pagecli-nightly.*")))],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    when = re.search(r"^OnCalendar=(.*)$", (NIGHTLY / "pagecli-nightly.timer").read_text(), re.MULTILINE)[1]
    assert subprocess.run(["systemd-analyze", "calendar", when], capture_output=True).returncode == 0


def test_the_docs_give_the_crontab_line_as_it_is_tested():
    text = (ROOT / "docs/guides/nightly.md").read_text()
    [line] = [line for line in (NIGHTLY / "crontab").read_text().splitlines() if re.match(r"[\d*]", line)]
    assert line in text
