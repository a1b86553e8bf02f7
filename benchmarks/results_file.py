"""Results of benchmarks: one JSON file a run, with date, machine and versions."""

import json
import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pagecli

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
        "versions": {"pagecli": pagecli.__version__} | {name: metadata.version(name) for name in ("torch", "transformers")},
    }


def save(name: str, command: str, results: object) -> Path:
    """Writes results/NAME-DATE.json and returns its path.

    An older result of this name on this kind of CPU goes: the newest of a case is kept, git has the others. Where another CPU's
    result of the same day has the name, this one becomes NAME-DATE-2.json.
    """
    now = datetime.now(UTC)
    RESULTS.mkdir(exist_ok=True)
    body = {"date": now.isoformat(timespec="seconds"), "command": command, "machine": machine(), "results": results}
    for older in RESULTS.glob(f"{name}-20*.json"):
        if case_of(older) == name and cpu_of(json.loads(older.read_text())) == cpu_of(body):
            older.unlink()
    names = (f"{name}-{now:%Y-%m-%d}{again}.json" for again in ("", *(f"-{i}" for i in range(2, 1000))))
    path = next(RESULTS / file for file in names if not (RESULTS / file).exists())
    path.write_text(json.dumps(body, indent=2) + "\n")
    return path


def case_of(path: Path) -> str:
    """The name that a result was saved under: the file's without its date."""
    return re.split(r"-\d{4}-\d\d-\d\d", path.stem)[0]


def cpu_of(content: Mapping[str, Any]) -> str:
    """The CPU that a result was measured on, and its instructions, some of which a virtual machine may hide; empty where the
    file does not say."""
    machine = content.get("machine", {})
    return " ".join([str(machine.get("cpu", "")), *machine.get("isa", ())]).strip()
