"""The program `pagecli`: its commands, and the one entry point. Nothing slow is imported here, so that help is quick."""

import sys
from typing import Annotated, Any

import typer

import pagecli
from pagecli.cli.config import config
from pagecli.cli.doctor.command import EPILOG as DOCTOR_EPILOG
from pagecli.cli.doctor.command import doctor
from pagecli.cli.embed import embed
from pagecli.cli.generate.command import EPILOG, generate
from pagecli.cli.merge import merge
from pagecli.cli.models import EPILOG as MODELS_EPILOG
from pagecli.cli.models import models
from pagecli.cli.profile.command import EPILOG as PROFILE_EPILOG
from pagecli.cli.profile.command import profile
from pagecli.cli.score import score
from pagecli.cli.status import EPILOG as STATUS_EPILOG
from pagecli.cli.status import status
from pagecli.cli.terminal.console import Console
from pagecli.cli.terminal.exit_codes import end_process, exit_code_of, flushed
from pagecli.cli.terminal.help import HelpCommand, HelpGroup, ShortHelp, help_page
from pagecli.cli.terminal.standard_streams import open_standard_streams

app = typer.Typer(
    name="pagecli",
    cls=HelpGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
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


# Commands with settings: every flag also from PAGECLI_... in the environment, and from files (settings/resolve.py).
WITH_SETTINGS = {"auto_envvar_prefix": "PAGECLI"}
GENERATE_HELP = ShortHelp(
    most_used=(
        *("--model", "--prompt-column", "--template", "--system", "--max-tokens", "--temperature", "--stop", "--n"),
        *("--limit", "--dry-run", "--overwrite", "--stats", "--quiet"),
    ),
    examples=(
        "pagecli generate in.jsonl out.parquet --model smollm2-135m",
        "pagecli generate reviews.csv labels.parquet -m ./model --template 'Sentiment of: {{ review }}' --max-tokens 5",
        "pagecli generate in.jsonl out.parquet -m smollm2-135m --dry-run",
        "cat in.jsonl | pagecli generate - - -m smollm2-135m --quiet | jq -r .text",
    ),
)
EMBED_HELP = ShortHelp(
    most_used=("--model", "--prompt-column", "--template", "--prompt-name", "--pooling", "--dtype", "--limit", "--overwrite"),
    examples=(
        "pagecli embed in.parquet out.parquet --model Qwen/Qwen3-Embedding-0.6B",
        "pagecli embed questions.jsonl out.parquet -m ./embedder --prompt-name query",
    ),
)
SCORE_HELP = ShortHelp(
    most_used=("--model", "--normalize", "--prompt-column", "--chat", "--dtype", "--limit", "--overwrite", "--stats"),
    examples=(
        "pagecli score in.jsonl out.parquet --model smollm2-135m",
        "pagecli score questions.jsonl answers.parquet -m smollm2-135m --normalize characters",
    ),
)
PROFILE_HELP = ShortHelp(
    most_used=("--model", "--gpu", "--workload", "--dtype", "--max-tokens", "--run", "--html", "--json"),
    examples=(
        "pagecli profile --model opt-13b --gpu a100-40gb",
        "pagecli profile --model llama-3.1-8b --gpu l4 --workload lengths.csv",
        "pagecli profile --model smollm2-135m --workload in.jsonl --max-tokens 64",
        "pagecli profile --model smollm2-135m --run --html report.html",
    ),
)
app.command(cls=HelpCommand, epilog=EPILOG, context_settings=WITH_SETTINGS | {"obj": GENERATE_HELP})(generate)
app.command(cls=HelpCommand, epilog=EPILOG, context_settings=WITH_SETTINGS | {"obj": SCORE_HELP})(score)
app.command(cls=HelpCommand, epilog=EPILOG, context_settings=WITH_SETTINGS | {"obj": EMBED_HELP})(embed)
app.command(cls=HelpCommand, epilog=PROFILE_EPILOG, context_settings=WITH_SETTINGS | {"obj": PROFILE_HELP})(profile)
app.command(cls=HelpCommand, epilog=STATUS_EPILOG)(status)
app.command(cls=HelpCommand, context_settings=WITH_SETTINGS)(merge)
app.command(cls=HelpCommand, epilog=MODELS_EPILOG)(models)
app.command(cls=HelpCommand, epilog=DOCTOR_EPILOG)(doctor)
app.command(cls=HelpCommand)(config)


@app.command(name="help", cls=HelpCommand)
def show_help(
    context: typer.Context,
    command: Annotated[list[str] | None, typer.Argument(metavar="COMMAND", help="The command to explain.")] = None,
) -> None:
    """Show the help of a command, or of the program."""
    found: Any = context.find_root()
    for name in command or ():
        inner = found.command.resolve_command(found, [name])[1]
        found = inner.context_class(inner, info_name=name, parent=found, **inner.context_settings)
    typer.echo(help_page(found.command, found))


def main(args: list[str] | None = None) -> None:
    """Runs the program and ends the process with its exit code; given `args`, raises SystemExit instead."""
    if args is None:
        open_standard_streams()
    arguments = sys.argv[1:] if args is None else args
    console = Console()
    code = flushed(exit_code_of(lambda: app(args=arguments, prog_name="pagecli", standalone_mode=False), console), console)
    if args is None:
        end_process(code)
    sys.exit(code)
