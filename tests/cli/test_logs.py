"""What a run tells those who watch it: log, events, metrics; through the command line, on a tiny real model."""

import json
import logging
import os
import re
import shutil
import warnings

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pagecli.errors import InputError
from pagecli.jobs.monitoring.monitor import JobSnapshot
from pagecli.jobs.monitoring.run_log import LogListener, RunLog

ROWS = [{"prompt": f"the quick brown fox {i}"} for i in range(6)]
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) \[\d+\] ")
SECRET = "opensesame42"


def objects(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_run_with_every_watcher_and_no_secret_in_any(generate, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    listeners = ("--log-file", "run.log", "--log-json", "--progress-json", "events.jsonl", "--metrics-file", "job.prom")
    code, out, err = generate(ROWS, "out.jsonl", "--quiet", "--system", SECRET, *listeners, "--kv-memory", "100B")
    assert (code, out) == (4, ""), err
    reason = err.splitlines()[0].removeprefix("error: ")
    code, out, err = generate([*ROWS, {"prompt": 1}], f"{SECRET}.jsonl", *listeners, "--stats", "stats.json")
    assert code == 5, err
    events = objects(tmp_path / "events.jsonl")
    names = [event["event"] for event in events]
    assert names[:2] == ["start", "end"]
    assert (events[1]["exit_code"], events[1]["num_rows"]) == (4, None)
    assert events[1]["error"] == reason
    assert (names[2], names[3], names[-1]) == ("start", "loaded", "end")
    assert (events[-1]["exit_code"], events[-1]["num_rows"], events[-1]["num_error_rows"]) == (5, 7, 1)
    log = objects(tmp_path / "run.log")
    assert [line["message"] for line in log if line["logger"] == "pagecli"][-3:-1] == ["loaded", "ended"]
    assert "1 of 7 rows are error rows" in log[-1]["message"]
    assert {line["level"] for line in log} >= {"info", "error"}
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families((tmp_path / "job.prom").read_text())
        for sample in family.samples
    }
    assert (values["pagecli_rows_total"], values["pagecli_job_exit_code"], values["pagecli_job_running"]) == (7, 5, 0)
    for name in ("run.log", "events.jsonl", "job.prom", "stats.json"):
        assert SECRET not in (tmp_path / name).read_text(), name
    assert SECRET not in err
    assert logging.getLogger().handlers == [h for h in logging.getLogger().handlers if type(h).__module__ != RunLog.__module__]


def test_log_json_without_a_file_makes_stderr_a_log(generate):
    code, _, err = generate(ROWS[:2], "out.jsonl", "--log-json")
    assert code == 0
    assert [json.loads(line)["message"] for line in err.splitlines()] == ["started", "loaded", "ended"]
    assert generate(ROWS[:2], "more.jsonl", "--log-json", "--quiet") == (0, "", "")


def test_a_plain_log_has_one_line_a_record_and_is_appended_to(generate, tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        assert generate(ROWS[:2], name, "--log-file", "run.log", "--quiet") == (0, "", "")
    found = (tmp_path / "run.log").read_text().splitlines()
    assert len(found) == 6
    assert all(LINE.match(line) for line in found)
    assert "output=b.jsonl" in found[3]
    assert "exit_code=0" in found[5]


@pytest.fixture
def log(tmp_path):
    filters = warnings.filters[:]
    log = RunLog(tmp_path / "run.log", as_json=False)
    yield log
    log.close()
    warnings.filters[:] = filters


def test_warnings_of_libraries_and_tracebacks_go_to_the_log_without_secrets(log, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("API_TOKEN", SECRET)
    logging.getLogger("some.lib").warning("retrying https://user:%s@host/x\nsecond line", SECRET)
    warnings.warn(f"deprecated: {SECRET}", stacklevel=1)
    try:
        raise ValueError(f"cannot read ?token={SECRET}")
    except ValueError as error:
        log.write(logging.ERROR, "100% broken", error=error)
    text = (tmp_path / "run.log").read_text()
    assert "WARNING" in text
    assert " some.lib: retrying https://***@host/x\n    second line\n" in text
    assert "py.warnings: " in text
    assert "100% broken\n    Traceback" in text
    assert "ValueError: cannot read ?token=***" in text
    assert SECRET not in text
    assert capsys.readouterr().err == ""


def test_a_rotated_log_is_opened_anew(log, tmp_path):
    log.write(logging.INFO, "before")
    os.rename(tmp_path / "run.log", tmp_path / "run.log.1")
    log.write(logging.INFO, "after")
    assert "after" in (tmp_path / "run.log").read_text()
    assert "after" not in (tmp_path / "run.log.1").read_text()


def test_a_log_that_cannot_be_written_is_one_line_at_the_start_and_no_failure_later(tmp_path, capsys):
    with pytest.raises(InputError, match="cannot be written"):
        RunLog(tmp_path / "none" / "run.log", as_json=True)
    if os.path.exists("/dev/full"):
        log = RunLog(None, as_json=True)
        log.close()
        full = RunLog(tmp_path / "full", as_json=True)
        full._handler.stream.close()
        full._handler.stream = open("/dev/full", "w")  # noqa: SIM115
        for _ in range(3):
            LogListener(full).on_event("checkpoint", JobSnapshot(checkpoint_rows=1))
            full.write(logging.ERROR, "lost")
        full.write(logging.ERROR, "kept back until the end")
        full.close()
        assert capsys.readouterr().err.count("the job continues") == 1


def test_a_log_whose_directory_goes_is_one_line_and_no_failure(tmp_path, capsys):
    (tmp_path / "logs").mkdir()
    log = RunLog(tmp_path / "logs" / "run.log", as_json=False)
    shutil.rmtree(tmp_path / "logs")
    for _ in range(3):
        log.write(logging.ERROR, "lost")
    (tmp_path / "logs" / "run.log").parent.mkdir()
    (tmp_path / "logs" / "run.log").mkdir()
    log.write(logging.ERROR, "lost")
    log.close()
    assert capsys.readouterr().err.count("the job continues") == 1
