"""What each flag reads and writes: no file that a command writes may be one that it reads, or writes for another flag."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pagecli.cli.settings import project_file, user_file
from pagecli.core.file_targets import NamedPath, check_distinct
from pagecli.errors import PagecliError, UsageError

if TYPE_CHECKING:
    from pagecli.cli.generate.options import MonitoringOptions

PROFILE_FILES = ("steps.parquet", "trace.json", "summary.json", "report.html")


def check_generate_files(
    input: str,
    output: str,
    model: str,
    stats: Path | None,
    profile: Path | None,
    monitoring: "MonitoringOptions",
    prompt_files: Mapping[str, Path | str | None] = MappingProxyType({}),
) -> None:
    """`prompt_files`: flag -> the file that it names. Raises UsageError, before anything is opened."""
    from pagecli.core import file_targets

    events = monitoring.progress_json
    event_path = f"/dev/fd/{events}" if events is not None and events.isdecimal() else events
    files = {
        "--stats": stats,
        "--metrics-file": monitoring.metrics_file,
        "--log-file": monitoring.log_file,
        "--progress-json": event_path,
    }
    written = [NamedPath(flag, str(path)) for flag, path in files.items() if path is not None]
    written += [NamedPath("--profile", str(profile / name)) for name in PROFILE_FILES] if profile is not None else []
    if file_targets.is_remote(output):
        _check_remote(input, output)
    else:
        written.insert(0, NamedPath("OUTPUT", "/dev/stdout" if output == "-" else file_targets.local(output)))
    journal = [] if file_targets.is_remote(output) or output == "-" else _journal_files(output)
    read = [NamedPath(flag, str(path)) for flag, path in prompt_files.items() if path is not None]
    check_distinct(written, chain(_inputs(input), read, journal, model_files(model), _settings()))


def check_profile_files(
    workload: str, model: str, html: Path | None, plots: Path | None, steps: Path | None, trace: Path | None
) -> None:
    """Raises UsageError, before anything is opened."""
    files = {"--html": html, "--steps": steps, "--trace": trace}
    written = [NamedPath(flag, str(path)) for flag, path in files.items() if path is not None]
    written += [NamedPath("--plots", str(path)) for path in plots.glob("*.png")] if plots is not None else []
    check_distinct(written, chain([NamedPath("--workload", workload)], model_files(model), _settings()))


def check_merge_files(parts: Iterable[str], output: str) -> None:
    """Raises UsageError, before anything is opened."""
    check_distinct([NamedPath("OUTPUT", output)], chain((NamedPath("PART", part) for part in parts), _settings()))


def model_files(model: str) -> Iterator[NamedPath]:
    """The files of a model on this machine, by directory, file or name, without downloading any."""
    from pagecli.model.registry import local_files

    yield from (NamedPath("--model", str(path)) for path in local_files(model))


def _inputs(path: str) -> Iterator[NamedPath]:
    from pagecli.core import file_targets
    from pagecli.jobs.readers.open_input import input_files

    try:
        files = ["/dev/stdin"] if path == "-" else [path] if file_targets.is_remote(path) else input_files(path)
    except PagecliError:  # said when the input is opened
        return
    yield from (NamedPath("INPUT", file) for file in files or [path])


def _check_remote(input: str, output: str) -> None:
    """Of two URLs only their names can be compared."""
    from pagecli.core import file_targets
    from pagecli.jobs.storage import remote_files

    if not file_targets.is_remote(input):
        return
    try:
        files = remote_files.matching(input, ("",))
    except PagecliError:
        return
    if file_targets.normalized(output) in map(file_targets.normalized, files):
        raise UsageError(f"OUTPUT {file_targets.shown(output)} is a file that is read: INPUT", "write to another file")


def _journal_files(output: str) -> Iterator[NamedPath]:
    from pagecli.core import file_targets
    from pagecli.jobs.storage.job_directory import TEMPORARY_SUFFIX, job_directory_path

    try:  # a temporary of a run that was killed may be the output itself, which just got its name
        folder = job_directory_path(file_targets.local_output_path(output))
        kept = [path for path in folder.iterdir() if not path.name.endswith(TEMPORARY_SUFFIX)]
        yield from (NamedPath("the job's journal,", str(path)) for path in kept)
    except (OSError, PagecliError):
        return


def _settings() -> Iterator[NamedPath]:
    yield from (NamedPath("settings,", str(path)) for path in (project_file(), user_file()) if path is not None)
