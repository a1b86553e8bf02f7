"""`pagecli profile`: its flags, and the sections of the report they ask for, one file each."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import typer

from pagecli.cli.commands import options_command
from pagecli.cli.profile.options import ProfileOptions
from pagecli.cli.settings import notes, settings_files
from pagecli.cli.terminal.console import Console, exit_code_of
from pagecli.core.file_targets import NamedPath, check_distinct
from pagecli.errors import ExitCode
from pagecli.jobs.run.stop_signals import stop_signals

if TYPE_CHECKING:
    from pagecli.cli.profile.plan import PlannedJob
    from pagecli.cli.profile.report import Section

EPILOG = (
    "Exit codes: 0 all shown; 1 internal error; 2 wrong usage, unknown GPU or workload; 3 workload unreadable; "
    "4 unknown model, or it does not fit the GPU that --gpu names, or vLLM does not start (the plan is shown all the same)."
)


PIPE_WIDTH = 120  # of tables when the terminal's width is unknown


@options_command(ProfileOptions)
def profile(context: typer.Context, options: ProfileOptions) -> int:
    """Show where memory goes for a model and a workload, without weights, GPU or network.

    The plan: weights, KV cache, and how many requests fit at a time on a GPU
    of the catalogue or on this machine, with the flags for generate.
    The replay: what the memory policies of other systems do with the same work.
    --run and --sweep load the model and measure it on this machine.
    """
    console = Console(options.quiet and not options.verbose, options.verbose)

    def run_all() -> int:
        console.transient("starting")
        for line in notes(context):
            console.warning(line)
        with stop_signals() as signals:
            signals.on_deadline = lambda signum: None  # nothing to save, but it ends
            return _run(options, console)

    return exit_code_of(run_all, console)


def _run(options: ProfileOptions, console: Console) -> int:
    from pagecli.cli.profile.plan import checked_by, plan_job
    from pagecli.cli.profile.report import advice_section, check_reports, write_reports
    from pagecli.cli.profile.run import check_run_flags
    from pagecli.cli.profile.workload import load_workload
    from pagecli.model.registry import resolve_model
    from pagecli.model.stored_tensors import stored_tensors

    _check_files(options)
    check_reports(options)
    check_run_flags(options)
    if options.engine == "vllm":
        return _run_vllm(options, console)
    source, stored = resolve_model(options.model, "dummy"), stored_tensors(options.model)
    workload = load_workload(options.workload, options.model, options.num_requests, options.request_rate, options.max_tokens)
    job = plan_job(options, source, workload, checked_by(source, stored, console.warning))
    sections = [section(job, options) for section in _sections(job, options, console)]
    sections.append(advice_section(sections))
    console.end_transient()
    _show_json(sections) if options.json else _show_tables(sections)
    for path in write_reports(options, job.plan, workload.name, sections):
        console.note(f"written: {path}")
    return ExitCode.OK if job.plan.fits or not job.chosen_by_user else ExitCode.MODEL


def _check_files(options: ProfileOptions) -> None:
    """Raises UsageError, before anything is opened, for a file that is both read and written, or written twice."""
    from pagecli.model.registry import local_files

    files = {"--html": options.html, "--steps": options.steps, "--trace": options.trace}
    written = [NamedPath(flag, str(path)) for flag, path in files.items() if path is not None]
    written += [NamedPath("--plots", str(path)) for path in options.plots.glob("*.png")] if options.plots is not None else []
    of_model = (NamedPath("--model", str(path)) for path in local_files(options.model))
    check_distinct(written, chain([NamedPath("--workload", options.workload)], of_model, settings_files()))


def _run_vllm(options: ProfileOptions, console: Console) -> int:
    from pagecli.cli.profile.vllm_plan import vllm_plan, vllm_section

    plan = vllm_plan(options)
    section = vllm_section(plan, options)
    console.end_transient()
    _show_json([section]) if options.json else _show_tables([section])
    return ExitCode.OK if plan.starts else ExitCode.MODEL


def _sections(
    job: "PlannedJob", options: ProfileOptions, console: Console
) -> "list[Callable[[PlannedJob, ProfileOptions], Section]]":
    """What the flags ask for, in the order it is shown."""
    from pagecli.cli.profile.replay import block_sizes_section, replay_section, sharing_section
    from pagecli.cli.profile.run import run_section, sweep_section

    wanted: list[Callable[[PlannedJob, ProfileOptions], Section]] = [plan_section]
    if options.tensor_parallel_size is not None or options.workers is not None:
        wanted.append(processes_section)
    if options.replay:
        wanted.append(replay_section)
    if options.block_sizes is not None:
        wanted.append(block_sizes_section)
    if options.sharing:
        wanted.append(sharing_section)
    if options.run:
        wanted.append(partial(run_section, console=console))
    if options.sweep is not None:
        wanted.append(partial(sweep_section, console=console))
    return wanted


def plan_section(job: "PlannedJob", options: ProfileOptions) -> "Section":
    """The plan, as JSON and as tables."""
    from pagecli.cli.profile.plan_tables import first_page, whole_plan
    from pagecli.cli.profile.report import Section
    from pagecli.profiler.plan.estimate import estimate, generate_flags
    from pagecli.profiler.plan.plan_json import model_json, plan_json, workload_json

    plan, workload = job.plan, job.workload
    estimated, flags_for_generate = estimate(plan, workload), generate_flags(plan, workload)
    asked: list[tuple[str, int | str | None]] = [
        ("--tensor-parallel-size", options.tensor_parallel_size),
        ("--workers", options.workers),
    ]
    asked += [("--merge-lora", options.merge_lora), *(("--lora", adapter) for adapter in options.lora or ())]
    asked += [("--quantization", "dequantize" if options.quantization == "dequantize" else None)]
    if flags_for_generate:
        flags_for_generate += [part for flag, value in asked if value is not None for part in (flag, str(value))]
    tables = whole_plan if options.all else first_page
    return Section(
        {
            "model": model_json(plan),
            "workload": workload_json(plan, workload),
            "plan": plan_json(plan, estimated, flags_for_generate, job.device_note),
        },
        tables(plan, workload, estimated, flags_for_generate, job.device_note),
    )


def processes_section(job: "PlannedJob", options: ProfileOptions) -> "Section":
    """The plan of each rank, each worker and all of them. Raises UsageError."""
    from pagecli.cli.profile.plan_tables import process_tables
    from pagecli.cli.profile.report import Section
    from pagecli.profiler.plan.estimate import estimate
    from pagecli.profiler.plan.processes import plan_processes

    estimated, num_requests = estimate(job.plan, job.workload), len(job.workload.requests)
    ranks, workers = options.tensor_parallel_size or job.plan.settings.num_devices, options.workers or 1
    planned = plan_processes(job.plan, estimated, num_requests, ranks, workers)
    return Section({"processes": asdict(planned)}, process_tables(planned))


def _show_json(sections: "list[Section]") -> None:
    import pagecli
    from pagecli.profiler.plan.plan_json import SCHEMA_VERSION

    report: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "pagecli_version": pagecli.__version__}
    for section in sections:
        report |= section.fields
    print(json.dumps(report, indent=2, allow_nan=False))


def _show_tables(sections: "list[Section]") -> None:
    from rich.console import Console as RichConsole

    class Screen(RichConsole):
        def on_broken_pipe(self) -> None:
            """Rich's own ends the process with exit code 1."""
            raise BrokenPipeError

    to_terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    screen = Screen(file=sys.stdout, highlight=False, width=None if to_terminal else PIPE_WIDTH)
    for number, section in enumerate(each for each in sections if each.shown):
        if number:
            screen.print()
        for part in section.shown:
            screen.print(part, crop=False)
