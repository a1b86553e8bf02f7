"""The flags that say which texts an output may be, and how a model's reasoning is told from its answer."""

import json
from pathlib import Path
from typing import Annotated

from pagecli.cli.flags.engine_and_sampling import option
from pagecli.core.json_text import parsed
from pagecli.core.sampling_params import MAX_CONSTRAINT_CHARS
from pagecli.errors import InputError, UsageError

PANEL = "Form of the output"

JsonSchema = Annotated[
    Path | None,
    option(
        "The output is JSON that this schema allows. A column json_schema overrides it.", PANEL, "--json-schema", metavar="FILE"
    ),
]
Regex = Annotated[
    str | None, option("The output matches this regular expression as a whole.", PANEL, "--regex", metavar="PATTERN")
]
GrammarFile = Annotated[
    Path | None, option("The output follows this grammar, in Lark's syntax.", PANEL, "--grammar", metavar="FILE")
]
ChoiceTexts = Annotated[
    str | None,
    option(
        "The output is one of these texts: yes,no,unsure, or a list in JSON where they have commas.",
        PANEL,
        "--choice",
        metavar="TEXTS",
    ),
]
Reasoning = Annotated[
    str,
    option(
        "Write what a reasoning model thinks to a column of its own. auto: by the markers that its chat template names; none; "
        "or their name, as think for <think>.",
        PANEL,
        "--reasoning",
        metavar="auto|none|TAG",
    ),
]
ThinkingBudget = Annotated[
    int | None,
    option("The most tokens to think: then the end of the reasoning is forced.", PANEL, "--thinking-budget", metavar="N"),
]


def constraint_params(
    json_schema: Path | None, regex: str | None, grammar: Path | None, choice: str | None
) -> dict[str, str | tuple[str, ...]]:
    """The flags as fields of SamplingParams. Raises InputError for a file that cannot be read, UsageError."""
    params: dict[str, str | tuple[str, ...]] = {}
    if json_schema is not None:
        params["json_schema"] = _schema(json_schema)
    if regex is not None:
        params["regex"] = regex
    if grammar is not None:
        params["grammar"] = _text("--grammar", grammar)
    if choice is not None:
        params["choice"] = _choices(choice)
    return params


def _schema(path: Path) -> str:
    text = _text("--json-schema", path)
    try:
        schema = parsed(text)
    except ValueError as error:
        raise UsageError(f"--json-schema {path} is not JSON: {error}", "give a file with a JSON schema") from error
    if not isinstance(schema, dict | bool):
        raise UsageError(f"--json-schema {path} is not a schema but a JSON {type(schema).__name__}", "give an object")
    return json.dumps(schema, ensure_ascii=False)


def _text(flag: str, path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CONSTRAINT_CHARS + 1)
    except (OSError, ValueError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeError) else getattr(error, "strerror", None) or error
        raise InputError(f"{flag} {path} cannot be read: {reason}", "check that it is there and readable") from error
    if len(text) > MAX_CONSTRAINT_CHARS:
        raise InputError(f"{flag} {path} has more than {MAX_CONSTRAINT_CHARS:,} characters", "simplify it")
    return text


def _choices(text: str) -> tuple[str, ...]:
    if not text.lstrip().startswith("["):
        return tuple(part.strip() for part in text.split(","))
    try:
        texts = parsed(text)
    except ValueError as error:
        raise UsageError(f"--choice begins like a list in JSON, but is none: {error}", 'write it as ["one", "two"]') from error
    if not all(isinstance(item, str) for item in texts):
        raise UsageError("--choice has an item that is no text", 'write it as ["one", "two"]')
    return tuple(texts)
