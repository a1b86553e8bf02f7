"""`pagecli generate`: its flags, and from them the job."""

from enum import StrEnum

import typer

from pagecli.cli.flags import engine_and_sampling as flags
from pagecli.cli.flags import recording_options as run_flags
from pagecli.cli.flags import resume_options as resume_flags
from pagecli.cli.flags import row_options as row_flags
from pagecli.cli.flags.distinct_files import check_generate_files
from pagecli.cli.flags.engine_and_sampling import ENGINE_DEFAULTS, SAMPLING_DEFAULTS
from pagecli.cli.flags.memory_size import parse_memory_size
from pagecli.cli.flags.monitoring_options import MonitoringOptions, open_log
from pagecli.cli.settings.resolve import notes, with_place
from pagecli.cli.terminal.console import Console
from pagecli.cli.terminal.exit_codes import exit_code_of
from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import UsageError

EPILOG = (
    "Exit codes: 0 every row good; 1 internal error; 2 wrong usage, or the output exists; 3 input unreadable or "
    "output not writable; 4 model cannot be loaded or does not fit; 5 finished, but with error rows, or stopped for them; 129, "
    "130 and 143 ended by SIGHUP, SIGINT or SIGTERM (finished rows are kept; the same command goes on); 141 nobody reads "
    "standard output any more."
)


def generate(
    context: typer.Context,
    input: flags.Input,
    output: flags.Output,
    model: flags.Model,
    token_ids: flags.TokenIds = False,
    order: flags.OrderChoice = flags.Order.input,
    overwrite: flags.Overwrite = False,
    input_format: row_flags.InputFormat = row_flags.InputFormatName.auto,
    output_format: row_flags.OutputFormat = row_flags.OutputFormatName.auto,
    compression: row_flags.Compression = row_flags.CompressionName.zstd,
    row_group_rows: row_flags.RowGroupRows = None,
    max_row_bytes: row_flags.MaxRowBytes = "64MiB",
    limit: flags.Limit = None,
    where: row_flags.Where = None,
    sample: row_flags.Sample = None,
    sample_seed: row_flags.SampleSeed = 0,
    shard: row_flags.ShardPart = None,
    dry_run: row_flags.DryRun = False,
    prompt_column: flags.PromptColumn = "prompt",
    system: flags.System = None,
    chat: flags.Chat = None,
    too_long: row_flags.TooLong = row_flags.TooLongChoice.error,
    template_time: row_flags.TemplateTime = None,
    max_tokens: flags.MaxTokens = SAMPLING_DEFAULTS["max_tokens"],
    min_tokens: flags.MinTokens = SAMPLING_DEFAULTS["min_tokens"],
    temperature: flags.Temperature = SAMPLING_DEFAULTS["temperature"],
    top_k: flags.TopK = SAMPLING_DEFAULTS["top_k"],
    top_p: flags.TopP = SAMPLING_DEFAULTS["top_p"],
    min_p: flags.MinP = SAMPLING_DEFAULTS["min_p"],
    repetition_penalty: flags.RepetitionPenalty = SAMPLING_DEFAULTS["repetition_penalty"],
    presence_penalty: flags.PresencePenalty = SAMPLING_DEFAULTS["presence_penalty"],
    frequency_penalty: flags.FrequencyPenalty = SAMPLING_DEFAULTS["frequency_penalty"],
    seed: flags.Seed = SAMPLING_DEFAULTS["seed"],
    stop: flags.Stop = None,
    stop_token_id: flags.StopTokenIds = None,
    ignore_eos: flags.IgnoreEos = SAMPLING_DEFAULTS["ignore_eos"],
    logprobs: flags.Logprobs = None,
    n: flags.N = SAMPLING_DEFAULTS["n"],
    best_of: flags.BestOf = None,
    beam_width: flags.BeamWidth = SAMPLING_DEFAULTS["beam_width"],
    length_penalty: flags.LengthPenalty = SAMPLING_DEFAULTS["length_penalty"],
    early_stopping: flags.EarlyStoppingChoice = flags.EarlyStop.false,
    load_format: flags.LoadFormatChoice = flags.LoadFormat.auto,
    device: flags.DeviceChoice = flags.Device.cpu,
    dtype: flags.DTypeChoice = flags.DType.auto,
    max_model_len: flags.MaxModelLen = None,
    block_size: flags.BlockSize = ENGINE_DEFAULTS["block_size"],
    kv_dtype: flags.KvDTypeChoice = flags.KvDType.auto,
    kv_memory: flags.KvMemory = "auto",
    max_num_seqs: flags.MaxNumSeqs = ENGINE_DEFAULTS["max_num_seqs"],
    max_batch_tokens: flags.MaxBatchTokens = ENGINE_DEFAULTS["max_batch_tokens"],
    prefix_caching: flags.PrefixCaching = ENGINE_DEFAULTS["prefix_caching"],
    cuda_graphs: flags.CudaGraphs = ENGINE_DEFAULTS["cuda_graphs"],
    preemption: flags.PreemptionChoice = flags.Preemption.recompute,
    kv_policy: flags.KvPolicyChoice = flags.KvPolicyName.paged,
    batching: flags.BatchingChoice = flags.BatchingName.continuous,
    swap_memory: flags.SwapMemory = None,
    threads: flags.Threads = None,
    restart: resume_flags.Restart = False,
    journal: resume_flags.Journal = True,
    partial: resume_flags.Partial = False,
    on_error: resume_flags.OnErrorChoice = resume_flags.OnError.row,
    max_error_rate: resume_flags.MaxErrorRate = None,
    stats: flags.Stats = None,
    profile: run_flags.ProfileDirectory = None,
    progress_json: flags.ProgressJson = None,
    metrics_file: flags.MetricsFile = None,
    log_file: flags.LogFile = None,
    log_json: flags.LogJson = False,
    no_config: flags.NoConfig = False,
    quiet: flags.Quiet = False,
    verbose: flags.Verbose = False,
) -> int:
    """Generate text for every row of INPUT; write rows and text to OUTPUT.

    A row has a column prompt (text), messages (a chat) or prompt_token_ids,
    and perhaps an id. A column named like a sampling parameter (max_tokens,
    temperature, stop, ...) overrides the flag. All columns are carried over;
    one named like a column of the result (text, ...) as input_text, ...
    """
    console = Console(quiet and not verbose, verbose)
    values = context.params
    monitoring = MonitoringOptions(progress_json, metrics_file, log_file, log_json)

    def run() -> int:
        check_generate_files(input, output, model, stats, profile, monitoring)
        open_log(monitoring, console)
        for line in notes(context):
            console.warning(line)
        try:
            config = engine_config(values)
            params = sampling_params(values)
        except UsageError as error:
            raise with_place(error, context) from error
        # Slow imports (pyarrow) only after the flags have been found good.
        from pagecli.cli.generate.job import GenerateJob, run_generate
        from pagecli.cli.generate.output_claim import JournalOptions
        from pagecli.cli.generate.rows import Formats, parse_template_time
        from pagecli.jobs.rows.output_row import ResultColumns
        from pagecli.jobs.rows.row_preparer import PromptOptions
        from pagecli.jobs.rows.row_selection import RowChoice
        from pagecli.jobs.run.error_policy import ErrorPolicy

        job = GenerateJob(
            input=input,
            output=output,
            engine=config,
            params=params,
            prompts=PromptOptions(prompt_column, system, chat, too_long.value, parse_template_time(template_time)),
            columns=ResultColumns(token_ids, best_of is not None or beam_width > 1, logprobs is not None),
            order=order.value,
            selection=RowChoice(where, sample, sample_seed, limit, shard),
            formats=Formats(
                input_format.value, output_format.value, compression.value, row_group_rows, row_limit(max_row_bytes)
            ),
            dry_run=dry_run,
            overwrite=overwrite,
            stats=stats,
            profile=profile,
            monitoring=monitoring,
            journal=JournalOptions(journal, restart, partial),
            errors=ErrorPolicy(on_error.value, max_error_rate),
        )
        return run_generate(job, console)

    return exit_code_of(run, console)


