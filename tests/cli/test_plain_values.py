"""Flags take plain values without typer's conversion: the same values and errors as with it, and pydantic is not imported."""

import os
import subprocess
import sys
from enum import Enum

import pytest

from pagecli.cli.commands import COMMANDS, load_command

TEXTS = ["8", "0", "007", "+3", "-1", " 5", "1_000", "1e3", "9" * 30, "\u0663", "", "paged", "PAGED", "auto", "a/b", "\udcff"]


class Source(Enum):
    """As click's, of where a value comes from."""

    DEFAULT = 1
    COMMANDLINE = 2


@pytest.mark.parametrize("name", COMMANDS)
def test_a_value_is_what_typer_makes_of_it(name):
    command = load_command(name)
    context = command.context_class(command, info_name=name, resilient_parsing=True)
    for parameter in command.get_params(context):
        if parameter.callback is None:
            for value in (parameter.default, *TEXTS):
                context.set_parameter_source(
                    parameter.name, Source.DEFAULT if value is parameter.default else Source.COMMANDLINE
                )
                value = value.split() if parameter.multiple and isinstance(value, str) else value
                typers = type(parameter).process_value.__get__(parameter)
                assert outcome(parameter.process_value, context, value) == outcome(typers, context, value), (
                    parameter.name,
                    value,
                )


def outcome(convert, context, value):
    try:
        converted = convert(context, value)
        return type(converted), converted
    except Exception as error:
        return type(error), str(error)


@pytest.mark.slow
def test_a_command_without_other_values_imports_no_pydantic(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n')
    code = (
        "import sys; from pagecli.cli.app import main\n"
        "try: main(['generate', 'in.jsonl', 'out.jsonl', '--model', 'nowhere/at-all', '--max-tokens', '4'])\n"
        "except SystemExit as ended: print(ended.code, 'pydantic' in sys.modules)"
    )
    environment = {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "4 False\n", done.stderr
