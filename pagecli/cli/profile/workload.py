"""From --workload to a workload: a built-in name, a file of lengths, a trace, or the input of a `generate` job."""

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pagecli.core.file_targets import expanded, is_remote, shown
from pagecli.errors import InputError, PagecliError, UsageError
from pagecli.profiler.workloads.workload_files import is_trace, read_csv, read_trace
from pagecli.profiler.workloads.workloads import BUILT_IN, Workload, WorkloadRequest, built_in

if TYPE_CHECKING:
    from pagecli.jobs.rows.row_preparer import RowPreparer

BYTES_PER_TOKEN = 4  # of English text, about; used where the model's tokenizer is not at hand
PREFIX_BLOCK_SIZE = 16
ANY_ID = 2**32  # stands for the vocabulary's size: ids are only counted and compared here


def load_workload(name: str, model: str, num_requests: int | None, request_rate: float | None, max_tokens: int) -> Workload:
    """The workload `name` says, cut to `num_requests`, arriving at `request_rate`. Raises UsageError, InputError."""
    workload = _load(name, model, num_requests, max_tokens)
    return workload if request_rate is None else workload.with_rate(request_rate)


def _load(name: str, model: str, limit: int | None, max_tokens: int) -> Workload:
    if name.lower() in BUILT_IN:
        return built_in(name.lower(), limit)
    if is_remote(name):
        return _job_workload(name, model, limit, max_tokens)
    path = expanded(name)
    lower = path.name.lower()
    if lower.endswith(".csv"):
        return read_csv(path, limit)
    if lower.endswith((".jsonl", ".jsonl.gz", ".json", ".ndjson")) and is_trace(path):
        return read_trace(path, limit, max_tokens)
    if "." not in lower and not path.exists():
        close = difflib.get_close_matches(lower, BUILT_IN, n=1)
        known = f"did you mean {close[0]}?" if close else f"built in: {', '.join(BUILT_IN)};"
        raise UsageError(f"no workload {name!r}", f"{known} or give a .csv, .jsonl or .parquet file")
    return _job_workload(str(path), model, limit, max_tokens)


def _job_workload(path: str, model: str, limit: int | None, max_tokens: int) -> Workload:
    """Rows as `generate` reads them: prompts counted by the tokenizer, outputs as long as their max_tokens allows."""
    from pagecli.jobs.readers.open_input import open_input

    source = open_input(path, limit)
    requests: list[WorkloadRequest] = []
    num_refused = 0
    try:
        preparer, note = _preparer(model, max_tokens)
        for row in source:
            prepared = preparer.prepare(row)
            if prepared.error is not None:
                num_refused += 1
                continue
            ids, params = prepared.prompt_token_ids, prepared.params
            requests += [WorkloadRequest(len(ids), params.max_tokens, None, _block_hashes(ids))] * params.num_sequences
    finally:
        source.close()
    if not requests:
        hint = "lengths and traces are read from files on this machine" if is_remote(path) else None
        raise InputError(f"{shown(path)} has no {'row that could run' if num_refused else 'rows'}", hint)
    note += "; outputs as long as max_tokens allows"
    note += f"; {num_refused:,} rows that generate would refuse are left out" if num_refused else ""
    return Workload(shown(path).rstrip("/").rpartition("/")[2], tuple(requests), note, PREFIX_BLOCK_SIZE)


def _block_hashes(token_ids: list[int]) -> tuple[int, ...]:
    """A hash for each whole block of the prompt, equal where all tokens up to there are."""
    hashes: list[int] = []
    for start in range(0, len(token_ids) - PREFIX_BLOCK_SIZE + 1, PREFIX_BLOCK_SIZE):
        hashes.append(hash((hashes[-1] if hashes else 0, *token_ids[start : start + PREFIX_BLOCK_SIZE])))
    return tuple(hashes)


def _preparer(model: str, max_tokens: int) -> "tuple[RowPreparer, str]":
    """The RowPreparer that turns rows into prompts, and a note on how it counts tokens."""
    from pagecli.core.sampling_params import SamplingParams
    from pagecli.jobs.prompts.prompt_options import PromptOptions
    from pagecli.jobs.rows.row_preparer import RowPreparer

    params = SamplingParams(max_tokens=max_tokens)
    tokenizer = _tokenizer(model)
    if tokenizer is not None:
        return RowPreparer(tokenizer, ANY_ID, PromptOptions(), params), f"prompts counted by the tokenizer of {model}"
    note = f"prompts counted as {BYTES_PER_TOKEN} bytes a token, for the tokenizer of {model} is not at hand"
    return RowPreparer(_BytesCounted(), ANY_ID, PromptOptions(), params), note


def _tokenizer(model: str):  # type: ignore[no-untyped-def]
    """The model's own tokenizer if it is on this machine or the hub answers, without its weights; else None."""
    from pagecli.model import hub
    from pagecli.model.presets import find_preset
    from pagecli.model.registry import resolve_model
    from pagecli.model.tokenizer.loading import load_tokenizer

    try:
        source = resolve_model(model, "dummy")
        if source.tokenizer_path is None and (preset := find_preset(model)) is not None and preset.hub_id is not None:
            source = replace(source, tokenizer_path=hub.download(preset.hub_id, with_weights=False))
        return load_tokenizer(source) if source.tokenizer_path is not None else None
    except PagecliError:
        return None


class _BytesCounted:
    """A substitute for a missing tokenizer: about as many ids as a real one, equal for equal texts."""

    has_chat_template = False
    tool_template: str | None = None

    def encode(self, text: str) -> list[int]:
        data = text.encode()
        return [int.from_bytes(data[i : i + BYTES_PER_TOKEN], "big") for i in range(0, len(data), BYTES_PER_TOKEN)]

    def apply_chat_template(self, messages: list[dict[str, Any]], variables: object = None) -> list[int]:
        return self.encode("".join(str(message.get("content") or "") for message in messages))
