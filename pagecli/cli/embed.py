"""`pagecli embed`: a vector for each row's text. A job as `generate`'s, with another engine and another result column."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pagecli.cli.flags import engine_and_sampling as flags
from pagecli.cli.flags import prompt_options as prompt_flags
from pagecli.cli.flags import resume_options as resume_flags
from pagecli.cli.flags import row_options as row_flags
from pagecli.cli.flags.engine_and_sampling import ENGINE_DEFAULTS, options_command
from pagecli.cli.generate.command import EPILOG as EPILOG
from pagecli.cli.generate.command import run_command
from pagecli.cli.generate.options import GenerateOptions

if TYPE_CHECKING:
    from pagecli.cli.generate.job import GenerateJob

PoolingChoice = Annotated[
    Literal["auto", "last", "mean"],
    flags.option(
        "The last token's states, or the mean of all tokens'. auto: as the model's modules.json says.", flags.CHAT, "--pooling"
    ),
]
NormalizeChoice = Annotated[
    bool | None,
    flags.option("Scale vectors to length 1. Default: as the model says.", flags.CHAT, "--normalize/--no-normalize"),
]
PromptName = Annotated[
    str | None,
    flags.option(
        "Put the model's own prompt of this name (query, ...) before each text.", flags.CHAT, "--prompt-name", metavar="NAME"
    ),
]


@dataclasses.dataclass(frozen=True, slots=True)
class EmbedFlags:
    """The flags of `embed`: those of `generate` that mean something where nothing is generated, and its own."""

    input: flags.Input
    output: flags.Output
    model: flags.Model
    pooling: PoolingChoice = "auto"
    normalize: NormalizeChoice = None
    prompt_name: PromptName = None
    prompt_column: flags.PromptColumn = "prompt"
    template: prompt_flags.Template = None
    template_file: prompt_flags.TemplateFile = None
    order: flags.OrderChoice = "input"
    input_format: row_flags.InputFormat = "auto"
    compression: row_flags.Compression = "zstd"
    row_group_rows: row_flags.RowGroupRows = None
    where: row_flags.Where = None
    sample: row_flags.Sample = None
    limit: flags.Limit = None
    shard: row_flags.ShardPart = None
    overwrite: flags.Overwrite = False
    load_format: flags.LoadFormatChoice = "auto"
    merge_lora: flags.MergeLora = None
    dtype: flags.DTypeChoice = "auto"
    max_model_len: flags.MaxModelLen = None
    max_num_seqs: flags.MaxNumSeqs = ENGINE_DEFAULTS["max_num_seqs"]
    max_batch_tokens: flags.MaxBatchTokens = ENGINE_DEFAULTS["max_batch_tokens"]
    threads: flags.Threads = None
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


@options_command(EmbedFlags)
def embed(context: typer.Context, options: EmbedFlags) -> int:
    """Write an embedding of the text in every row of INPUT to OUTPUT.

    The text is in the column prompt, or made by --template. The vector is in
    the column embedding; all columns of the input are carried over. How it is
    made is the model's own sentence-transformers configuration.
    """
    own = ("pooling", "normalize", "prompt_name")
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options) if field.name not in own}
    generate = GenerateOptions(**given, chat=False, generation_config="none", max_tokens=1, speculate="0")
    return run_command(context, generate, change=lambda job: embedding_job(job, options))


def embedding_job(job: "GenerateJob", options: EmbedFlags) -> "GenerateJob":
    """The job as one that embeds, by the flags and the model's own configuration. Raises UsageError, ModelError."""
    from pagecli.jobs.rows.embedding_rows import EmbedOptions
    from pagecli.jobs.rows.row import EMBEDDINGS
    from pagecli.model.pooling import read_pooling
    from pagecli.model.registry import resolve_model

    weights = resolve_model(job.engine.model, job.engine.load_format).weights_path
    mode = None if options.pooling == "auto" else options.pooling
    pooling = read_pooling(None if weights is None else weights.parent, mode, options.normalize)
    return dataclasses.replace(
        job,
        embed=EmbedOptions(pooling.mode, pooling.normalize),
        prompts=dataclasses.replace(job.prompts, prefix=pooling.prefix(options.prompt_name)),
        columns=dataclasses.replace(job.columns, kind=EMBEDDINGS),
    )