def row_limit(text: str) -> int:
    """--max-row-bytes in bytes. Raises UsageError."""
    size = parse_memory_size("--max-row-bytes", text)
    if size is None:
        raise UsageError("--max-row-bytes is 'auto', not a size", "write a number and a unit, as in 64MiB")
    return size


def engine_config(values: dict[str, object]) -> EngineConfig:
    """The engine's settings out of the flags. Raises UsageError."""
    chosen = {name: values[name] for name in ENGINE_DEFAULTS if name in values}
    chosen = {name: str(value) if isinstance(value, StrEnum) else value for name, value in chosen.items()}
    kv_memory_bytes = parse_memory_size("--kv-memory", str(values["kv_memory"]))
    swap_memory = values["swap_memory"]
    swap_memory_bytes = (parse_memory_size("--swap-memory", str(swap_memory)) or 0) if swap_memory is not None else 0
    return EngineConfig(**chosen, kv_memory_bytes=kv_memory_bytes, swap_memory_bytes=swap_memory_bytes)  # type: ignore[arg-type]


def sampling_params(values: dict[str, object]) -> SamplingParams:
    """The sampling parameters of rows that bring none. Raises UsageError naming the flag."""
    chosen = {name: values[name] for name in SAMPLING_DEFAULTS if name in values and name != "stop"}
    chosen["early_stopping"] = str(chosen["early_stopping"])
    stop, stop_token_ids = values["stop"] or [], values["stop_token_id"] or []
    try:
        return SamplingParams(**chosen, stop=tuple(stop), stop_token_ids=tuple(stop_token_ids))  # type: ignore
    except UsageError as error:
        name, rest = error.message.split(" ", 1)
        raise UsageError(f"--{name.replace('_', '-')} {rest}", error.hint) from error
