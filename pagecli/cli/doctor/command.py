"""`pagecli doctor`: checks this machine and this installation, with a hint for each fault."""

import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import typer

from pagecli.cli.flags import engine_and_sampling as flags
from pagecli.cli.settings import commands_of
from pagecli.cli.terminal.console import GREEN, RED, YELLOW, Console, exit_code_of, name_value_lines
from pagecli.jobs.storage.redaction import redact, redact_values

if TYPE_CHECKING:
    from pagecli.cli.doctor.check import Check

EPILOG = "Exit codes: 0 jobs can run (there may be warnings); 1 something fails."


def doctor(context: typer.Context, as_json: flags.Json = False) -> int:
    """Check machine and installation: kernels, cores, memory, GPU, versions, caches, disk, settings."""
    console = Console()

    def run() -> int:
        found = []
        for check in checks(context):
            found.append(check)
            if not as_json:
                _print(check, console)
        has_failed = any(check.health == "fail" for check in found)
        if as_json:
            print(json.dumps({"ok": not has_failed, "checks": [_as_json(check) for check in found]}, indent=2))
        return 1 if has_failed else 0

    return exit_code_of(run, console)


def checks(context: typer.Context) -> Iterator["Check"]:
    """Each check as it is made; none raises."""
    from pagecli.cli.doctor import install_checks, machine_checks
    from pagecli.cli.doctor.check import guarded

    root: Any = context.find_root()
    commands = commands_of(root)
    all_checks: dict[str, Callable[[], Check]] = {
        "versions": install_checks.versions,
        "kernels": machine_checks.native_kernels,
        "cores": machine_checks.cores,
        "processes": machine_checks.processes,
        "memory": machine_checks.memory,
        "GPU": machine_checks.gpu,
        "model cache": install_checks.model_cache,
        "state": install_checks.state,
        "disk": install_checks.working_directory,
        "temporary": install_checks.temporary_directory,
        "settings": lambda: install_checks.configuration(commands, root),
    }
    for name, check in all_checks.items():
        yield guarded(name, check)


def _print(check: "Check", console: Console) -> None:
    def colored(name: str) -> str:
        color = {"ok": GREEN, "warn": YELLOW, "fail": RED}.get(name[:4].strip())
        return console.colored(name[:4], color) + name[4:] if color and sys.stdout.isatty() else name

    pairs = [(f"{check.health:4}  {check.name:11}", redact(check.found))]
    if check.hint:
        pairs.append(("", f"-> {redact(check.hint)}"))
    for line in name_value_lines(pairs, sys.stdout, colored):
        print(line, flush=True)


def _as_json(check: "Check") -> dict[str, object]:
    return redact_values(
        {"name": check.name, "state": str(check.health), "found": check.found, "hint": check.hint, "details": check.details}
    )
