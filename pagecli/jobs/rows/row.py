"""One row of the input, and the rows of the output made of it: their fields, how columns are named, and their JSON.

RFC 8259 has no NaN and no Infinity: carried ones are written as null, as JavaScript's JSON.stringify does. The depth is bounded
where rows are read, so that nothing behind the reader (filters, templates, writers, digests, the journal) meets a value that
it cannot walk through. 100 levels are what Arrow reads of a Parquet schema (its limit counts groups, the row among them).
"""

import base64
import decimal
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from pagecli.core.outputs import FinishReason, RequestOutput, TokenLogprobs, TokenScore
from pagecli.errors import ErrorCode

if TYPE_CHECKING:
    import pyarrow as pa

    from pagecli.jobs.rows.arrow_values import ArrowColumns


def arrow_columns(columns: Mapping[str, Any]) -> "ArrowColumns | None":
    """The columns of a row that lies in an Arrow batch; None of any other, for which Arrow is not even imported."""
    if isinstance(columns, dict):
        return None
    from pagecli.jobs.rows.arrow_values import ArrowColumns

    return columns if isinstance(columns, ArrowColumns) else None


@dataclass(frozen=True, slots=True)
class InputRow:
    """One row. `index` counts the rows of this job from 0; `line` counts lines from 1 (blank ones too), None in Parquet."""

    index: int
    columns: Mapping[str, Any]
    line: int | None = None
    error: str | None = None  # set: the row could not be read, and `columns` is empty or incomplete
    num_bytes: int = 0  # about what the row takes in memory, for bounding buffers
    error_code: ErrorCode | None = None
    source_index: int | None = None  # its number in the whole input, where rows of that were left out; None: `index`
    file: str | None = None  # the file it is in, where the input is several
    batch_url: str | None = None  # of a row of an OpenAI batch file: its url, "" if unknown; None: a plain row

    @property
    def number(self) -> int:
        """Its number in the whole input, from 0: what its id and its random draws are taken from if it has no id."""
        return self.index if self.source_index is None else self.source_index

    @property
    def location(self) -> str:
        location = f"line {self.line}" if self.line is not None else f"row {self.number}"
        return f"{self.file}, {location}" if self.file is not None else location


@dataclass(frozen=True, slots=True)
class RowEstimate:
    """How many rows the input will have yielded at its end; `exact` is false when guessed from bytes read so far."""

    num_rows: int
    exact: bool


class InputSource(Protocol):
    """An opened input. Iterated once, by one thread; `interrupt` and `estimate` may be called from another."""

    name: str
    schema: "pa.Schema | None"  # the columns' Arrow types where the format has them
    column_names: list[str] | None  # where the format names them before its first row

    def __iter__(self) -> Iterator[InputRow]: ...

    def estimate(self) -> RowEstimate | None:
        """None while nothing is known, as for a pipe."""
        ...

    def check_unchanged(self) -> None:
        """To be called after the last row. Raises InputError if the input was truncated or exchanged while it was read."""
        ...

    def interrupt(self) -> None:
        """Makes a read that waits for a pipe return, so that the reading thread can end."""
        ...

    def close(self) -> None: ...


# Columns that pagecli writes after the input's; some (ResultColumns) only when asked for, but always reserved.
RESULT_COLUMNS = (
    "sample",  # number of the continuation, from 0: rows with --n or --beam-width above 1 have several
    "text",  # the continuation; null in an error row
    "token_ids",  # its tokens, with --token-ids
    "finish_reason",  # stop (end token or stop string), length (max_tokens or the model's length) or error
    "prompt_tokens",  # tokens of the prompt, template included; null if it was never tokenized
    "output_tokens",  # tokens of the continuation
    "score",  # of a beam or with --best-of: log probability over length to the power of the length penalty
    "logprobs",  # with --logprobs K: each token's log probability and the K likeliest tokens at its position
    "embedding",  # embed: the text's vector
    "prompt_logprobs",  # with --prompt-logprobs K: the same of the prompt's tokens, null for the first
    "logprob",  # score: log probability of the completion, the text or the best choice
    "token_logprobs",  # score: of each of its tokens
    "token_is_greedy",  # score: whether each token is the most likely one
    "is_greedy",  # score: whether every token is
    "perplexity",  # score: exp(-logprob / tokens)
    "best_choice",  # score: index of the best of choices, from 0
    "choice_logprobs",  # score: log probability of each of choices
    "attempts",  # with --retry: how often the row was run
    "reasoning",  # what a reasoning model thought before its answer, which then is `text`
    "reasoning_tokens",  # of output_tokens, the markers around the reasoning included
    "tool_calls",  # of a row with tools: what the model calls, each with its name and its arguments as JSON text
    "error",  # one line on what is wrong with the row; null in a good row
    "error_code",  # the kind of the error; null in a good row
)
CARRIED_PREFIX = "input_"
SHARD_COLUMN = "pagecli_shard"  # of a shard's output: {number, count, row}
OTHER_COLUMNS = "pagecli_other_columns"  # of Parquet out of JSON rows: columns beyond the bound on their number


