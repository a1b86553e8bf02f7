"""--few-shot: examples in front of every row's prompt, read from a file of rows in any input format.

An example has the columns that make a row's prompt (those of --template, else the prompt's column) and its answer in a column
`completion`. On a chat model examples are turns of the user and the assistant after the system message; elsewhere text, each
prompt and its answer with one blank between them where neither has one, examples apart by an empty line.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pagecli.errors import ErrorCode, InputError, RowError
from pagecli.jobs.prompts.prompt_options import Example
from pagecli.jobs.readers.open_input import ReadOptions, open_input

COMPLETION = "completion"
MAX_EXAMPLES = 1000
MAX_BYTES = 1 << 20  # of the file's rows: they are kept with the job's identity
_APART = "\n\n"


def read_examples(path: str, needed: tuple[str, ...]) -> tuple[Example, ...]:
    """The file's rows, which have all columns `needed`. Raises InputError."""
    examples: list[Example] = []
    num_bytes = 0
    source = open_input(path, MAX_EXAMPLES + 1, ReadOptions(max_row_bytes=MAX_BYTES))
    try:
        for row in source:
            where = f"--few-shot {path}, {row.location}"
            num_bytes += row.num_bytes
            if len(examples) == MAX_EXAMPLES or num_bytes > MAX_BYTES or row.error_code == ErrorCode.ROW_TOO_LARGE:
                limits = f"{MAX_EXAMPLES:,} examples or {MAX_BYTES >> 20} MiB"
                raise InputError(f"--few-shot {path} has more than {limits}", "keep the best of them")
            if row.error is not None:
                raise InputError(f"--few-shot {path}: {row.error}", "an example has columns of a prompt and a completion")
            columns = {name: value for name, value in row.columns.items() if name != COMPLETION}
            completion = row.columns.get(COMPLETION)
            if not isinstance(completion, str):
                raise InputError(f"{where}: column {COMPLETION} is missing or no text", "it holds the example's answer")
            missing = [name for name in needed if columns.get(name) is None]
            if missing:
                raise InputError(f"{where}: has no {', '.join(missing)}", "an example has the columns that make a row's prompt")
            examples.append(Example(columns, completion))
    finally:
        source.close()
    if not examples:
        raise InputError(f"--few-shot {path} has no example", "an example has columns of a prompt and a completion")
    return tuple(examples)


class FewShot:
    """The examples as turns of a chat and as text. `prompt_of` makes an example's prompt. Raises InputError."""

    def __init__(self, examples: tuple[Example, ...], prompt_of: Callable[[Mapping[str, Any]], str]) -> None:
        self.turns: list[dict[str, Any]] = []
        self._text = ""
        for number, example in enumerate(examples, 1):
            try:
                prompt = prompt_of(example.columns)
            except RowError as error:
                raise InputError(f"--few-shot: example {number}: {error.message}", error.hint) from error
            self.turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": example.completion}]
            has_blank = prompt[-1:].isspace() or example.completion[:1].isspace()
            self._text += f"{prompt}{'' if has_blank else ' '}{example.completion}{_APART}"

    def before(self, prompt: str) -> str:
        """The examples and the prompt as one text."""
        return self._text + prompt

    def in_chat(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The chat with the examples behind its system messages."""
        count = next((number for number, message in enumerate(messages) if message["role"] != "system"), len(messages))
        return [*messages[:count], *self.turns, *messages[count:]]
