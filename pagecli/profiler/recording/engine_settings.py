"""A recording's metadata of its engine: settings, sizes, machine."""

import dataclasses
import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pagecli.engine.engine import Engine

_FROM_STATS = (
    *("dtype", "kv_dtype", "kv_block_size", "kv_blocks_total", "kv_bytes_per_token", "weight_bytes", "cpu_isa", "num_threads"),
    "load_seconds",
)


def run_metadata(engine: "Engine") -> dict[str, object]:
    """The engine's settings as given and as resolved, and the processor's name."""
    stats = engine.stats()
    settings = {name: value for name, value in dataclasses.asdict(engine.config).items() if value is not None}
    return {
        **settings,
        "max_model_len": engine.max_model_len,
        **{name: stats[name] for name in _FROM_STATS if name in stats},
        "machine": processor_name(),
    }


def processor_name() -> str:
    """The operating system's name of the processor; the architecture where it has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
