"""`pagecli generate` as a process among others: pipes, terminals, signals."""

import json
import os
import pty
import re
import signal
import time

import pytest
from input_files import write_rows

from pagecli.jobs.monitoring.job_status import read_journal_status

LONG = ["--ignore-eos", "--no-chat"]


def rows(count: int) -> list[dict]:
    return [{"id": i, "prompt": f"number {i}"} for i in range(count)]


@pytest.mark.slow
def test_stdin_to_stdout_rows_only_and_no_escapes_off_a_terminal(start, tmp_path):
    read, write = os.pipe()
    process = start("-", "-", "--max-tokens", "4", stdin=read)
    os.close(read)
    os.write(write, b'{"prompt": "first"}\n')
    first = process.stdout.readline()  # comes while standard input is still open
    assert json.loads(first)["prompt"] == "first"
    os.write(write, b'{"prompt": "second"}\n')
    os.close(write)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["second"]
    assert b"output tokens/s" in err
    assert b"\x1b" not in err


@pytest.mark.slow
def test_quiet_pipe_is_silent_and_no_library_speaks(start, tmp_path):
    process = start(write_rows(tmp_path / "in.jsonl", rows(3)), "-", "--quiet", "--max-tokens", "4")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err, len(out.splitlines())) == (0, b"", 3)


@pytest.mark.slow
@pytest.mark.parametrize("no_color", [False, True])
def test_terminal_gets_a_bar_and_color_unless_no_color(start, tmp_path, no_color):
    main_end, end = pty.openpty()
    environment = {"TERM": "xterm-256color", **({"NO_COLOR": "1"} if no_color else {})}
    process = start(
        write_rows(tmp_path / "in.jsonl", rows(3_000)), "out.jsonl", "--max-tokens", "4", *LONG, stderr=end, env=environment
    )
    os.close(end)
    shown = bytearray()
    while True:
        try:
            piece = os.read(main_end, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(main_end)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert "loading" in text
    assert "tok/s" in text
    assert re.search(r"\d+/~?\d+ rows", text)
    colors = [code for code in ("\x1b[31m", "\x1b[32m", "\x1b[1;3", "\x1b[2m", "\x1b[38;5;") if code in text]
    assert bool(colors) != no_color


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
    ],
)
def test_signal_keeps_finished_rows_and_says_how_to_go_on(start, tmp_path, signum, code):
    source = write_rows(tmp_path / "in.jsonl", rows(100_000))
    process = start(source, "out.jsonl", "--max-tokens", "4", "--max-num-seqs", "16", "--stats", "stats.json", "-v", *LONG)
    wait_for_rows(process)
    asked = time.monotonic()
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - asked < 5
    assert process.returncode == code, err
    assert f"stopped by {signum.name}; the finished rows of this job are kept" in err.decode()
    assert f"resume with: pagecli generate {source} out.jsonl" in err.decode()
    assert json.loads((tmp_path / "stats.json").read_text())["interrupted_by_signal"] == signum
    assert sorted(os.listdir(tmp_path)) == [".out.jsonl.pagecli-journal", "in.jsonl", "stats.json"]
    assert sorted(os.listdir(tmp_path / ".out.jsonl.pagecli-journal")) == ["heartbeat.json", "journal", "lock"]
    assert 0 < read_journal_status(tmp_path / "out.jsonl").num_rows < 100_000


def wait_for_rows(process):
    """Until -v says that a row has finished; returns what was said on stderr until then."""
    said = b""
    for line in process.stderr:
        said += line
        if b"first row has finished" in line:
            return said
    raise AssertionError(said.decode())


@pytest.mark.slow
def test_reader_that_goes_away_ends_the_job_quietly(start, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", rows(100_000))
    process = start(source, "-", "--max-tokens", "2", "--quiet", *LONG)
    assert json.loads(process.stdout.readline())["id"] == 0
    process.stdout.close()
    err = process.stderr.read()
    assert (process.wait(timeout=60), err) == (141, b"")


@pytest.mark.slow
def test_interrupt_while_waiting_for_standard_input_ends_at_once(start, tmp_path):
    read, write = os.pipe()
    process = start("-", "-", "--max-tokens", "2", stdin=read)
    os.write(write, b'{"prompt": "a"}\n')
    process.stdout.readline()
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert time.monotonic() - asked < 5
    os.close(read)
    os.close(write)


@pytest.mark.slow
def test_interrupt_while_loading_leaves_nothing(start, tmp_path):
    process = start(write_rows(tmp_path / "in.jsonl", rows(3)), "out.parquet")
    deadline = time.monotonic() + 60
    while not any(path.name.startswith(".out") for path in tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert os.listdir(tmp_path) == ["in.jsonl"]
