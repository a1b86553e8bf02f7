"""`pagecli embed`: a vector for each row's text. A job as `generate`'s, with another engine and another result column."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pagecli.cli.commands import options_command_beside
from pagecli.cli.flags import engine_and_sampling as flags
from pagecli.cli.generate.command import EPILOG as EPILOG
from pagecli.cli.generate.command import run_command
from pagecli.cli.generate.options import NOTHING_GENERATED, WITHOUT_GENERATION, GenerateOptions

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
    """The flags of `embed` that `generate` has not."""

    pooling: PoolingChoice = "auto"
    normalize: NormalizeChoice = None
    prompt_name: PromptName = None


SHARED = (*WITHOUT_GENERATION, "template", "template_file", "row_group_rows", "sample")


@options_command_beside(GenerateOptions, SHARED, NOTHING_GENERATED | {"chat": False}, EmbedFlags)
def embed(context: typer.Context, options: GenerateOptions, own: EmbedFlags) -> int:
    """Write an embedding of the text in every row of INPUT to OUTPUT.

    The text is in the column prompt, or made by --template. The vector is in
    the column embedding; all columns of the input are carried over. How it is
    made is the model's own sentence-transformers configuration.
    """
    return run_command(context, options, lambda job: embedding_job(job, own))


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
