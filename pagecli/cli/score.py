"""`pagecli score`: how likely given texts are, by the rows' columns. A job as `generate`'s, with other result columns."""

import dataclasses
from typing import Annotated, Literal

import typer

from pagecli.cli.flags import distributed_options as distributed_flags
from pagecli.cli.flags import engine_and_sampling as flags
from pagecli.cli.flags import resume_options as resume_flags
from pagecli.cli.flags import row_options as row_flags
from pagecli.cli.flags.engine_and_sampling import ENGINE_DEFAULTS, options_command
from pagecli.cli.generate.command import EPILOG as EPILOG
from pagecli.cli.generate.command import run_command
from pagecli.cli.generate.options import GenerateOptions

NormalizeChoice = Annotated[
    Literal["none", "tokens", "characters"],
    flags.option(
        "Choose among a row's choices by their log probability, or by that divided by their tokens or characters.",
        flags.CHAT,
        "--normalize",
    ),
]


@dataclasses.dataclass(frozen=True, slots=True)
class ScoreFlags:
    """The flags of `score`: those of `generate` that mean something where nothing is generated, and --normalize."""

    input: flags.Input
    output: flags.Output
    model: flags.Model
    normalize: NormalizeChoice = "none"
    prompt_column: flags.PromptColumn = "prompt"
    system: flags.System = None
    chat: flags.Chat = False
    token_ids: flags.TokenIds = False
    order: flags.OrderChoice = "input"
    input_format: row_flags.InputFormat = "auto"
    output_format: row_flags.OutputFormat = "auto"
    compression: row_flags.Compression = "zstd"
    where: row_flags.Where = None
    limit: flags.Limit = None
    shard: row_flags.ShardPart = None
    overwrite: flags.Overwrite = False
    load_format: flags.LoadFormatChoice = "auto"
    merge_lora: flags.MergeLora = None
    device: flags.DeviceChoice = "cpu"
    dtype: flags.DTypeChoice = "auto"
    max_model_len: flags.MaxModelLen = None
    block_size: flags.BlockSize = ENGINE_DEFAULTS["block_size"]
    kv_dtype: flags.KvDTypeChoice = "auto"
    kv_memory: flags.KvMemory = "auto"
    max_num_seqs: flags.MaxNumSeqs = ENGINE_DEFAULTS["max_num_seqs"]
    max_batch_tokens: flags.MaxBatchTokens = ENGINE_DEFAULTS["max_batch_tokens"]
    prefix_caching: flags.PrefixCaching = ENGINE_DEFAULTS["prefix_caching"]
    threads: flags.Threads = None
    workers: distributed_flags.Workers = None
    restart: resume_flags.Restart = False
    journal: resume_flags.Journal = True
    partial: resume_flags.Partial = False
    on_error: resume_flags.OnErrorChoice = "row"
    max_error_rate: resume_flags.MaxErrorRate = None
    stats: flags.Stats = None
    progress_json: flags.ProgressJson = None
    metrics_file: flags.MetricsFile = None
    log_file: flags.LogFile = None
    log_json: flags.LogJson = False
    no_config: flags.NoConfig = False
    quiet: flags.Quiet = False
    verbose: flags.Verbose = False


@options_command(ScoreFlags)
def score(context: typer.Context, options: ScoreFlags) -> int:
    """Write how likely given texts are, for every row of INPUT, to OUTPUT.

    A row has a prompt (or messages, or prompt_token_ids) and a completion or
    a list of choices, or a text alone. Columns of the result: logprob,
    token_logprobs, token_is_greedy, is_greedy, perplexity, and with choices
    best_choice and choice_logprobs. All columns of the input are carried over.
    """
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options) if field.name != "normalize"}
    generate = GenerateOptions(**given, generation_config="none", max_tokens=1, speculate="0")
    return run_command(context, generate, options.normalize)
