"""The flags --restart, --no-journal, --partial, --on-error and --max-error-rate: a job that is run again, or that fails."""

from typing import Annotated, Literal

import typer

PANEL = "Errors and interruptions"


Restart = Annotated[
    bool, typer.Option("--restart", help="Begin anew: drop what an earlier run finished.", rich_help_panel=PANEL)
]
Journal = Annotated[
    bool,
    typer.Option(
        "--journal/--no-journal",
        help="Keep finished rows beside OUTPUT until it is complete, so that the same command goes on after any end.",
        rich_help_panel=PANEL,
    ),
]
Partial = Annotated[
    bool,
    typer.Option(
        "--partial",
        help="Only write what a stopped job has finished so far, beside OUTPUT as a .partial file.",
        rich_help_panel=PANEL,
    ),
]
OnErrorChoice = Annotated[
    Literal["row", "stop"],
    typer.Option("--on-error", help="A row that fails: write an error row, or stop.", rich_help_panel=PANEL),
]
MaxErrorRate = Annotated[
    float | None,
    typer.Option(
        "--max-error-rate",
        help="Stop when more than this share of rows failed (0.05: 5 %, counted of at least 100 rows).",
        rich_help_panel=PANEL,
        metavar="SHARE",
        min=0.0,
        max=1.0,
    ),
]
