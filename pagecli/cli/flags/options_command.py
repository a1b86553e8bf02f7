"""A command whose flags are the fields of a dataclass: declared there once, handed on as one frozen object."""

import dataclasses
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any, TypeVar

import typer

Options = TypeVar("Options")


def options_command(
    options: type[Options],
) -> Callable[[Callable[[typer.Context, Options], int]], Callable[..., int]]:
    """Decorates run(context, options): what comes out is for typer, which sees a parameter for every field of `options`."""

    def decorate(run: Callable[[typer.Context, Options], int]) -> Callable[..., int]:
        def command(context: typer.Context, **values: Any) -> int:
            return run(context, options(**values))

        parameters = [Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
        for field in dataclasses.fields(options):  # type: ignore[arg-type]
            default = Parameter.empty if field.default is dataclasses.MISSING else field.default
            parameters.append(Parameter(field.name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=field.type))
        command.__signature__ = Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__name__, command.__doc__ = run.__name__, run.__doc__
        return command

    return decorate
