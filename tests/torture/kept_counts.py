"""The frame of a campaign that is run by hand: flags that all have, a folder, a seed, and the counts that --save keeps."""

import argparse
import json
import os
import platform
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import tortured_run

RESULTS = Path(__file__).resolve().parent / "results"


def parser(doc: str | None) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--rows", type=int, default=2000)
    found.add_argument("--seed", type=int, default=None)
    found.add_argument("--save", action="store_true", help="keep the counts under tests/torture/results/")
    return found


def run(args: argparse.Namespace, name: str, command: str, campaign: Callable[[Path, int], Counter[str]]) -> None:
    """Print the counts of `campaign`(folder, seed), which ends by AssertionError at the first fault; `command` without seed."""
    tortured_run.import_what_jobs_need()
    seed = random.randrange(10**6) if args.seed is None else args.seed
    started, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix=f"{name}-"))
    try:
        counts = campaign(folder, seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    body = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"{command} --seed {seed}",
        "machine": f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}",
        "seconds": round(time.monotonic() - started, 1),
        "counts": {**dict(sorted(counts.items())), "losses": 0},  # the first one would have ended the campaign
    }
    print(json.dumps(body, indent=2))
    if args.save:
        path = RESULTS / f"{name}-{datetime.now(UTC):%Y-%m-%d}.json"
        path.write_text(json.dumps(body, indent=2) + "\n")
        print(path)
