"""The flags of `pagecli profile` that run the model, and `generate --profile`."""

from pathlib import Path
from typing import Annotated

import typer

from pagecli.cli.flags.engine_and_sampling import TALK, option

RUN = "Run"
DEFAULT_RUN_SECONDS = 30.0

Run = Annotated[
    bool,
    option(
        "Load the model and run the workload under four memory policies in turn, at equal KV memory: paged, reserve-max with "
        "continuous and with static batching, one request at a time. Takes the first 32 requests unless --num-requests says.",
        RUN,
        "--run",
    ),
]
MaxSeconds = Annotated[
    float,
    option("Cut each policy's run off after so long, and count its tokens until then; 0: never.", RUN, "--max-seconds", min=0),
]
Steps = Annotated[Path | None, option("Write every step of the paged run, a row each.", RUN, "--steps", metavar="FILE.parquet")]
Trace = Annotated[
    Path | None, option("Write the paged run as a timeline for ui.perfetto.dev.", RUN, "--trace", metavar="FILE.json")
]
Sweep = Annotated[
    str | None,
    option(
        "Run batches of equal requests and print llama-batched-bench's table.",
        RUN,
        "--sweep",
        metavar="batch=1,8,32 prompt=128 output=64",
    ),
]
# What follows --sweep without quotes arrives as arguments of its own.
SweepSizes = Annotated[list[str] | None, typer.Argument(hidden=True, metavar="SIZES")]

ProfileDirectory = Annotated[
    Path | None,
    option(
        "Record the job: steps.parquet, trace.json (ui.perfetto.dev), summary.json and report.html in this directory.",
        TALK,
        "--profile",
        metavar="DIR",
    ),
]
