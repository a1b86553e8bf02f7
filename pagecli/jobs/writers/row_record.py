"""An output row as a plain record: `id`, the input's columns, the results, in the order that every text format writes them."""

from typing import Any

from pagecli.core.outputs import TokenLogprobs
from pagecli.jobs.rows.row import KINDS, TEXTS, OutputRow, ResultColumns, carried_columns, logprob_record


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
