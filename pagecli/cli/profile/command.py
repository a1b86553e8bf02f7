"""`pagecli profile`: its flags, and the sections of the report they ask for, one file each."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from pagecli.cli.flags import engine_and_sampling as flags
from pagecli.cli.flags import profile_options as profile_flags
from pagecli.cli.flags import recording_options as run_flags
from pagecli.cli.flags.distinct_files import check_profile_files
from pagecli.cli.flags.engine_and_sampling import ENGINE_DEFAULTS, SAMPLING_DEFAULTS
from pagecli.cli.settings.resolve import notes
from pagecli.cli.terminal.console import Console
from pagecli.cli.terminal.exit_codes import exit_code_of
from pagecli.errors import ExitCode
from pagecli.jobs.run.stop_signals import stop_signals

if TYPE_CHECKING:
    from pagecli.cli.profile.plan import PlannedJob
    from pagecli.cli.profile.section import Section

EPILOG = (
    "Exit codes: 0 all shown; 1 internal error; 2 wrong usage, unknown GPU or workload; 3 workload unreadable; "
    "4 unknown model, or it does not fit the GPU that --gpu names (the plan is shown all the same)."
)


PIPE_WIDTH = 120  # of tables when nobody says how wide the terminal is


def profile(
    context: typer.Context,
    model: flags.Model,
    gpu: profile_flags.Gpu = "auto",
    num_gpus: profile_flags.NumGpus = None,
    dtype: profile_flags.DType = profile_flags.PlanDType.auto,
    kv_dtype: profile_flags.KvDTypeChoice = profile_flags.KvDType.auto,
    kv_memory: profile_flags.KvMemory = "auto",
    block_size: profile_flags.BlockSize = ENGINE_DEFAULTS["block_size"],
    max_num_seqs: profile_flags.MaxNumSeqs = None,
    max_batch_tokens: profile_flags.MaxBatchTokens = None,
    workload: profile_flags.WorkloadChoice = "sharegpt",
    num_requests: profile_flags.NumRequests = None,
    request_rate: profile_flags.RequestRate = None,
    max_tokens: profile_flags.OutputTokens = SAMPLING_DEFAULTS["max_tokens"],
    replay: profile_flags.Replay = True,
    policies: profile_flags.Policies = None,
    block_sizes: profile_flags.BlockSizes = None,
    sharing: profile_flags.Sharing = False,
    sweep_sizes: run_flags.SweepSizes = None,
    run: run_flags.Run = False,
    max_seconds: run_flags.MaxSeconds = run_flags.DEFAULT_RUN_SECONDS,
    sweep: run_flags.Sweep = None,
    steps: run_flags.Steps = None,
    trace: run_flags.Trace = None,
    load_format: flags.LoadFormatChoice = flags.LoadFormat.auto,
    threads: flags.Threads = None,
    as_json: profile_flags.Json = False,
    html: profile_flags.Html = None,
    plots: profile_flags.Plots = None,
    no_config: flags.NoConfig = False,
    quiet: flags.Quiet = False,
    verbose: flags.Verbose = False,
) -> int:
    """Show where memory goes for a model and a workload, without weights, GPU or network.

    The plan: weights, KV cache, and how many requests fit at a time on a GPU
    of the catalogue or on this machine, with the flags for generate.
    The replay: what the memory policies of other systems do with the same work.
    --run and --sweep load the model and measure it on this machine.
    """
    console = Console(quiet and not verbose, verbose)
    values = context.params

    def run_all() -> int:
        for line in notes(context):
            console.warning(line)
        with stop_signals() as signals:
            signals.last_words = lambda signum: None  # nothing to save, but it ends
            return _run(values, as_json, console)

    return exit_code_of(run_all, console)


def _run(values: Mapping[str, Any], as_json: bool, console: Console) -> int:
    from pagecli.cli.profile.plan import plan_job
    from pagecli.cli.profile.report import advice_section, check_reports, write_reports
    from pagecli.cli.profile.run import check_run_flags
    from pagecli.cli.profile.workload import load_workload
    from pagecli.model.registry import resolve_model

    check_profile_files(*(values[name] for name in ("workload", "model", "html", "plots", "steps", "trace")))
    check_reports(values)
    check_run_flags(values)
    config = resolve_model(values["model"], "dummy").config
    workload = load_workload(
        values["workload"], values["model"], values["num_requests"], values["request_rate"], values["max_tokens"]
    )
    job = plan_job(values, config, workload)
    sections = [section(job, values) for section in _sections(job, values, console)]
    sections.append(advice_section(sections))
    _show_json(sections) if as_json else _show_tables(sections)
    for path in write_reports(values, job.plan, workload.name, sections):
        console.note(f"written: {path}")
    return ExitCode.OK if job.plan.fits or not job.chosen_by_user else ExitCode.MODEL


def _sections(
    job: "PlannedJob", values: Mapping[str, Any], console: Console
) -> "list[Callable[[PlannedJob, Mapping[str, Any]], Section]]":
    """What the flags ask for, in the order it is shown."""
    from pagecli.cli.profile.replay import block_sizes_section, replay_section, sharing_section
    from pagecli.cli.profile.run import run_section, sweep_section

    wanted: list[Callable[[PlannedJob, Mapping[str, Any]], Section]] = [_plan_section]
    if values["replay"]:
        wanted.append(replay_section)
    if values["block_sizes"] is not None:
        wanted.append(block_sizes_section)
    if values["sharing"]:
        wanted.append(sharing_section)
    if values["run"]:
        wanted.append(partial(run_section, console=console))
    if values["sweep"] is not None:
        wanted.append(partial(sweep_section, console=console))
    return wanted


def _plan_section(job: "PlannedJob", values: Mapping[str, Any]) -> "Section":
    from pagecli.cli.profile.plan_tables import plan_tables
    from pagecli.cli.profile.section import Section
    from pagecli.profiler.plan.estimate import estimate, generate_flags
    from pagecli.profiler.plan.plan_json import model_json, plan_json, workload_json

    plan, workload = job.plan, job.workload
    estimated, flags_for_generate = estimate(plan, workload), generate_flags(plan, workload)
    return Section(
        {
            "model": model_json(plan),
            "workload": workload_json(plan, workload),
            "plan": plan_json(plan, estimated, flags_for_generate, job.device_note),
        },
        plan_tables(plan, workload, estimated, flags_for_generate, job.device_note),
    )


def _show_json(sections: "list[Section]") -> None:
    import pagecli
    from pagecli.profiler.plan.plan_json import SCHEMA_VERSION

    report: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "pagecli_version": pagecli.__version__}
    for section in sections:
        report |= section.fields
    print(json.dumps(report, indent=2, allow_nan=False))


def _show_tables(sections: "list[Section]") -> None:
    from rich.console import Console as RichConsole

    to_terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    screen = RichConsole(file=sys.stdout, highlight=False, width=None if to_terminal else PIPE_WIDTH)
    for number, section in enumerate(each for each in sections if each.shown):
        if number:
            screen.print()
        for part in section.shown:
            screen.print(part, crop=False)
