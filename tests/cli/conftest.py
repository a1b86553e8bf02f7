"""Runs the program in this process (quick) or in one of its own (signals, pipes)."""

import logging
import os
import subprocess
import sys

import pytest
from input_files import write_rows

from pagecli.cli.app import main


@pytest.fixture(autouse=True)
def _libraries_speak_again():
    """A command that ran in this process may have silenced them for good."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def generate(tiny_model, tmp_path, monkeypatch, capfd):
    """generate(rows or path, output, *flags) -> (exit code, stdout, stderr); the model is the tiny Llama unless named."""
    monkeypatch.setattr("pagecli.cli.generate.run.quieten", lambda *args, **settings: None)
    monkeypatch.chdir(tmp_path)

    def run(rows, output, *flags, model="llama"):
        if not isinstance(rows, str):
            rows = write_rows(tmp_path / "in.jsonl", rows)
        args = ["generate", rows, output, "--model", str(tiny_model(model)), "--max-tokens", "6", "--kv-memory", "8MiB"]
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*args, "--no-chat", *flags] if "--chat" not in flags else [*args, *flags])
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def start(tiny_model, tmp_path):
    """start(*args) -> a running process of `pagecli generate ARGS` with the tiny Llama."""
    started = []

    def run(*args, **settings) -> subprocess.Popen:
        command = [sys.executable, "-m", "pagecli", "generate", *map(str, args), "--model", str(tiny_model("llama"))]
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **settings}
        process = subprocess.Popen(
            [*command, "--kv-memory", "8MiB"], cwd=tmp_path, env={**os.environ, **settings.pop("env", {})}, **settings
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
