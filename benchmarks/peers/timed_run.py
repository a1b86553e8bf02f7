"""The part that all drivers share: load, warm up, generate, write what was measured. Standard library only.

A driver is run by its peer's own Python as `DRIVER TASK.json` and calls `main` with its function `load`.
"""

import importlib.metadata
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

MESSAGE_LENGTH = 300
Generate = Callable[[list[list[int]], list[int]], list[list[int]]]  # prompts, output lengths -> token ids of each output


class Loaded(NamedTuple):
    generate: Generate
    precision: str  # of its computations, as the library reports it


def main(load: Callable[[dict], Loaded], *distributions: str) -> None:
    """Do the task named on the command line and leave {seconds, ...} or {error} in its result file."""
    with open(sys.argv[1]) as file:
        task = json.load(file)
    try:
        result = measure(load, task)
        result["versions"] = {name: importlib.metadata.version(name) for name in distributions}
    except BaseException as error:  # whatever a library ends with becomes one line of the table
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {in_one_line(error)}"}
    with open(task["result"], "w") as file:
        json.dump(result, file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads that a library leaves behind must not keep the process


def measure(load: Callable[[dict], Loaded], task: dict) -> dict:
    started = time.perf_counter()
    loaded = load(task)
    load_seconds = time.perf_counter() - started
    if task["warm_up"]:
        loaded.generate(task["warm_up"], [4] * len(task["warm_up"]))
    started = time.perf_counter()
    outputs = loaded.generate(task["prompts"], task["lengths"])
    seconds = time.perf_counter() - started
    last_token_at = time.time()
    return {
        "seconds": seconds,
        "load_seconds": load_seconds,
        "last_token_at": last_token_at,
        "precision": loaded.precision,
        "outputs": [[int(token) for token in output] for output in outputs],
    }


def in_one_line(error: BaseException) -> str:
    """Its message, without the lines of explanation that some libraries add after the second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:MESSAGE_LENGTH] or "no message"
