"""`pagecli score`: how likely given texts are, by the rows' columns. A job as `generate`'s, with other result columns."""

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
    """The flags of `score` that `generate` has not, or has with another default."""

    normalize: NormalizeChoice = "none"
    chat: flags.Chat = False


SHARED = (
    *WITHOUT_GENERATION,
    *("system", "token_ids", "output_format", "device", "block_size", "kv_dtype", "kv_memory", "prefix_caching", "workers"),
    *("ray", "ray_port", "worker_timeout", "allow_mixed_hardware"),
)


@options_command_beside(GenerateOptions, SHARED, NOTHING_GENERATED, ScoreFlags)
def score(context: typer.Context, options: GenerateOptions, own: ScoreFlags) -> int:
    """Write how likely given texts are, for every row of INPUT, to OUTPUT.

    A row has a prompt (or messages, or prompt_token_ids) and a completion or
    a list of choices, or a text alone. Columns of the result: logprob,
    token_logprobs, token_is_greedy, is_greedy, perplexity, and with choices
    best_choice and choice_logprobs. All columns of the input are carried over.
    """
    return run_command(context, dataclasses.replace(options, chat=own.chat), lambda job: scoring_job(job, own))


def scoring_job(job: "GenerateJob", options: ScoreFlags) -> "GenerateJob":
    """The job as one that scores its rows."""
    from pagecli.jobs.rows.row import SCORES
    from pagecli.jobs.rows.score_rows import ScoreOptions

    return dataclasses.replace(
        job, score=ScoreOptions(options.normalize), columns=dataclasses.replace(job.columns, kind=SCORES)
    )
