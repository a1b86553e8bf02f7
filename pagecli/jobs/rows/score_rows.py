"""Rows of `pagecli score`: what of an input row is scored, and the columns that come of it.

    prompt, completion      how likely the completion is behind the prompt
    prompt, choices         the same for each of several, which share the prompt's computation, and which is best
    text                    every token of a text behind those before it: its perplexity

A completion's tokens are those that follow the prompt's when both are encoded together; spaces at the prompt's end go over to
the completion, as tokens begin with spaces (the rule of lm-evaluation-harness). Behind a chat, a template or prompt_token_ids
the completion is encoded by itself.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pagecli.core.outputs import RequestOutput, SequenceOutput
from pagecli.core.sampling_params import MAX_SEQUENCES, SamplingParams
from pagecli.errors import ErrorCode, PagecliError, RowError, short_repr
from pagecli.jobs.prompts.json_columns import json_column
from pagecli.jobs.prompts.prompt_options import PromptOptions
from pagecli.jobs.rows.row import InputRow, OutputRow, error_row
from pagecli.jobs.rows.row_parameters import OF_MODEL, row_sampling_params
from pagecli.jobs.rows.row_preparer import PreparedRow, RowPreparer, Tokenizer, code_of, row_key

SCORED = ("completion", "choices", "text")  # columns, of which a row has one


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """`normalize`: choices are compared by their log probability (none), or by that divided by their tokens or characters."""

    normalize: str = "none"


class ScorePreparer:
    """Turns input rows into requests that score; a row that cannot be one is returned with `error` set."""

    def __init__(self, tokenizer: Tokenizer, prompts: RowPreparer, options: PromptOptions, params: SamplingParams) -> None:
        """`prompts`: makes the prompts that are no plain text."""
        self._tokenizer, self._prompts, self._options, self._params = tokenizer, prompts, options, params

    def prepare(self, row: InputRow) -> PreparedRow:
        error, code = row.error, row.error_code
        if error is None:
            try:
                return self._prepared(row)
            except PagecliError as problem:
                error, code = problem.one_line, code_of(problem)
            except Exception as problem:  # an exception of a template or tokenizer must not end the job
                error, code = f"cannot be tokenized: {type(problem).__name__}: {problem}", ErrorCode.NOT_TOKENIZABLE
        return PreparedRow(row, [], self._params, row.number, error, code)

    def _prepared(self, row: InputRow) -> PreparedRow:
        columns = row.columns
        names = [name for name in SCORED if columns.get(name) is not None]
        if len(names) != 1:
            found = " and ".join(names) or "none"
            raise RowError(f"has {found} of {', '.join(SCORED)}; a row to score needs one", code=ErrorCode.MISSING_PROMPT)
        params = row_sampling_params(self._params, columns, self._options.prompt_column, own=OF_MODEL)
        if names == ["text"]:
            prompt, choices = self._of_text(_text("text", columns["text"]))
            return PreparedRow(row, prompt, params, row_key(row), choices=(choices,))
        texts = choice_texts(columns)
        name, value = self._prompts.given_prompt(columns, self._options.prompt_column)
        if name == self._options.prompt_column and isinstance(value, str) and not self._options.chat:
            prompt, behind = self._behind_text(value, texts)
            return PreparedRow(row, prompt, params, row_key(row), choices=tuple(behind))
        prepared = self._prompts.prepare(row)
        if prepared.error is not None:
            return prepared
        return replace(prepared, choices=tuple(self._without_beginning(text) for text in texts))

    def _of_text(self, text: str) -> tuple[list[int], list[int]]:
        token_ids = self._tokenizer.encode(text)
        if len(token_ids) < 2:
            raise RowError("column text has fewer than two tokens: none follows another", code=ErrorCode.EMPTY_PROMPT)
        return token_ids[:1], token_ids[1:]

    def _behind_text(self, prompt: str, texts: list[str]) -> tuple[list[int], list[list[int]]]:
        bare = prompt.rstrip()
        spaces = prompt[len(bare) :]
        prompt_ids = self._tokenizer.encode(bare)
        if not prompt_ids:
            column = self._options.prompt_column
            raise RowError(f"column {column} is empty: no token to start from", code=ErrorCode.EMPTY_PROMPT)
        return prompt_ids, [self._tokenizer.encode(bare + spaces + text)[len(prompt_ids) :] for text in texts]

    def _without_beginning(self, text: str) -> list[int]:
        """The text's tokens without those that the tokenizer puts before every text."""
        return self._tokenizer.encode(text)[len(self._tokenizer.encode("")) :]


def choice_texts(columns: Mapping[str, Any]) -> list[str]:
    """The continuations that a row wants scored. Raises RowError."""
    if columns.get("completion") is not None:
        return [_text("completion", columns["completion"])]
    values = json_column("choices", columns["choices"])
    if not isinstance(values, list) or not values or not all(isinstance(item, str) for item in values):
        raise RowError(f"column choices is {short_repr(values)}, not a list of texts", code=ErrorCode.INVALID_TYPE)
    if len(values) > MAX_SEQUENCES:
        raise RowError(f"column choices has {len(values)} texts, more than {MAX_SEQUENCES}", code=ErrorCode.INVALID_TYPE)
    return values


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    raise RowError(f"column {name} is {short_repr(value)}, not text", code=ErrorCode.INVALID_TYPE)


def score_rows(row: InputRow, output: RequestOutput, options: ScoreOptions) -> list[OutputRow]:
    """The output row of a scored request, or its error. With choices, the log probabilities are those of the best one."""
    if output.error is not None:
        return [error_row(row, output.error, output.num_prompt_tokens, output.error_code)]
    texts = None if row.columns.get("choices") is None else choice_texts(row.columns)
    best = 0 if texts is None else _best(output.sequences, texts, options)
    sequence = output.sequences[best]
    tokens, logprob = sequence.token_scores or [], sequence.score or 0.0
    values = {
        "logprob": logprob,
        "token_logprobs": [token.logprob for token in tokens],
        "token_is_greedy": [token.is_greedy for token in tokens],
        "is_greedy": all(token.is_greedy for token in tokens),
        "perplexity": _perplexity(logprob, len(tokens)),
        "best_choice": None if texts is None else best,
        "choice_logprobs": None if texts is None else [each.score for each in output.sequences],
    }
    scored = OutputRow(row, token_ids=sequence.token_ids, finish_reason="length", output_tokens=len(tokens), values=values)
    return [replace(scored, prompt_tokens=output.num_prompt_tokens)]


def _perplexity(logprob: float, num_tokens: int) -> float:
    try:
        return math.exp(-logprob / num_tokens)
    except OverflowError:  # tokens that the model finds all but impossible
        return math.inf


def _best(sequences: tuple[SequenceOutput, ...], texts: list[str], options: ScoreOptions) -> int:
    """The first of the likeliest."""

    def length(i: int) -> int:
        return {"none": 1, "tokens": len(sequences[i].token_ids), "characters": len(texts[i])}[options.normalize]

    return max(range(len(texts)), key=lambda i: (sequences[i].score or 0.0) / max(1, length(i)))
