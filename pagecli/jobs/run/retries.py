"""--retry: a row whose output is no good is run again, with other draws, before anything of it is written.

An attempt's draws are keyed by the row's key and the attempt's number, so the text that a row ends with depends on the row
alone, in whatever batch its attempts run, and on nothing that an interrupted run did: a job that resumes computes all attempts
of a row again. The samples of a row stand for themselves: each is the first good one of its number among the attempts, else the
last attempt's. Where the samples are ranked (--best-of), the row is good or not as a whole.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

from pagecli.core.outputs import RequestOutput, SequenceOutput
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.stats import EngineStatus
from pagecli.errors import ErrorCode, UsageError
from pagecli.jobs.run.job_loop import Engine

Reason = Literal["invalid_output", "length", "repetition"]
REASONS: tuple[Reason, ...] = get_args(Reason)
MAX_RETRIES = 100
MAX_PERIOD = 64  # tokens of what is repeated
MIN_TIMES, MIN_TOKENS = 4, 32  # a loop has at least so many rounds, and tokens


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`retry` 0: nothing is run again. `retry_temperature`: of every attempt but the first; None: the row's own.

    Raises UsageError.
    """

    retry: int = 0
    retry_on: tuple[Reason, ...] = REASONS
    retry_temperature: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.retry <= MAX_RETRIES:
            raise UsageError(f"--retry is {self.retry}", f"give a number up to {MAX_RETRIES}")
        if self.retry_temperature is not None:
            try:
                SamplingParams(temperature=self.retry_temperature)
            except UsageError as error:
                raise UsageError(f"--retry-{error.message}", error.hint) from error

    def params_of_retry(self, params: SamplingParams) -> SamplingParams | None:
        """The parameters of a second attempt; None where it would give the same again: nothing is drawn."""
        if params.beam_width > 1:
            return None
        if self.retry_temperature is not None:
            params = dataclasses.replace(params, temperature=self.retry_temperature)
        return None if params.greedy else params

    def is_bad(self, sequence: SequenceOutput) -> bool:
        """Whether the sequence is to be run again."""
        reasons = self.retry_on
        if sequence.error_code is ErrorCode.INVALID_OUTPUT and "invalid_output" in reasons:
            return True
        if sequence.finish_reason == "length" and "length" in reasons:
            return True
        return "repetition" in reasons and ends_in_loop(sequence.token_ids)


def parse_reasons(text: str) -> tuple[Reason, ...]:
    """--retry-on: reasons apart by commas. Raises UsageError."""
    names = [name.strip() for name in text.split(",")]
    wrong = [name for name in names if name not in REASONS]
    if wrong:
        raise UsageError(f"--retry-on is {text!r}: no reason {wrong[0]!r}", f"give some of {','.join(REASONS)}")
    return tuple(reason for reason in REASONS if reason in names)


def ends_in_loop(token_ids: list[int]) -> bool:
    """Whether the last tokens are one run of at most MAX_PERIOD tokens over and over.

    At least MIN_TIMES times, and MIN_TOKENS tokens in all.
    """
    count = len(token_ids)
    for period in range(1, min(MAX_PERIOD, count // MIN_TIMES) + 1):
        length = max(MIN_TIMES * period, MIN_TOKENS)
        if length <= count and token_ids[count - length + period :] == token_ids[count - length : count - period]:
            return True
    return False


def attempt_key(row_key: int, attempt: int) -> int:
    """What the draws of an attempt (from 0) are keyed by; the first one's by the row itself."""
    if attempt == 0:
        return row_key
    text = row_key.to_bytes(8, "little") + attempt.to_bytes(4, "little")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"pagecli.retry").digest(), "little")


@dataclass(slots=True)
class _Attempts:
    """Of one request that has not ended well yet."""

    prompt_token_ids: list[int]
    params: SamplingParams
    row_key: int
    num_done: int = 0
    best: RequestOutput | None = None  # of the attempts so far


class RetryingEngine:
    """An engine whose requests are run up to `policy.retry` times more. A request's output comes once, of all its attempts."""

    def __init__(self, engine: Engine, policy: RetryPolicy) -> None:
        self._engine = engine
        self._policy = policy
        self._attempts: dict[int, _Attempts] = {}

    @property
    def num_failed_steps(self) -> int:
        return self._engine.num_failed_steps

    def add_request(
        self, request_id: int, prompt_token_ids: list[int], params: SamplingParams, row_key: int | None = None
    ) -> None:
        """As the engine's. Raises RowError."""
        self._engine.add_request(request_id, prompt_token_ids, params, row_key)
        again = self._policy.params_of_retry(params)
        if again is not None:
            self._attempts[request_id] = _Attempts(prompt_token_ids, again, request_id if row_key is None else row_key)

    def add_score_request(
        self, request_id: int, prompt_token_ids: list[int], choices: list[list[int]], *, lora: str | None = None
    ) -> None:
        """As the engine's: a score is the same in every attempt."""
        self._engine.add_score_request(request_id, prompt_token_ids, choices, lora=lora)

    def step(self) -> list[RequestOutput]:
        settled = (self._settle(output) for output in self._engine.step())
        return [output for output in settled if output is not None]

    def _settle(self, output: RequestOutput) -> RequestOutput | None:
        """The output of a request that has ended for good; None: it runs again."""
        attempts = self._attempts.get(output.request_id)
        if attempts is None:
            return output
        attempts.num_done += 1
        best = attempts.best = self._merged(attempts, output)
        is_good = not any(map(self._policy.is_bad, best.sequences))  # a request without output failed: it is not run again
        if is_good or attempts.num_done > self._policy.retry:
            del self._attempts[output.request_id]
            return best
        key = attempt_key(attempts.row_key, attempts.num_done)
        self._engine.add_request(output.request_id, attempts.prompt_token_ids, attempts.params, key)
        return None

    def _merged(self, attempts: _Attempts, output: RequestOutput) -> RequestOutput:
        """The samples that were good before, and the new ones in place of the others."""
        new = tuple(dataclasses.replace(sequence, attempts=attempts.num_done) for sequence in output.sequences)
        before = attempts.best.sequences if attempts.best is not None else ()
        if len(before) == len(new) and attempts.params.best_of is None:
            new = tuple(n if self._policy.is_bad(old) else old for old, n in zip(before, new, strict=True))
        return dataclasses.replace(output, sequences=new)

    def has_unfinished(self) -> bool:
        return self._engine.has_unfinished()

    def abort(self, request_id: int) -> None:
        self._attempts.pop(request_id, None)
        self._engine.abort(request_id)

    def status(self) -> EngineStatus:
        return self._engine.status()
