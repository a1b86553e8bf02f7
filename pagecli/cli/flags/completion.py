"""Values that a shell's completion offers for a flag or argument; the shell offers file names where there are none.

Completion never fails: an input that cannot be read has no columns.
"""

from collections.abc import Iterable

import typer

from pagecli.errors import PagecliError


def model_names(incomplete: str) -> list[str]:
    """Named models, and the repositories in the hub's cache."""
    from pagecli.model.hub import cached_ids
    from pagecli.model.presets import preset_names

    return _beginning(incomplete, [*preset_names(), *cached_ids()])


def shown_models(args: list[str], incomplete: str) -> list[str]:
    """Of `pagecli models [PATTERN] | show NAME`."""
    return model_names(incomplete) if args[-1:] == ["show"] else _beginning(incomplete, ["show", *model_names("")])


def gpu_names(incomplete: str) -> list[str]:
    from pagecli.profiler.plan import gpus

    return _beginning(incomplete, ["auto", *gpus.gpu_names()])


def workload_names(incomplete: str) -> list[str]:
    from pagecli.profiler.workloads.workloads import BUILT_IN

    return _beginning(incomplete, BUILT_IN)


def policies(incomplete: str) -> list[str]:
    """The last policy of a list, `paged,reserve-m`, or the batching after its slash."""
    from pagecli.cli.profile.replay_cases import BATCHINGS
    from pagecli.core.engine_config import KV_POLICIES

    before, comma, last = incomplete.rpartition(",")
    names = [*KV_POLICIES, "paged-prefix"] if "/" not in last else [f"{kv}/{how}" for kv in KV_POLICIES for how in BATCHINGS]
    return [before + comma + name for name in _beginning(last, names)]


def columns(context: typer.Context, incomplete: str) -> list[str]:
    """The columns of INPUT's first row. A stream or a URL is left unread."""
    from pagecli.jobs.readers.open_input import input_files, open_input

    given = context.params.get("input") or next(iter(context.args), "-")  # unparsed, as the flag has no value yet
    try:
        source = open_input(input_files(given)[0], limit=1)
    except (PagecliError, OSError, IndexError):
        return []
    try:
        found = source.column_names or [name for row in source for name in row.columns]
    except (PagecliError, OSError):
        return []
    finally:
        source.close()
    return _beginning(incomplete, found)


def command_names(context: typer.Context, incomplete: str) -> list[str]:
    return _beginning(incomplete, getattr(context.find_root().command, "commands", ()))


def configurable_commands(context: typer.Context, incomplete: str) -> list[str]:
    """The commands that settings files and the environment give flags."""
    commands = getattr(context.find_root().command, "commands", {})
    return [name for name in command_names(context, incomplete) if any(p.name == "no_config" for p in commands[name].params)]


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
