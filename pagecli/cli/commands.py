"""The commands of `pagecli`, by name. One is imported when it is asked for; the others cost a line of this table.

A command gets its flags as the fields of a dataclass (`options_command`).
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

import pagecli
from pagecli.cli.flags.completion import command_names
from pagecli.core.file_targets import on_this_machine
from pagecli.errors import ExitCode


@dataclass(frozen=True, slots=True)
class ShortHelp:
    """The short page of a command, given as the `obj` of its context settings: names of flags, and lines to copy."""

    most_used: tuple[str, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CommandSource:
    """Where a command's function is, and what the program's help page says of it, the first paragraph of its docstring.

    `has_settings`: every flag also from PAGECLI_... in the environment, and from files (cli/settings.py).
    """

    module: str
    summary: str
    has_settings: bool = False
    short_help: ShortHelp | None = None


_GENERATE = ShortHelp(
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
_EMBED = ShortHelp(
    most_used=("--model", "--prompt-column", "--template", "--prompt-name", "--pooling", "--dtype", "--limit", "--overwrite"),
    examples=(
        "pagecli embed in.parquet out.parquet --model Qwen/Qwen3-Embedding-0.6B",
        "pagecli embed questions.jsonl out.parquet -m ./embedder --prompt-name query",
    ),
)
_SCORE = ShortHelp(
    most_used=("--model", "--normalize", "--prompt-column", "--chat", "--dtype", "--limit", "--overwrite", "--stats"),
    examples=(
        "pagecli score in.jsonl out.parquet --model smollm2-135m",
        "pagecli score questions.jsonl answers.parquet -m smollm2-135m --normalize characters",
    ),
)
_PROFILE = ShortHelp(
    most_used=("--model", "--gpu", "--workload", "--dtype", "--max-tokens", "--run", "--html", "--json"),
    examples=(
        "pagecli profile --model opt-13b --gpu a100-40gb",
        "pagecli profile --model llama-3.1-8b --gpu l4 --workload lengths.csv",
        "pagecli profile --model smollm2-135m --workload in.jsonl --max-tokens 64",
        "pagecli profile --model smollm2-135m --run --html report.html",
    ),
)
COMMANDS = {
    "generate": CommandSource(
        "generate.command", "Generate text for every row of INPUT; write rows and text to OUTPUT.", True, _GENERATE
    ),
    "score": CommandSource("score", "Write how likely given texts are, for every row of INPUT, to OUTPUT.", True, _SCORE),
    "embed": CommandSource("embed", "Write an embedding of the text in every row of INPUT to OUTPUT.", True, _EMBED),
    "profile": CommandSource(
        "profile.command", "Show where memory goes for a model and a workload, without weights, GPU or network.", True, _PROFILE
    ),
    "status": CommandSource(
        "status", "Show how a job stands that runs, was stopped or is complete: rows, rate, time left, errors, last checkpoint."
    ),
    "merge": CommandSource("merge", "Put the outputs of generate --shard I/N together, in the input's order.", True),
    "models": CommandSource("models", "List the named models; with show NAME print a model's operations."),
    "doctor": CommandSource(
        "doctor.command", "Check machine and installation: kernels, cores, memory, GPU, versions, caches, disk, settings."
    ),
    "config": CommandSource("config", "Show the settings in effect, and where each comes from."),
}


class PlainParameters:
    """A command whose parameters take plain values as they are: typer imports pydantic, 70 ms, to convert the first one."""

    def get_params(self: Any, ctx: Any) -> Any:
        parameters = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if "process_value" not in vars(parameter):
                _take_plain_values(parameter)
        return parameters


def _take_plain_values(parameter: Any) -> None:
    """Let a parameter take defaults, and texts that are plainly of its type, as they are; typer converts the others."""
    converted = parameter.process_value

    def process_value(context: Any, value: Any) -> Any:
        source = context.get_parameter_source(parameter.name)
        if source is None or source.name != "DEFAULT":
            value, is_taken = _plain_value(parameter, value)
        else:
            is_taken = value is not None or not parameter.required
            value = () if value is None and (parameter.multiple or parameter.nargs == -1) else value
        if not is_taken:
            return converted(context, value)
        return value if parameter.callback is None else parameter.callback(context, parameter, value)

    parameter.process_value = process_value


def _plain_value(parameter: Any, value: Any) -> tuple[Any, bool]:
    """(what typer makes of the text, True) where that is plainly of the parameter's type, else (the value, False)."""
    descriptor: Any = getattr(parameter, "type_descriptor", None)
    annotation = getattr(descriptor, "annotation", None)
    if isinstance(value, str) and value.isascii():
        if annotation is str or (get_origin(annotation) is Literal and value in get_args(annotation)):
            return value, True
        if annotation is int and value.isdecimal() and len(value) < 19:
            low, high = descriptor.parameter_info.min, descriptor.parameter_info.max
            if (low is None or low <= int(value)) and (high is None or int(value) <= high):
                return int(value), True
    return value, False


