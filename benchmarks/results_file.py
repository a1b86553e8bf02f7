"""Results of benchmarks: one JSON file a run, with date, machine and versions."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, object]:
    """CPU, cores, memory and the versions a measurement depends on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    entries = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in entries.items()}
    flags = named.get("flags", "").split()
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile")
    return {
        "cpu": f"{named.get('model name', platform.machine())} (family {named.get('cpu family')}, model {named.get('model')})",
        "isa": [flag for flag in wanted if flag in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("pagecli", "torch", "transformers")},
    }


def save(name: str, command: str, results: object) -> Path:
    """Write results/NAME-DATE.json and return its path; NAME-DATE-2.json when that is taken, so that nothing is lost."""
    now = datetime.now(UTC)
    RESULTS.mkdir(exist_ok=True)
    names = (f"{name}-{now:%Y-%m-%d}{again}.json" for again in ("", *(f"-{i}" for i in range(2, 1000))))
    path = next(RESULTS / file for file in names if not (RESULTS / file).exists())
    body = {"date": now.isoformat(timespec="seconds"), "command": command, "machine": machine(), "results": results}
    path.write_text(json.dumps(body, indent=2) + "\n")
    return path
