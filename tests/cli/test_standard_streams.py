"""Descriptors that are closed or take no more, names that are too long, and too few open files: one line and an exit code."""

import errno
import json
import os
import resource
import subprocess
import sys

import pyarrow as pa
import pytest
from input_files import write_rows

from pagecli.cli.terminal.console import Console, exit_code_of

ROWS = [{"id": i, "prompt": f"number {i}"} for i in range(3)]
LONG = "x" * 257


@pytest.fixture
def shell(tiny_model, tmp_path):
    """shell("generate in.jsonl - MODEL >&-") -> (exit code, stdout, stderr)."""
    write_rows(tmp_path / "in.jsonl", ROWS)

    def run(line: str, **settings) -> tuple[int, str, str]:
        line = line.replace("MODEL", f"-m {tiny_model('llama')} --kv-memory 8MiB --max-tokens 2 --no-chat")
        command = ["sh", "-c", f"exec {sys.executable} -m pagecli {line}"]
        done = subprocess.run(
            command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **settings
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "generate in.jsonl - MODEL",
        "status out.jsonl",
        "--help",
        "config --all",
        "profile -m opt-125m --workload alpaca --num-requests 2",
        "doctor",
        "--version",
    ],
)
@pytest.mark.parametrize("end", [">&-", ">/dev/full"])
def test_a_standard_output_that_takes_nothing_is_one_line_and_exit_code_3(shell, line, end):
    code, _, err = shell(f"{line} {end}")
    says = "standard output is closed" if end == ">&-" else "no space left to write to"
    assert (code, says in err, "Traceback" in err, "internal" in err) == (3, True, False, False), err


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    ["profile -m opt-13b --gpu a100-40gb --all", "profile -m opt-13b --json", "config generate --all", "generate --help=all"],
)
def test_a_standard_output_whose_reader_has_gone_is_no_message_and_the_code_of_sigpipe(tmp_path, line):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "pagecli", *line.split()]
    done = subprocess.run(command, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["2>&-", "2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full <&-"])
def test_what_needs_no_stream_works_without(shell, tmp_path, ends):
    code, _, _ = shell(f"generate in.jsonl out.jsonl MODEL --stats s.json {ends}")
    assert code == 0
    assert [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [0, 1, 2]


@pytest.mark.slow
def test_a_closed_standard_input_is_said(shell):
    code, _, err = shell("generate - out.jsonl MODEL <&-")
    assert (code, "standard input is closed" in err) == (3, True)


@pytest.mark.slow
def test_a_standard_output_that_does_not_wait_loses_no_row(shell, tmp_path, tiny_model):
    """As Node and some terminals leave it: another process that shares the pipe may have set it."""
    write_rows(tmp_path / "many.jsonl", [{"id": i, "prompt": "a", "filler": "y" * 4000} for i in range(200)])
    read, write = os.pipe()
    os.set_blocking(write, False)
    command = [sys.executable, "-m", "pagecli", "generate", "many.jsonl", "-", "-m", str(tiny_model("llama"))]
    with subprocess.Popen([*command, "--max-tokens", "1", "--quiet"], cwd=tmp_path, stdout=write) as process:
        os.close(write)
        with os.fdopen(read) as pipe:
            rows = [json.loads(line)["id"] for line in pipe]
    assert (process.returncode, rows) == (0, list(range(200)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        f"generate {LONG}.jsonl out.jsonl MODEL",
        f"generate in.jsonl {LONG}.jsonl MODEL",
        f"generate in.jsonl out.jsonl MODEL --stats {LONG}",
        f"generate in.jsonl out.jsonl MODEL --log-file {LONG}",
        f"status {LONG}.jsonl",
        f"merge {LONG}.jsonl all.jsonl",
        f"profile -m opt-125m --html {LONG}",
        f"generate in.jsonl out.jsonl MODEL --metrics-file {LONG}",
        f"generate in.jsonl out.jsonl MODEL --progress-json {LONG}",
        f"generate in.jsonl out.jsonl MODEL --profile {LONG}",
        f"generate in.jsonl out.jsonl -m {LONG}",
        f"merge in.jsonl {LONG}.jsonl",
        f"profile -m opt-125m --plots {LONG}",
        f"profile -m opt-125m --workload {LONG}.csv",
    ],
)
def test_a_name_that_is_too_long_is_one_line(shell, line):
    code, _, err = shell(line)
    assert (code, "internal" in err, "oo long" in err) == (3, False, True), err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "flags"),
    [
        *((limit, "") for limit in (5, 8, 12, 16, 64)),
        *((limit, "--workers 3") for limit in (18, 20, 22, 26)),
        *((limit, "--tensor-parallel-size 2") for limit in (18, 19, 20, 21, 22)),
    ],
)
def test_few_open_files_are_enough_or_said(shell, tmp_path, limit, flags):
    code, _, err = shell(
        f"generate in.jsonl out.jsonl MODEL {flags}",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
    )
    assert code in ((3,) if limit <= 16 else (0,) if limit == 64 else (0, 3)), err
    assert code == 0 or ("ulimit -n" in err and "internal" not in err and os.listdir(tmp_path) == ["in.jsonl"]), err


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_stdout_has_no_character_for_is_a_question_mark(shell, encoding):
    code, out, err = shell("profile -m opt-125m --gpu l4 --no-replay", env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (code, err) == (0, "")
    assert "???" in out  # a bar
    code, out, err = shell("config", env={**os.environ, "PAGECLI_SYSTEM": "\udcff"})
    assert (code, "system" in out) == (0, True), err


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),  # Python's
        RuntimeError("Resource temporarily unavailable"),  # C++'s
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),  # of fork(2)
    ],
)
def test_a_machine_that_starts_no_more_threads_is_no_fault_of_the_program(error, capsys):
    def run():
        raise error

    assert exit_code_of(run, Console()) == 3
    assert "error: no more threads or processes can be started\nhint: give fewer: --threads" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),  # Python's, and a C++ allocation's
        pa.ArrowMemoryError("malloc of size 128 failed"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),  # of mmap(2) and fork(2)
        ImportError("libarrow_dataset.so: failed to map segment from shared object"),
    ],
)
def test_a_machine_without_memory_is_no_fault_of_the_program(error, capsys):
    def run():
        raise error

    assert exit_code_of(run, Console()) == 4
    assert "error: the system has no more memory for this process\nhint: give it more (ulimit -v" in capsys.readouterr().err