# What a job makes of its rows, and the result columns that only its kind has.
TEXTS, SCORES, EMBEDDINGS = "texts", "scores", "embeddings"
_SCORE_COLUMNS = RESULT_COLUMNS[RESULT_COLUMNS.index("logprob") : RESULT_COLUMNS.index("attempts")]
KINDS = {TEXTS: ("sample", "text", "finish_reason"), SCORES: _SCORE_COLUMNS, EMBEDDINGS: ("embedding",)}
OF_ROWS = ("score", "logprobs", "prompt_logprobs", "reasoning", "tool_calls")  # a row may bring these by its own parameters


@dataclass(frozen=True, slots=True)
class OutputRow:
    """A finished continuation of an input row, or its error; `text` is None in an error row that has no output."""

    row: InputRow
    sample: int = 0
    text: str | None = None
    token_ids: list[int] | None = None
    finish_reason: FinishReason = "error"
    prompt_tokens: int | None = None  # None: the prompt was never tokenized
    output_tokens: int = 0
    score: float | None = None
    logprobs: list[TokenLogprobs] | None = None
    error: str | None = None
    error_code: ErrorCode | None = None
    reasoning: str | None = None  # what the model thought before its answer, which then is `text`
    reasoning_tokens: int = 0  # of output_tokens
    tool_calls: list[dict[str, str]] | None = None  # name and arguments of each; then `text` is what stands beside them
    attempts: int = 1  # until the row had this output (--retry)
    prompt_logprobs: list[dict[str, Any] | None] | None = None  # as `logprobs` are written; null for the first token
    values: dict[str, Any] | None = None  # of a job whose results are no texts: its kind's columns
    num_samples: int = 1  # how many output rows the input row has; they follow each other

    @property
    def id(self) -> Any:
        """The row's own id (which may be null), or its index if the input has no id."""
        return self.row.columns.get("id", self.row.number)

    @property
    def num_bytes(self) -> int:
        """About what the row takes in memory."""
        return self.row.num_bytes + len(self.text or "") + 16 * self.output_tokens + 200


@dataclass(frozen=True, slots=True)
class ResultColumns:
    """Which of the optional columns are written."""

    token_ids: bool = False
    score: bool = False
    logprobs: bool = False
    attempts: bool = False
    prompt_logprobs: bool = False
    reasoning: bool = False  # and reasoning_tokens
    tool_calls: bool = False
    kind: str = TEXTS  # of the job: a key of KINDS

    def widened_for(self, row: OutputRow) -> "ResultColumns":
        """These columns and those that the row brings: a row may ask for them by its own parameters."""
        wider: dict[str, Any] = {name: True for name in OF_ROWS if not getattr(self, name) and getattr(row, name) is not None}
        return replace(self, **wider) if wider else self

    @property
    def names(self) -> tuple[str, ...]:
        """The result columns that every row has, in order."""
        left_out = {name for kind, names in KINDS.items() if kind != self.kind for name in names}
        optional = {"token_ids", "score", "logprobs", "prompt_logprobs", "attempts", "reasoning", "tool_calls"}
        if not self.reasoning:
            left_out.add("reasoning_tokens")
        return tuple(n for n in RESULT_COLUMNS if n not in left_out and (n not in optional or getattr(self, n)))


def error_row(row: InputRow, error: str, prompt_tokens: int | None = None, code: ErrorCode | None = None) -> OutputRow:
    """The output of a row that failed; its message begins with the line the row is on, where the input has lines."""
    if row.line is not None and not error.startswith(row.location):
        error = f"{row.location}: {error}"
    return OutputRow(row, prompt_tokens=prompt_tokens, error=error, error_code=code or ErrorCode.ENGINE_FAILURE)


