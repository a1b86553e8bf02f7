"""Part 4: the PagedAttention paper's measurements (Kwon et al., SOSP 2023) on this GPU: cost of paging in attention, block
sizes, KV use and mean batch of paged and of reserved memory, swapping against recomputing.

    python paper.py --out DIR [--limit SECONDS] [--tiny]

OPT-13B's shape with dummy weights, and for the engine's part the 12 GiB of KV memory that the paper's 40 GB GPU leaves it.
The engine's runs are cut to a share of the time; all requests are there from the start, while the paper's arrive at a rate.
DIR/paper.json and .md are written after every measurement.
"""

import argparse
import gc
import json
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import engine_run
import paging_cost
import timing
from model_shapes import Workload, model_directory, requests

from pagecli.engine.engine import Engine

MODEL, KV_MEMORY = "opt-13b", 12 * 2**30
POLICIES = ("paged", "reserve-oracle", "reserve-pow2", "reserve-max")
PAPER = {  # figure 2, percent of KV memory that holds tokens; figure 13, mean batch at 2 (ShareGPT) and 30 requests/s (Alpaca)
    ("sharegpt", "paged"): ("96.3", "30.42"),
    ("sharegpt", "reserve-oracle"): ("38.2", "13.62"),
    ("sharegpt", "reserve-pow2"): ("26.8", "9.81"),
    ("sharegpt", "reserve-max"): ("20.4", "7.00"),
    ("alpaca", "paged"): ("-", "132.44"),
    ("alpaca", "reserve-oracle"): ("-", "72.75"),
    ("alpaca", "reserve-pow2"): ("-", "43.24"),
    ("alpaca", "reserve-max"): ("-", "7.00"),
}
RECOMPUTED_TOKENS = 1000


class EngineMeasurements:
    """The paper's measurements of the engine, on weights that are loaded once."""

    def __init__(self, folder: Path, tiny: bool, seconds: float) -> None:
        self.tiny, self.seconds = tiny, seconds  # of one run
        self.limits = timing.limits(folder, tiny)
        self.model = str(model_directory(MODEL, tiny))
        self._engine: Engine | None = None

    def engine(self, **changes: object) -> Engine:
        """An engine of these settings in place of the one before it."""
        memory = {"kv_memory_bytes": 2**20 if self.tiny else KV_MEMORY}
        config = engine_run.engine_config(self.model, self.tiny, **(memory | changes))
        loaded = None if self._engine is None else self._engine.loaded
        self._engine = None
        gc.collect()
        self._engine = engine_run.build(config, loaded)
        return self._engine

    def workload(self, engine: Engine, kind: str = "sharegpt", num_requests: int = 1000) -> Workload:
        return requests(4 if self.tiny else num_requests, engine.model_config.vocab_size, self.tiny, kind)

    def run(self, engine: Engine, workload: Workload) -> dict[str, Any]:
        done = engine_run.run(engine, workload, self.limits, self.seconds)
        return {
            "tokens_per_second": done.tokens_per_second,
            "mean_running": done.mean_running,
            "kv_slot_utilization": done.stats["kv_slot_utilization"],
            "preemptions": done.stats["num_preemptions"],
            "whole": done.whole,
        }

    def policies(self, kind: str, policy: str) -> Iterator[dict[str, Any]]:
        """Figures 2 and 13: KV use and mean batch."""
        engine = self.engine(kv_policy=policy)
        used, batch = PAPER[kind, policy]
        about = {"figure": "policies", "workload": kind, "policy": policy, "paper_kv_percent": used, "paper_batch": batch}
        yield about | self.run(engine, self.workload(engine, kind))

    def block_sizes(self, size: int) -> Iterator[dict[str, Any]]:
        """Figure 18: the whole engine with every block size."""
        engine = self.engine(block_size=size)
        yield {"figure": "block sizes", "block_size": size} | self.run(engine, self.workload(engine))

    def preemption(self, kind: str) -> Iterator[dict[str, Any]]:
        """Figure 19: the engine short of memory."""
        small = {"kv_memory_bytes": 2**15 if self.tiny else 3 * 2**30, "preemption": kind}
        engine = self.engine(**small, swap_memory_bytes=(2**18 if self.tiny else 4 * 2**30) if kind == "swap" else 0)
        yield {"figure": "preemption", "preemption": kind} | self.run(engine, self.workload(engine))

    def recompute(self) -> Iterator[dict[str, Any]]:
        """Milliseconds to compute a prompt of 1,000 tokens again: what swapping it out and in stands beside."""
        num_tokens = 20 if self.tiny else RECOMPUTED_TOKENS
        engine, seconds = self.engine(), []
        for _ in range(1 if self.tiny else 5):
            done = engine_run.run(engine, Workload([[20 + i % 200 for i in range(num_tokens)]], [1]), self.limits, 60)
            seconds.append(done.seconds)
        yield {"figure": "recompute", "tokens": num_tokens, "milliseconds": 1e3 * sorted(seconds)[len(seconds) // 2]}


def sources(folder: Path, tiny: bool, seconds: float) -> Iterator[tuple[str, Callable[[], Iterator[dict[str, Any]]]]]:
    """Every measurement's name and rows, the quick ones first."""
    yield "attention", partial(paging_cost.attention_rows, tiny)
    yield "swap", partial(paging_cost.swap_rows, tiny, 20 if tiny else RECOMPUTED_TOKENS)
    engine = EngineMeasurements(folder, tiny, seconds)
    yield "recompute", engine.recompute
    for kind in ("sharegpt",) if tiny else ("sharegpt", "alpaca"):
        for policy in POLICIES:
            yield f"{kind}, {policy}", partial(engine.policies, kind, policy)
    for size in paging_cost.block_sizes(tiny):
        yield f"block size {size}", partial(engine.block_sizes, size)
    for kind in ("recompute", "swap"):
        yield f"preemption by {kind}", partial(engine.preemption, kind)


def table(rows: list[dict[str, Any]]) -> str:
    """A section for each figure, with the columns its rows have."""
    lines: list[str] = []
    for figure in dict.fromkeys(row["figure"] for row in rows):
        chosen = [row for row in rows if row["figure"] == figure]
        columns = [name for name in dict.fromkeys(name for row in chosen for name in row) if name != "figure"]
        lines += [f"## {figure}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(_cell(row.get(name)) for name in columns)} |" for row in chosen]
        lines.append("")
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else "-" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=90.0, help="seconds for all of it; each engine run gets a share")
    parser.add_argument("--only", help="only measurements whose name contains this")
    parser.add_argument("--tiny", action="store_true", help="the same at next to no size: shows that it runs")
    options = parser.parse_args()
    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    options.out.mkdir(parents=True, exist_ok=True)
    for name, source in sources(options.out, options.tiny, seconds=options.limit / 45):
        if options.only is not None and options.only not in name:
            continue
        try:
            if time.perf_counter() - started > options.limit - 5:
                raise RuntimeError("no time was left")
            rows += source()
        except Exception as error:  # the others are still worth having, whatever it was
            traceback.print_exc()
            rows.append({"figure": "not measured", "name": name, "why": f"{type(error).__name__}: {error}".splitlines()[0]})
        (options.out / "paper.json").write_text(json.dumps(rows, indent=2) + "\n")
        (options.out / "paper.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
