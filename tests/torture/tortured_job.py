"""A job that is run again and again: its files, running it in a forked process or one of its own, and what must come out.

The process that forks has imported torch and computed nothing, so that a run starts in milliseconds and has its own threads.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import injected_faults
from injected_faults import Fault

TWO_LAYERS = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "eos_token_id": 2,
    "bos_token_id": 1,
}
FLAGS = ("--load-format", "dummy", "--max-tokens", "6", "--temperature", "1", "--seed", "5", "--max-num-seqs", "32")
MORE_FLAGS = ("--kv-memory", "16MiB", "--quiet", "--no-config")
INPUT = "in.jsonl"
FORMATS = ("out.jsonl", "out.parquet", "out.jsonl.gz")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: its exit code, or minus the signal that killed it, and what it said on stderr."""

    code: int
    said: str
    seconds: float


def import_what_jobs_need() -> None:
    """Everything slow, so that forked processes have it; but for pyarrow, which knows of forks, no thread is started by it."""
    import pyarrow.parquet

    num_threads = len(os.listdir("/proc/self/task"))
    import torch
    import transformers  # noqa: F401

    import pagecli.cli.app
    import pagecli.cli.generate.job
    import pagecli.engine.engine  # noqa: F401

    assert pyarrow is not None
    assert torch.get_num_threads() >= 1
    assert len(os.listdir("/proc/self/task")) == num_threads, "processes forked from here would lack threads"


def write_inputs(folder: Path, num_rows: int) -> None:
    """Rows of different lengths, some of them bad, one with several samples in every fifty."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text(json.dumps(TWO_LAYERS))
    with (folder / INPUT).open("w") as file:
        for i in range(num_rows):
            row: dict[str, object] = {"id": f"row {i}", "prompt": f"number {i} " + "word " * (i % 7), "kind": i % 3}
            if i % 50 == 7:
                row["n"] = 3
            if i % 97 == 13:
                row["temperature"] = "hot"
            file.write("{broken\n" if i % 211 == 100 else json.dumps(row) + "\n")


def arguments(output: str) -> list[str]:
    return ["generate", INPUT, output, "--model", "model", *FLAGS, *MORE_FLAGS]


class ForkedRun:
    """A run in a forked process, with a fault in it or without."""

    def __init__(self, folder: Path, output: str, fault: Fault | None = None, counts_to: Path | None = None) -> None:
        self._said, said = os.pipe()  # not a file, which faults would hit; one line or two fit in
        self._started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _run_and_exit(folder, output, said, fault, counts_to)
        os.close(said)

    def kill_after(self, seconds: float) -> bool:
        """False if it ended by itself before."""
        deadline = self._started + seconds
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return False
            time.sleep(min(0.002, max(0.0, deadline - time.monotonic())))
        os.kill(self.pid, signal.SIGKILL)
        return True

    def wait(self, limit: float = 300.0) -> Ended:
        """Kills it with SIGABRT, and so fails the campaign, if it hangs."""
        deadline = self._started + limit
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGABRT)
            time.sleep(0.002)
        _, status = os.waitpid(self.pid, 0)
        with os.fdopen(self._said) as said:
            return Ended(os.waitstatus_to_exitcode(status), said.read(), time.monotonic() - self._started)


def _run_and_exit(folder: Path, output: str, said: int, fault: Fault | None, counts_to: Path | None) -> None:
    """In the child: never returns."""
    code = 70
    try:
        os.dup2(said, 2)
        os.chdir(folder)
        from pagecli.cli.app import main

        counts: Counter[str] = Counter()
        if counts_to is not None:
            counts = injected_faults.count_calls()
        if fault is not None:
            injected_faults.install(fault)
        try:
            main(arguments(output))
        except SystemExit as ended:
            code = int(ended.code or 0)
        if counts_to is not None:
            counts_to.write_text(json.dumps(counts))
    except BaseException as error:
        os.write(2, f"not caught: {error!r}\n".encode())
    finally:
        os._exit(code)


def start_process(folder: Path, output: str) -> subprocess.Popen:
    """A run in a process of its own, imports and all."""
    return subprocess.Popen([sys.executable, "-m", "pagecli", *arguments(output)], cwd=folder, stderr=subprocess.PIPE)


def content(path: Path) -> object:
    """What must be the same: the bytes, or the table of a Parquet file."""
    if path.suffix != ".parquet":
        return path.read_bytes()
    import pyarrow.parquet as pq

    return pq.read_table(path, use_threads=False)


def same_content(one: Path, other: Path) -> bool:
    """Compared in a forked process, as pyarrow starts threads."""
    pid = os.fork()
    if pid == 0:
        same = False
        try:
            same = content(one) == content(other)
        finally:
            os._exit(0 if same else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
