"""Every row of an input read, tokenized and checked as a job would, without running any."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import ErrorCode, RowError
from pagecli.jobs.rows.row import InputRow, InputSource, error_row
from pagecli.jobs.rows.row_preparer import PreparedRow, code_of

SAMPLE_SIZE = 10_000
SHOWN_PROMPTS = 3

Admit = Callable[[list[int], SamplingParams], SamplingParams]


@dataclass
class CheckedRows:
    """The result of the check. `lengths` are (prompt, most output tokens) of requests, of a uniform sample if they are many."""

    num_rows: int = 0
    errors: Counter[ErrorCode] = field(default_factory=Counter)
    first_errors: dict[ErrorCode, str] = field(default_factory=dict)
    num_requests: int = 0  # sequences of good rows
    prompt_tokens: int = 0
    longest_prompt: int = 0
    max_output_tokens: int = 0
    lengths: list[tuple[int, int]] = field(default_factory=list)
    first: list[tuple[str, list[int]]] = field(default_factory=list)  # where the first good rows are, and their prompts

    @property
    def num_error_rows(self) -> int:
        return sum(self.errors.values())


def check_rows(
    source: InputSource, prepare: Callable[[InputRow], PreparedRow], admit: Admit, stopped: Callable[[], bool] = lambda: False
) -> CheckedRows:
    """Reads `source` to its end and closes it; `admit` raises RowError for what the engine would refuse. Raises InputError."""
    checked, chance = CheckedRows(), random.Random(0)
    try:
        for row in source:
            if stopped():
                break
            checked.num_rows += 1
            prepared = prepare(row)
            error, code = prepared.error, prepared.error_code
            if error is None:
                try:
                    _count(checked, prepared, admit(prepared.prompt_token_ids, prepared.params), chance)
                    if len(checked.first) < SHOWN_PROMPTS:
                        checked.first.append((row.location, prepared.prompt_token_ids))
                    continue
                except RowError as problem:
                    error, code = problem.one_line, code_of(problem)
            failed = error_row(row, error, code=code)
            assert failed.error is not None
            assert failed.error_code is not None
            checked.errors[failed.error_code] += 1
            checked.first_errors.setdefault(failed.error_code, failed.error)
        else:
            source.check_unchanged()
    finally:
        source.close()
    return checked


def _count(checked: CheckedRows, prepared: PreparedRow, params: SamplingParams, chance: random.Random) -> None:
    num_tokens = len(prepared.prompt_token_ids)
    checked.prompt_tokens += num_tokens
    checked.longest_prompt = max(checked.longest_prompt, num_tokens)
    checked.max_output_tokens += params.max_tokens * params.num_sequences
    for _ in range(params.num_sequences):
        checked.num_requests += 1
        length = (num_tokens, params.max_tokens)
        if len(checked.lengths) < SAMPLE_SIZE:
            checked.lengths.append(length)
        elif (index := chance.randrange(checked.num_requests)) < SAMPLE_SIZE:
            checked.lengths[index] = length