def output_rows(row: InputRow, output: RequestOutput) -> list[OutputRow]:
    """The rows of a finished request: one for each of its sequences, or one with its error."""
    if output.error is not None or not output.sequences:
        text = output.error or "the request ended without output"
        return [error_row(row, text, output.num_prompt_tokens, output.error_code)]
    prompt_logprobs = None if output.prompt_scores is None else [None, *(logprob_record(s) for s in output.prompt_scores)]
    return [
        OutputRow(
            row,
            sample=sequence.sample,
            text=sequence.text,
            token_ids=sequence.token_ids,
            finish_reason=sequence.finish_reason,
            prompt_tokens=output.num_prompt_tokens,
            output_tokens=len(sequence.token_ids),
            score=sequence.score,
            logprobs=sequence.logprobs,
            error=sequence.error,
            error_code=sequence.error_code,
            reasoning=sequence.reasoning,
            reasoning_tokens=sequence.reasoning_tokens,
            attempts=sequence.attempts,
            prompt_logprobs=prompt_logprobs,
            num_samples=len(output.sequences),
        )
        for sequence in output.sequences
    ]


def logprob_record(token: TokenLogprobs | TokenScore) -> dict[str, Any]:
    """A token's log probabilities as a plain record; one that could not be chosen (-inf) has null."""
    top = [{"token_id": token_id, "logprob": _finite(value)} for token_id, value in token.top]
    return {"token_id": token.token_id, "logprob": _finite(token.logprob), "top": top}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def carried_name(name: str) -> str:
    """The output's name for an input column.

    A name that pagecli writes itself gets `input_` in front (`text` becomes `input_text`), and so does one that would
    then collide (`input_text` becomes `input_input_text`): no two columns end up with one name, whatever rows come later.
    """
    bare = name
    while bare.startswith(CARRIED_PREFIX):
        bare = bare[len(CARRIED_PREFIX) :]
    return CARRIED_PREFIX + name if bare in (*RESULT_COLUMNS, SHARD_COLUMN, OTHER_COLUMNS) else name


def carried_columns(row: InputRow) -> Iterator[tuple[str, str]]:
    """(name in the input, name in the output) of the columns that follow `id`."""
    return ((name, carried_name(name)) for name in row.columns if name != "id")


def record_of(row: OutputRow, columns: ResultColumns) -> dict[str, Any]:
    """Output name -> value. Optional columns are those of `columns`, and what the row itself brings."""
    record: dict[str, Any] = {"id": row.id}
    for name, new_name in carried_columns(row.row):
        record[new_name] = row.row.columns[name]
    if columns.kind == TEXTS:
        record["sample"] = row.sample
        record["text"] = row.text
    if columns.token_ids:
        record["token_ids"] = row.token_ids
    if columns.kind == TEXTS:
        record["finish_reason"] = row.finish_reason
    record["prompt_tokens"] = row.prompt_tokens
    record["output_tokens"] = row.output_tokens
    if columns.score or row.score is not None:
        record["score"] = row.score
    if columns.logprobs or row.logprobs is not None:
        record["logprobs"] = logprob_records(row.logprobs)
    if columns.prompt_logprobs or row.prompt_logprobs is not None:
        record["prompt_logprobs"] = row.prompt_logprobs
    if columns.kind != TEXTS:
        record |= dict.fromkeys(KINDS[columns.kind]) | (row.values or {})
    if columns.reasoning or row.reasoning is not None:
        record["reasoning"] = row.reasoning
        record["reasoning_tokens"] = row.reasoning_tokens
    if columns.tool_calls or row.tool_calls is not None:
        record["tool_calls"] = row.tool_calls
    if columns.attempts:
        record["attempts"] = row.attempts
    record["error"] = row.error
    record["error_code"] = row.error_code
    return record


def logprob_records(logprobs: list[TokenLogprobs] | None) -> list[dict[str, Any]] | None:
    """Log probabilities as plain records, one a token; a token that could not be chosen (-inf) has null."""
    return None if logprobs is None else [logprob_record(position) for position in logprobs]


MAX_DEPTH = 100  # of objects and lists inside each other; the row itself is the first
TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


def json_default(value: Any) -> Any:
    """For json.dumps: bytes as base64, exact decimals as text with all their digits."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"
    return str(value)


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=json_default).encode


def to_json(value: Any) -> str:
    """One line of strict JSON. `value` is nested at most MAX_DEPTH deep."""
    try:
        return _encode(value)
    except ValueError:
        return _encode(_without_infinities(value))


def _without_infinities(value: Any) -> Any:
    """The value with null for each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _without_infinities(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinities(item) for item in value]
    return value


def is_too_deep(value: Any) -> bool:
    """Whether objects and lists in `value`, itself included, are nested deeper than MAX_DEPTH; without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [container for container in level if isinstance(container, dict | list)]
        if not level:
            return False
        level = [item for container in level for item in _items(container)]
    return True


def _items(container: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container