class HelpCommand(PlainParameters, TyperCommand):
    """A command with such a help page; flags stand in the sections that `rich_help_panel` names."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write_help(self, ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing and self._needs_arguments():
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(ExitCode.USAGE)
        for wanted in args[: args.index("--") if "--" in args else None]:
            if wanted.startswith("--help="):
                from pagecli.cli.terminal.help import group_page

                typer.echo(group_page(self, ctx, wanted.removeprefix("--help=")))
                ctx.exit()
        return super().parse_args(ctx, args)

    def _needs_arguments(self) -> bool:
        return any(parameter.required for parameter in self.params if parameter.param_type_name == "argument")


Options = TypeVar("Options")
Own = TypeVar("Own")


def options_command(
    options: type[Options],
) -> Callable[[Callable[[typer.Context, Options], int]], Callable[..., int]]:
    """Decorates run(context, options): what comes out is for typer, which sees a parameter for every field of `options`."""

    def decorate(run: Callable[[typer.Context, Options], int]) -> Callable[..., int]:
        fields = dataclasses.fields(options)  # type: ignore[arg-type]
        return _command(run, fields, lambda context, values: run(context, options(**values)))

    return decorate


def options_command_beside(
    options: type[Options], names: Collection[str], fixed: Mapping[str, Any], own: type[Own]
) -> Callable[[Callable[[typer.Context, Options, Own], int]], Callable[..., int]]:
    """Decorates run(context, options, own) of a command that has some flags of another one, and flags of its own.

    `names`: the fields of `options` that are its flags too; `fixed`: values of others; `own`: a dataclass of its own flags.
    """
    own_fields = dataclasses.fields(own)  # type: ignore[arg-type]
    shared = [field for field in dataclasses.fields(options) if field.name in names]  # type: ignore[arg-type]
    required = [field for field in shared if field.default is dataclasses.MISSING]
    fields = [*required, *own_fields, *(field for field in shared if field not in required)]

    def decorate(run: Callable[[typer.Context, Options, Own], int]) -> Callable[..., int]:
        def call(context: typer.Context, values: dict[str, Any]) -> int:
            of_own = own(**{field.name: values.pop(field.name) for field in own_fields})
            return run(context, options(**values, **fixed), of_own)

        return _command(run, fields, call)

    return decorate


def _command(
    run: Callable[..., int], fields: Iterable[dataclasses.Field[Any]], call: Callable[[typer.Context, dict[str, Any]], int]
) -> Callable[..., int]:
    """A function named and explained as `run`, with a parameter for each field, that calls `call` with their values."""

    def command(context: typer.Context, **values: Any) -> int:
        paths = {name: on_this_machine(value) for name, value in values.items() if isinstance(value, Path)}
        return call(context, {**values, **paths})

    parameters = [Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    for field in fields:
        default = Parameter.empty if field.default is dataclasses.MISSING else field.default
        parameters.append(Parameter(field.name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=field.type))
    command.__signature__ = Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__name__, command.__doc__ = run.__name__, run.__doc__
    return command


@functools.cache
def load_command(name: str) -> TyperCommand:
    """The command, with its flags, made once in a process. An EPILOG in its module ends its help page."""
    source = COMMANDS[name]
    module = import_module(f"pagecli.cli.{source.module}")
    settings: dict[str, Any] = {"auto_envvar_prefix": "PAGECLI"} if source.has_settings else {}
    if source.short_help is not None:
        settings["obj"] = source.short_help
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    epilog = getattr(module, "EPILOG", None)
    alone.command(name, cls=HelpCommand, context_settings=settings, epilog=epilog)(getattr(module, name))
    made: Any = get_command(alone)
    assert isinstance(made, TyperCommand)
    return made


class LazyCommands(Mapping[str, TyperCommand]):
    """The commands by name, those in COMMANDS first; each of these is imported when it is looked up."""

    def __init__(self, others: Mapping[str, TyperCommand]) -> None:
        self._others = others
        self._names = [*COMMANDS, *others]

    def __getitem__(self, name: str) -> TyperCommand:
        return self._others[name] if name in self._others else load_command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Program(PlainParameters, TyperGroup):
    """The program: a group of commands that are not imported yet.

    Its help page lists them. Without arguments it is shown on stderr, with exit code 2.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = LazyCommands(self.commands)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write_help(self, ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(ExitCode.USAGE)
        return super().parse_args(ctx, args)

    def summaries(self) -> dict[str, str]:
        """Name -> the first paragraph of each command's help; "" where Python leaves docstrings out (-OO)."""
        return {name: COMMANDS[name].summary if name in COMMANDS else self.commands[name].help or "" for name in self.commands}


def _write_help(command: Any, context: Any, formatter: Any) -> None:
    from pagecli.cli.terminal.help import help_page

    formatter.write(help_page(command, context))


app = typer.Typer(
    name="pagecli",
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=(
        'A first job, where in.jsonl has lines like {"prompt": "Why is the sky blue?"}:\n\n'
        "  pagecli generate in.jsonl out.jsonl --model smollm2-135m\n\n"
        "Help of a command: pagecli help generate. All there is: man pagecli, or docs/index.md."
    ),
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


@app.command(name="help", cls=HelpCommand)
def show_help(
    context: typer.Context,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="The command to explain.", autocompletion=command_names)
    ] = None,
) -> None:
    """Show the help of a command, or of the program."""
    found: Any = context.find_root()
    for name in command or ():
        inner = found.command.resolve_command(found, [name])[1]
        found = inner.context_class(inner, info_name=name, parent=found, **inner.context_settings)
    from pagecli.cli.terminal.help import help_page

    typer.echo(help_page(found.command, found))
