"""The flags --restart, --no-journal, --partial, --on-error and --max-error-rate: a job that is run again, or that fails."""

from typing import Annotated, Literal

from pagecli.cli.flags.engine_and_sampling import option

PANEL = "Errors and interruptions"

Restart = Annotated[bool, option("Begin anew: drop what an earlier run finished.", PANEL, "--restart")]
Journal = Annotated[
    bool,
    option(
        "Keep finished rows beside OUTPUT until it is complete, so that the same command resumes it after any end.",
        PANEL,
        "--journal/--no-journal",
    ),
]
Partial = Annotated[
    bool,
    option("Only write what a stopped job has finished so far, beside OUTPUT as a .partial file.", PANEL, "--partial"),
]
OnErrorChoice = Annotated[Literal["row", "stop"], option("A row that fails: write an error row, or stop.", PANEL, "--on-error")]
MaxErrorRate = Annotated[
    float | None,
    option(
        "Stop when more than this share of rows failed (0.05: 5 %, counted of at least 100 rows).",
        PANEL,
        "--max-error-rate",
        metavar="SHARE",
        min=0.0,
        max=1.0,
    ),
]
