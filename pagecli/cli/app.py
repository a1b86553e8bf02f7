"""The program `pagecli`: its commands, and the one entry point. Nothing slow is imported here, so that help is quick."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import pagecli
from pagecli.cli.config import config
from pagecli.cli.doctor.command import EPILOG as DOCTOR_EPILOG
from pagecli.cli.doctor.command import doctor
from pagecli.cli.generate.command import EPILOG, generate
from pagecli.cli.merge import merge
from pagecli.cli.profile.command import EPILOG as PROFILE_EPILOG
from pagecli.cli.profile.command import profile
from pagecli.cli.status import EPILOG as STATUS_EPILOG
from pagecli.cli.status import status
from pagecli.cli.terminal.console import Console
from pagecli.cli.terminal.exit_codes import end_process, exit_code_of, flushed


class PlainHelpGroup(TyperGroup):
    """The overview of commands without Rich, whose import would double the time to show it."""

    def format_help(self, *args: Any) -> None:
        self.rich_markup_mode = None
        super().format_help(*args)


app = typer.Typer(
    name="pagecli",
    cls=PlainHelpGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"pagecli {pagecli.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Offline batch text generation with large language models on a paged KV cache."""


app.command(epilog=EPILOG, no_args_is_help=True)(generate)
app.command(epilog=PROFILE_EPILOG, no_args_is_help=True)(profile)
app.command(epilog=STATUS_EPILOG, no_args_is_help=True)(status)
app.command(no_args_is_help=True)(merge)
app.command(epilog=DOCTOR_EPILOG)(doctor)
app.command()(config)


def main(args: list[str] | None = None) -> None:
    """Runs the program and ends the process with its exit code; given `args`, for a caller that goes on, raises SystemExit."""
    arguments = sys.argv[1:] if args is None else args
    code = flushed(exit_code_of(lambda: app(args=arguments, prog_name="pagecli", standalone_mode=False), Console()))
    if args is None:
        end_process(code)
    sys.exit(code)