@pytest.fixture
def limited_memory():
    """The address space has a limit, which nothing here reaches."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 46, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_an_interpreter_that_fails_within_a_limit_of_memory_has_none(limited_memory, capsys):
    def run():
        raise SystemError("<built-in function open> returned NULL without setting an exception")

    assert exit_code_of(run, Console()) == 4
    assert "no more memory" in capsys.readouterr().err


def test_threads_that_do_not_start_within_a_limit_of_memory_may_lack_that(limited_memory, capsys):
    def run():
        raise RuntimeError("can't start new thread")

    assert exit_code_of(run, Console()) == 3
    assert "see ulimit -u and, as each needs memory, ulimit -v" in capsys.readouterr().err


def test_a_lack_of_memory_is_said_without_any(monkeypatch, capfd):
    def no_memory(*anything):
        raise MemoryError

    monkeypatch.setattr("pagecli.cli.terminal.console.redact", no_memory)
    assert exit_code_of(no_memory, Console()) == 4
    assert capfd.readouterr().err == "error: the system has no more memory for this process\n"


def test_a_pipe_that_is_full_for_now_is_no_lack_of_threads(capsys):
    def run():
        raise BlockingIOError(errno.EAGAIN, "write could not complete without blocking", 0)

    exit_code_of(run, Console())
    assert "threads" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_python_without_docstrings_has_the_pages_of_help(shell):
    for line in ("--help", "help generate", "profile --help"):
        code, out, err = shell(line, env={**os.environ, "PYTHONOPTIMIZE": "2"})
        assert (code, err) == (0, "")
        assert "--help" in out


@pytest.mark.slow
def test_a_current_directory_that_is_gone_is_one_line(tiny_model, tmp_path):
    write_rows(tmp_path / "in.jsonl", ROWS)
    job = f"generate {tmp_path}/in.jsonl out.jsonl -m {tiny_model('llama')}"
    line = f"mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir {tmp_path}/gone && exec {sys.executable} -m pagecli {job}"
    done = subprocess.run(["sh", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: the current directory is not there any more\nhint: ")


TEXTS = "--prompt-column --template --system --chat-template-arg --stop --regex --choice --reasoning --where"


@pytest.mark.parametrize("flag", TEXTS.split())
def test_a_text_that_is_no_utf_8_is_refused_before_any_row(generate, flag):
    code, out, err = generate(ROWS, "out.jsonl", flag, "a=\udcff")
    assert (code, out) == (2, "")
    assert f"error: {flag} is no UTF-8 text\nhint: " in err


@pytest.mark.parametrize("name", ["a\udcff.parquet", "a\udcff.duckdb"])
def test_a_name_that_a_library_cannot_open_is_refused_before_any_row(generate, name):
    code, out, err = generate(ROWS, name)
    assert (code, out) == (2, "")
    assert "is no UTF-8, which names of such files must be" in err
    assert generate(ROWS, "a\udcff.jsonl")[0] == 0
