"""Output rows with tool calls and text apart, for rows that offer the model tools."""

import functools
from dataclasses import replace
from typing import Protocol

from pagecli.core.outputs import RequestOutput
from pagecli.errors import RowError
from pagecli.jobs.prompts.prompt_options import PromptOptions
from pagecli.jobs.prompts.template_variables import has_variables, row_variables
from pagecli.jobs.rows.row import InputRow, OutputRow, output_rows
from pagecli.jobs.tools.forms import Read, form_of, parsed
from pagecli.jobs.tools.given import COLUMN, tool_names


class Tokenizer(Protocol):
    """The tokenizer's members that are used here."""

    eos_token_ids: tuple[int, ...]

    @property
    def special_token_ids(self) -> list[int]: ...

    @property
    def tool_template(self) -> str | None: ...

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str: ...


class ToolAnswers:
    """Makes output rows of finished requests: those of `output_rows`, with `tool_calls` where the answer has some."""

    def __init__(self, tokenizer: Tokenizer, options: PromptOptions) -> None:
        self._tokenizer, self._common = tokenizer, options.chat_template_arg

    @functools.cached_property
    def _read(self) -> Read | None:
        return form_of(self._tokenizer.tool_template or "")

    @functools.cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset((*self._tokenizer.special_token_ids, *self._tokenizer.eos_token_ids))

    def rows_of(self, row: InputRow, output: RequestOutput) -> list[OutputRow]:
        rows = output_rows(row, output)
        if self._read is None or not has_variables(self._common, row.columns):
            return rows
        try:
            tools = row_variables(self._common, row.columns).get(COLUMN)
        except RowError:  # of a prompt that no template made
            return rows
        names = tool_names(tools)
        return [self._with_calls(self._read, row, names) for row in rows] if tools else rows

    def _with_calls(self, read: Read, row: OutputRow, names: frozenset[str]) -> OutputRow:
        if row.text is None or row.token_ids is None or row.error is not None:
            return row
        found = parsed(read, self._whole_text(row.text, row.token_ids[row.reasoning_tokens :]), names)
        if found is None:
            return row
        calls = [{"name": call.name, "arguments": call.arguments} for call in found.calls]
        return replace(row, text=found.text, tool_calls=calls)

    def _whole_text(self, text: str, token_ids: list[int]) -> str:
        """The answer with the special tokens that `text` lacks, such as [TOOL_CALLS], but for those at its end."""
        end = len(token_ids)
        while end and token_ids[end - 1] in self._special_ids:
            end -= 1
        if self._special_ids.isdisjoint(token_ids[:end]):
            return text
        shown, whole = (self._tokenizer.decode(token_ids[:end], skip) for skip in (True, False))
        return whole.removesuffix(shown.lstrip("\n")[len(text) :])  # a stop string, which is no part of the answer
