"""The flags of jobs and rows that fail or are run again: --restart, --no-journal, --partial, --on-error, --retry, ..."""

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
RetryErrors = Annotated[
    bool,
    option("Run only the error rows of a finished OUTPUT again, and put them in place.", PANEL, "--retry-errors"),
]
Retry = Annotated[
    int,
    option(
        "Run a row again, up to N times with other draws, while its output is no good; column attempts says how often.",
        PANEL,
        "--retry",
        metavar="N",
    ),
]
RetryOn = Annotated[
    str,
    option(
        "What is no good: some of invalid_output, length (cut), repetition (ends in a loop).",
        PANEL,
        "--retry-on",
        metavar="LIST",
    ),
]
RetryTemperature = Annotated[
    float | None,
    option("Temperature of later attempts; greedy rows are run again with it only.", PANEL, "--retry-temperature", metavar="X"),
]
