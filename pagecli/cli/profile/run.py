"""`pagecli profile --run` and `--sweep`: the model is loaded and runs, on this machine."""

from dataclasses import replace
from typing import TYPE_CHECKING

from pagecli.cli.generate.options import parse_memory_size
from pagecli.cli.profile.options import ProfileOptions
from pagecli.cli.profile.report import Section, check_target
from pagecli.cli.terminal.console import Console, quieten
from pagecli.core.dtypes import CPU_DTYPES, CPU_KV_DTYPES
from pagecli.core.engine_config import EngineConfig
from pagecli.devices.cuda.batch_limits import batch_limits
from pagecli.errors import UsageError

if TYPE_CHECKING:
    from pagecli.cli.profile.plan import PlannedJob
    from pagecli.profiler.workloads.workloads import Workload

NUM_REQUESTS = 32  # without --num-requests
PAPER_LONGEST = 2_048  # tokens of a request, prompt and output


def check_run_flags(options: ProfileOptions) -> None:
    """Refuse conflicting flags before the model is loaded. Raises UsageError, InputError."""
    if options.sweep_sizes and options.sweep is None:
        raise UsageError(f"unexpected argument {options.sweep_sizes[0]!r}", "sizes go behind --sweep")
    for flag, path in (("steps", options.steps), ("trace", options.trace)):
        if path is None:
            continue
        if not options.run:
            raise UsageError(f"--{flag} without --run", "add --run: a plan has no steps")
        check_target(f"--{flag}", path)
    if options.run or options.sweep is not None:
        if options.dtype not in ("auto", *CPU_DTYPES):
            raise UsageError(f"--run and --sweep take no {options.dtype} weights", f"use --dtype {' or '.join(CPU_DTYPES)}")
        if options.lora:
            raise UsageError("--run and --sweep with --lora", "leave it out: requests of a workload choose no adapter")
        if options.kv_dtype not in ("auto", *CPU_KV_DTYPES):
            raise UsageError(f"--run and --sweep have no KV cache of {options.kv_dtype}", f"use {', '.join(CPU_KV_DTYPES)}")


def run_section(job: "PlannedJob", options: ProfileOptions, console: Console) -> Section:
    """The workload under each policy, measured. Raises ModelError, UsageError, InputError."""
    quieten(console.verbose, console.is_terminal and not console.quiet)
    from pagecli.cli.profile.run_tables import run_json, run_tables
    from pagecli.profiler.measure.measure import MeasureSettings, measure
    from pagecli.profiler.recording.trace_file import write_trace

    workload = _run_workload(job, options)
    longest = max(PAPER_LONGEST, max(request.total_tokens for request in workload.requests))
    settings = MeasureSettings(
        engine=replace(_engine_config(options), max_model_len=min(longest, job.config.max_positions)),
        max_seconds=options.max_seconds or None,
        steps_path=options.steps,
        title=f"{options.model}, {workload.name}",
    )
    done = measure(workload, settings, on_progress=console.note)
    if options.trace is not None:
        write_trace(options.trace, done.recordings[0])
    for path in (options.steps, options.trace):
        if path is not None:
            console.note(f"written: {path}")
    return Section(
        {"run": run_json(done, workload, settings)},
        run_tables(done, workload, settings),
        results=done.results,
        recording=done.recordings[0],
    )


def sweep_section(job: "PlannedJob", options: ProfileOptions, console: Console) -> Section:
    """Speed by batch size. Raises ModelError, UsageError."""
    quieten(console.verbose, console.is_terminal and not console.quiet)
    from pagecli.cli.profile.run_tables import sweep_json, sweep_tables
    from pagecli.profiler.measure.sweep import parse_sweep, sweep

    points = parse_sweep(" ".join([options.sweep or "", *(options.sweep_sizes or [])]))
    console.note(f"loading {options.model}")
    results = []
    for result in sweep(_engine_config(options), points):
        console.note(f"batch {result.point.batch}, prompt {result.point.prompt}: {result.seconds:.1f} s")
        results.append(result)
    return Section({"sweep": [sweep_json(result) for result in results]}, sweep_tables(results), sweep=results)


def _run_workload(job: "PlannedJob", options: ProfileOptions) -> "Workload":
    """The job's own workload; without --num-requests a part of it that ends soon."""
    from pagecli.profiler.workloads.workloads import BUILT_IN, built_in

    if options.num_requests is not None or len(job.workload.requests) <= NUM_REQUESTS:
        return job.workload
    if job.workload.name in BUILT_IN and job.workload.requests_per_second is None:
        return built_in(job.workload.name, NUM_REQUESTS)  # drawn so that the means are the paper's
    return replace(job.workload, requests=job.workload.requests[:NUM_REQUESTS])


def _engine_config(options: ProfileOptions) -> EngineConfig:
    """The engine that the flags describe."""
    max_num_seqs, max_batch_tokens = batch_limits(None, options.max_num_seqs, options.max_batch_tokens)
    return EngineConfig(
        model=options.model,
        load_format=options.load_format,
        merge_lora=options.merge_lora,
        dtype=options.dtype,
        quantization=options.quantization,
        kv_dtype=options.kv_dtype,  # type: ignore[arg-type]  # float16 was refused
        block_size=options.block_size,
        kv_memory_bytes=parse_memory_size("--kv-memory", options.kv_memory),
        max_num_seqs=max_num_seqs,
        max_batch_tokens=max_batch_tokens,
        threads=options.threads,
        speculate=0,  # the policies differ in memory and batches alone
    )
