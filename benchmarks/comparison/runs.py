"""Runs one system once, in a process of its own, and checks its output."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from comparison.workload import Requests, warm_up_prompts
from peers.catalog import HERE, PAGECLI, SYSTEMS, model_path

STOPWATCH = Path(__file__).with_name("stopwatch.py")
FINAL_WORDS = re.compile(r"error|exception|cannot|not support|unsupported|failed|illegal", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """What is compared."""

    model: str
    dtype: str
    threads: int
    kv_gib: int
    whole_process: bool
    home: Path
    wrap: tuple[str, ...] = ()  # put before every command
    limit_seconds: int = 600


@dataclass(frozen=True)
class Run:
    """One run of one system; `error` says why there are no results."""

    error: str | None = None
    seconds: float = 0.0  # generation alone, or from the start of the process to the last token
    num_tokens: int = 0
    load_seconds: float | None = None
    peak_rss_mib: float = 0.0
    precision: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    outputs: list[list[int]] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds


def run(name: str, case: Case, requests: Requests) -> Run:
    with tempfile.TemporaryDirectory(prefix="pagecli-compare-") as folder:
        workplace = Path(folder)
        if name == PAGECLI and case.whole_process:
            done = _run_command_line(case, requests, workplace)
        else:
            done = _run_driver(name, case, requests, workplace)
    wrong = sum(len(output) != length for output, length in zip(done.outputs, requests.lengths, strict=False))
    if done.error is None and (wrong or len(done.outputs) != len(requests.lengths)):
        return Run(error=f"{wrong} of {len(requests.lengths)} outputs do not have their length")
    return done


def _run_driver(name: str, case: Case, requests: Requests, workplace: Path) -> Run:
    """The peer's driver under the peer's Python; pagecli's engine by the same road."""
    peer = SYSTEMS[name]
    task = {
        "model": str(model_path(case.home, case.model, peer.formats[case.dtype])),
        "dtype": case.dtype,
        "threads": case.threads,
        "kv_gib": case.kv_gib,
        "max_model_len": requests.max_model_len,
        "prompts": requests.prompts,
        "lengths": requests.lengths,
        "warm_up": [] if case.whole_process else warm_up_prompts(),
        "result": str(workplace / "result.json"),
        **peer.settings,
    }
    (workplace / "task.json").write_text(json.dumps(task))
    python = str(peer.python(case.home)) if peer.environment else sys.executable
    clock, words = _timed(
        [python, str(HERE / peer.driver), str(workplace / "task.json")], case, _environment(name, case), workplace
    )
    try:
        result = json.loads((workplace / "result.json").read_text())
    except FileNotFoundError:
        return Run(error=_how_it_ended(clock, words, case))
    if "error" in result:
        return Run(error=result["error"])
    seconds = result["last_token_at"] - clock["started"] if case.whole_process else result["seconds"]
    measured = {key: result[key] for key in ("load_seconds", "precision", "versions", "outputs")}
    return Run(seconds=seconds, num_tokens=sum(map(len, result["outputs"])), peak_rss_mib=clock["peak_rss_mib"], **measured)


def _run_command_line(case: Case, requests: Requests, workplace: Path) -> Run:
    """`pagecli generate` on a file of the requests, up to its exit: with its output written, text included."""
    rows = [
        {"id": str(i), "prompt_token_ids": prompt, "max_tokens": length}
        for i, (prompt, length) in enumerate(zip(requests.prompts, requests.lengths, strict=True))
    ]
    (workplace / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [str(workplace / "in.jsonl"), str(workplace / "out.jsonl")]
    model = ["--model", str(model_path(case.home, case.model, "checkpoint")), "--dtype", case.dtype]
    options = ["--threads", str(case.threads), "--ignore-eos", "--token-ids", "--quiet", "--no-config"]
    program = [str(Path(sys.executable).with_name("pagecli"))]
    clock, words = _timed([*program, "generate", *files, *model, *options], case, _environment(PAGECLI, case), workplace)
    if clock is None or clock["exit_code"]:
        return Run(error=_how_it_ended(clock, words, case))
    outputs = [json.loads(line)["token_ids"] for line in (workplace / "out.jsonl").read_text().splitlines()]
    return Run(
        seconds=clock["ended"] - clock["started"],
        num_tokens=sum(map(len, outputs)),
        peak_rss_mib=clock["peak_rss_mib"],
        precision=f"--dtype {case.dtype}",
        outputs=outputs,
    )


def _timed(command: list[str], case: Case, environment: dict[str, str], workplace: Path) -> tuple[dict | None, str]:
    """(what the stopwatch saw, what the command said on stderr)."""
    watched = [*case.wrap, sys.executable, str(STOPWATCH), str(workplace / "clock.json"), str(case.limit_seconds), *command]
    with (workplace / "words").open("w+", errors="replace") as words:
        subprocess.run(watched, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=words, env=environment, check=False)
        words.seek(0)
        said = words.read()
    clock = workplace / "clock.json"
    return (json.loads(clock.read_text()) if clock.exists() else None), said


def _environment(name: str, case: Case) -> dict[str, str]:
    """This process's, with as many threads as asked for and without pagecli's own paths for the peers."""
    peer = SYSTEMS[name]
    kept = dict(os.environ)
    if peer.environment:
        kept = {key: value for key, value in kept.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "LD_PRELOAD")}
    kept |= {key: value.format(home=case.home) for key, value in peer.variables.items()}
    places = [case.home / peer.environment / "lib", *map(Path, ("/usr/lib/x86_64-linux-gnu", "/usr/lib64"))]
    found = [next((place / library for place in places if (place / library).exists()), None) for library in peer.preload]
    preloaded = {"LD_PRELOAD": ":".join(str(path) for path in found if path)} if any(found) else {}
    threads = {"OMP_NUM_THREADS": str(case.threads), "TOKENIZERS_PARALLELISM": "false"}
    return kept | preloaded | threads | {"HF_HUB_OFFLINE": "1"}


def _how_it_ended(clock: dict | None, words: str, case: Case) -> str:
    """One line for a process that left no result: its signal or limit, and the last telling line it wrote."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    telling = [line for line in lines if FINAL_WORDS.search(line)] or lines
    last = f": {telling[-1][:200]}" if telling else ""
    if clock is None:
        return f"could not be started{last}"
    if clock["ended"] - clock["started"] >= case.limit_seconds:
        return f"took longer than {case.limit_seconds} s"
    code = clock["exit_code"]
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return how + last
