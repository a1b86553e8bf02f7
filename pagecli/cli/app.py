"""The entry point of the program `pagecli`. What a command needs is imported by the command, so that the others are quick."""

import sys

import pagecli
from pagecli.cli.terminal.console import Console
from pagecli.cli.terminal.exit_codes import end_process, exit_code_of, flushed
from pagecli.cli.terminal.standard_streams import open_standard_streams


def main(args: list[str] | None = None) -> None:
    """Runs the program and ends the process with its exit code; given `args`, raises SystemExit instead."""
    if args is None:
        open_standard_streams()
    arguments = sys.argv[1:] if args is None else args
    console = Console()
    code = flushed(exit_code_of(lambda: _run(arguments), console), console)
    if args is None:
        end_process(code)
    sys.exit(code)


def _run(arguments: list[str]) -> int | None:
    if arguments in (["--version"], ["-V"]):  # 20 ms instead of 60: scripts ask for it
        print(f"pagecli {pagecli.__version__}")
        return None
    from pagecli.cli.commands import app

    exit_code: int | None = app(args=arguments, prog_name="pagecli", standalone_mode=False)
    return exit_code
