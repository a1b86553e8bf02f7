"""Signals before there is anything to save: while the program is imported, while the model loads, and in the other commands."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from input_files import write_rows

from pagecli.cli.app import main

ROOT = Path(__file__).resolve().parents[2]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def run(tmp_path, *args, **settings) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pagecli", *map(str, args)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **settings,
    )


def until(condition, process) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def has_imported(process: subprocess.Popen, name: str) -> bool:
    """Whether the process has got as far as to map the library."""
    with open(f"/proc/{process.pid}/maps") as maps:
        return name in maps.read()


def catches_signals(process: subprocess.Popen) -> bool:
    """Whether the process has handlers of its own: Python's are of SIGINT alone."""
    with open(f"/proc/{process.pid}/status") as status:
        caught = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt:"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


UNTIL_HANDLERS = """
import os, sys  # as every start of Python does
loaded = set(sys.modules)
from pagecli.__main__ import main
print(sorted(name for name in set(sys.modules) - loaded - set(sys.builtin_module_names) if not name.startswith("pagecli")))
"""


@pytest.mark.slow
def test_nothing_is_imported_before_signals_are_handled():
    """But what is in the interpreter: an interrupt in an import would be a traceback."""
    done = subprocess.run([sys.executable, "-S", "-c", UNTIL_HANDLERS], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
@pytest.mark.parametrize("library", ["its own first", "libarrow", "_native"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_among_the_imports_is_silent(tmp_path, tiny_model, signum, library):
    output = "out.parquet" if library == "libarrow" else "-"
    source = write_rows(tmp_path / "in.jsonl", [{"prompt": "a"}])
    process = run(tmp_path, "generate", source, output, "-m", tiny_model("llama"))
    if library == "its own first":
        until(lambda: catches_signals(process), process)
    else:
        until(lambda: has_imported(process, library), process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == CODES[signum]
    assert b"Traceback" not in err
    assert b"KeyboardInterrupt" not in err


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_a_signal_while_loading_says_so_and_the_job_counts_as_stopped(tmp_path, tiny_model, signum, again):
    """Also when a second one ends the process at once."""
    source = write_rows(tmp_path / "in.jsonl", [{"prompt": "a"}] * 3 + [{"id": 3}])
    args = ["generate", source, "out.jsonl", "-m", tiny_model("llama"), "--kv-memory", "8MiB", "--max-tokens", "2"]
    first = run(tmp_path, *args, "--on-error", "stop")
    first.communicate(timeout=60)
    journal = tmp_path / ".out.jsonl.pagecli-journal"
    (journal / "heartbeat.json").unlink()
    slow = {**os.environ, "PAGECLI_CACHE_DIR": ""}  # transformers reads the tokenizer: loading takes seconds
    process = run(tmp_path, *args, env=slow)
    until(lambda: (journal / "heartbeat.json").exists(), process)
    process.send_signal(signum)
    if again:
        until(lambda: b"stopping" in (journal / "heartbeat.json").read_bytes() or process.poll() is not None, process)
        process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (CODES[signum], -signum)
    if not again:
        assert re.search(rf"stopped by {signum.name} while loading; \d finished rows are kept", err.decode()), err
    assert b"Traceback" not in err
    status = run(tmp_path, "status", "out.jsonl")
    out, _ = status.communicate(timeout=60)
    assert (status.returncode, out.split(b"(")[0].split()[:2]) == (11, [b"state", b"stopped"])


@pytest.mark.slow
def test_a_signal_while_loading_a_new_job_says_so(tmp_path, tiny_model):
    source = write_rows(tmp_path / "in.jsonl", [{"prompt": "a"}])
    process = run(
        tmp_path, "generate", source, "out.jsonl", "-m", tiny_model("llama"), env={**os.environ, "PAGECLI_CACHE_DIR": ""}
    )
    until(lambda: (tmp_path / ".out.jsonl.pagecli-journal" / "heartbeat.json").exists(), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopped by SIGINT while loading; no row was finished" in err.decode()
    assert os.listdir(tmp_path) == ["in.jsonl"]


UNLUCKY_PACKAGE = """
import pathlib, time
try:
    pathlib.Path("importing").touch()
    time.sleep(60)
except BaseException as error:
    raise ImportError("the extension cannot be initialized") from error
"""


@pytest.mark.slow
@pytest.mark.parametrize("signum", CODES)
def test_a_signal_is_not_told_as_a_missing_package(tmp_path, tiny_model, signum):
    """Whose import it interrupted, and which made an error of its own of it."""
    source = write_rows(tmp_path / "in.jsonl", [{"prompt": "a"}])
    (tmp_path / "duckdb.py").write_text(UNLUCKY_PACKAGE)
    args = ["generate", source, "out.duckdb", "-m", tiny_model("llama"), "--kv-memory", "8MiB"]
    process = run(tmp_path, *args, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"})
    until(lambda: (tmp_path / "importing").exists(), process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == CODES[signum], err
    assert err.decode() == f"error: stopped by {signum.name} while loading; no row was finished\n"


@pytest.mark.slow
@pytest.mark.parametrize("signum", CODES)
def test_merge_leaves_nothing_behind(tmp_path, signum):
    for number in (1, 2):
        label = {"number": number, "count": 2, "job": "a"}
        with open(tmp_path / f"p{number}.jsonl", "w") as part:
            for line in range(100_000):  # merge takes seconds
                own = label | {"row": 2 * line + number - 1, "line": line}
                part.write(json.dumps({"text": "a", "pagecli_shard": own}) + "\n")
    process = run(tmp_path, "merge", "p1.jsonl", "p2.jsonl", "all.jsonl")
    until(lambda: any(path.stat().st_size for path in tmp_path.glob(".all*")), process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == CODES[signum]
    assert f"stopped by {signum.name}" in err.decode()
    assert sorted(os.listdir(tmp_path)) == ["p1.jsonl", "p2.jsonl"]


@pytest.mark.parametrize("moment", ["unlink", "open"])
def test_merge_leaves_nothing_behind_when_a_signal_meets_its_temporary(tmp_path, monkeypatch, moment):
    """Just after the file is there and just before it is removed, when no name of it is known, or nobody will try again."""
    call, signalled = getattr(os, moment), []

    def meeting(path, *args, **named):
        is_temporary = str(path).endswith(".tmp") and not signalled
        signalled.extend([True] * is_temporary)
        if is_temporary and moment == "unlink":
            os.kill(os.getpid(), signal.SIGTERM)
        result = call(path, *args, **named)
        if is_temporary and moment == "open":
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    write_rows(tmp_path / "p1.jsonl", [{"prompt": "no row of a part"}])
    monkeypatch.setattr(os, moment, meeting)
    with pytest.raises(SystemExit) as ended:
        main(["merge", str(tmp_path / "p1.jsonl"), str(tmp_path / "all.jsonl")])
    assert signalled
    assert ended.value.code == 143
    assert os.listdir(tmp_path) == ["p1.jsonl"]
