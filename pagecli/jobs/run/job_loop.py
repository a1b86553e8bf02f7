"""The job's loop: admits rows as far as its limits go, runs steps, releases finished rows in order; and its result.

thread that reads    read, tokenize | Feeder
main thread                         | admit, step, append to the journal | InputOrder or CompletionOrder | write
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol

from pagecli.core.outputs import RequestOutput
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.stats import EngineStatus
from pagecli.errors import RowError
from pagecli.jobs.rows.row import InputRow, InputSource, OutputRow, error_row, output_rows
from pagecli.jobs.rows.row_preparer import PreparedRow, code_of
from pagecli.jobs.writers.open_output import RowWriter

if TYPE_CHECKING:
    from pagecli.jobs.journal.journal import Journal
    from pagecli.jobs.monitoring.monitor import JobMonitor

PROGRESS_SECONDS = 0.1
POLL_SECONDS = 0.1
MAX_BYTES = 64 << 20  # of rows read ahead
TOKEN_BYTES = 36  # an int of Python and its entry in a list


class Engine(Protocol):
    """What a job needs of pagecli.engine.engine.Engine."""

    @property
    def num_failed_steps(self) -> int: ...
    def add_request(
        self, request_id: int, prompt_token_ids: list[int], params: SamplingParams, row_key: int | None = None
    ) -> None: ...
    def add_score_request(
        self, request_id: int, prompt_token_ids: list[int], choices: list[list[int]], *, lora: str | None = None
    ) -> None: ...
    def step(self) -> list[RequestOutput]: ...
    def has_unfinished(self) -> bool: ...
    def abort(self, request_id: int) -> None: ...
    def status(self) -> EngineStatus: ...


LEAST_ROWS = 100  # before so many rows are there, their share of errors is taken of this number


@dataclass(frozen=True, slots=True)
class ErrorPolicy:
    """`max_error_rate` in [0, 1]; None: any number of error rows is borne."""

    on_error: Literal["row", "stop"] = "row"
    max_error_rate: float | None = None

    def reason_to_stop(self, num_rows: int, num_error_rows: int) -> str | None:
        """Why a job with these numbers of output rows and error rows is to end now; None: it continues.

        A rate of 0.05 ends it at the 6th error among the first 100 rows, then when more than 5 % of the rows are errors.
        """
        if num_error_rows and self.on_error == "stop":
            return "a row failed, and --on-error is stop"
        if self.max_error_rate is None or num_error_rows <= self.max_error_rate * max(num_rows, LEAST_ROWS):
            return None
        return f"{num_error_rows:,} of {num_rows:,} rows failed, more than --max-error-rate {self.max_error_rate:g} allows"


@dataclass
class RunResult:
    """The result of a run. `stopped_by` is the signal that ended it early, `too_many_errors` why the error policy did.

    Rows count when they finish, whether it is their turn to be written or not.
    """

    num_rows: int = 0  # of the output
    num_input_rows: int = 0
    num_error_rows: int = 0
    finish_reasons: Counter[str] = field(default_factory=Counter)
    first_row_at: float | None = None  # time.perf_counter() when the first row finished
    generate_seconds: float = 0.0
    first_error: str | None = None  # of the error row that comes first in the input
    first_error_index: int | None = None
    stopped_by: int | None = None
    too_many_errors: str | None = None
    num_taken_over: int = 0  # of num_rows, out of the journal of an earlier run
    num_failed_steps: int = 0  # of the engine, each followed by a search for the row that caused it

    def count(self, rows: list[OutputRow]) -> None:
        """Add the output rows of one input row that has finished."""
        self.num_input_rows += 1
        self.num_rows += len(rows)
        if self.first_row_at is None:
            self.first_row_at = time.perf_counter()
        for row in rows:
            self.finish_reasons[row.finish_reason] += 1
            if row.error is None:
                continue
            self.num_error_rows += 1
            if self.first_error_index is None or row.row.index < self.first_error_index:
                has_location = row.error.startswith(row.row.location)
                self.first_error = row.error if has_location else f"{row.row.location}: {row.error}"
                self.first_error_index = row.row.index

    @property
    def ended_early(self) -> bool:
        return self.stopped_by is not None or self.too_many_errors is not None


@dataclass(frozen=True, slots=True)
class LoopLimits:
    """Limits on rows in the engine and in memory: they bound memory, whatever the size of the input."""

    max_active: int  # in the engine: enough that it never lacks waiting rows
    max_outstanding: int  # in the engine, or finished and held for their turn
    max_prefetched: int  # read and tokenized ahead

    @classmethod
    def for_engine(cls, max_num_seqs: int) -> "LoopLimits":
        """One slow row holds back the rows behind it only after 16 batches' worth of them have finished."""
        max_active = 2 * max_num_seqs
        return cls(max_active, max(16 * max_num_seqs, 64), max(max_active, 16))


class Feeder:
    """A context manager: its thread runs inside the `with` and has ended when the `with` is left, however it is left.

    A row larger than `max_bytes` goes through alone.
    """

    def __init__(
        self, source: InputSource, prepare: Callable[[InputRow], PreparedRow], max_rows: int, max_bytes: int = MAX_BYTES
    ) -> None:
        self._source = source
        self._prepare = prepare
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._ready: deque[PreparedRow | BaseException | None] = deque()  # at its end what the reading raised, or None
        self._ready_bytes = 0
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="pagecli-reader", daemon=True)
        self.exhausted = False  # every row has been taken

    def __enter__(self) -> "Feeder":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._source.interrupt()
        self._thread.join()
        self._source.close()

    def take(self, timeout: float) -> PreparedRow | None:
        """The next row; None if none is ready within `timeout` seconds or none is left. Raises what the reading raised."""
        if self.exhausted:
            return None
        with self._changed:
            if not self._ready and not self._changed.wait_for(lambda: self._ready, timeout):
                return None
            item = self._ready.popleft()
            if isinstance(item, PreparedRow):
                self._ready_bytes -= prepared_bytes(item)
                self._changed.notify_all()
                return item
        self.exhausted = True
        if item is not None:
            raise item
        return None

    def _run(self) -> None:
        try:
            for row in self._source:
                if not self._put(self._prepare(row)):
                    return
            self._source.check_unchanged()
            self._put(None)
        except BaseException as error:  # handed to the thread that takes rows, which raises it
            self._put(error)

    def _put(self, item: PreparedRow | BaseException | None) -> bool:
        """False if the feeder was stopped while it waited for room."""
        num_bytes = prepared_bytes(item) if isinstance(item, PreparedRow) else 0
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._has_room(num_bytes))
            if self._stopped:
                return False
            self._ready.append(item)
            self._ready_bytes += num_bytes
            self._changed.notify_all()
        return True

    def _has_room(self, num_bytes: int) -> bool:
        return not self._ready or (len(self._ready) < self._max_rows and self._ready_bytes + num_bytes <= self._max_bytes)


def prepared_bytes(prepared: PreparedRow) -> int:
    """About what the row takes in memory."""
    return prepared.row.num_bytes + TOKEN_BYTES * len(prepared.prompt_token_ids)


class InputOrder:
    """Holds rows that finish early until every row before them has been released."""

    def __init__(self) -> None:
        self._held: dict[int, list[OutputRow]] = {}
        self._next_index = 0

    def push(self, index: int, rows: list[OutputRow]) -> list[OutputRow]:
        """Takes the output of input row `index`; returns the rows whose turn it is now."""
        self._held[index] = rows
        ready: list[OutputRow] = []
        while self._next_index in self._held:
            ready.extend(self._held.pop(self._next_index))
            self._next_index += 1
        return ready

    def drain(self) -> list[OutputRow]:
        """The rows still held, in order, with gaps where rows have not finished."""
        rows = [row for index in sorted(self._held) for row in self._held[index]]
        self._held.clear()
        return rows

    def __len__(self) -> int:
        return len(self._held)


class CompletionOrder:
    """Releases rows as they finish, without holding any."""

    def push(self, index: int, rows: list[OutputRow]) -> list[OutputRow]:
        return rows

    def drain(self) -> list[OutputRow]:
        return []

    def __len__(self) -> int:
        return 0


@dataclass(eq=False)
class JobRun:
    """One pass over the input. `run()` leaves the writer open, with every finished row written."""

    engine: Engine
    prepare: Callable[[InputRow], PreparedRow]
    writer: RowWriter
    limits: LoopLimits  # others once the engine has grown
    order: Literal["input", "completion"] = "input"
    monitor: "JobMonitor | None" = None
    stop_requested: Callable[[], int | None] = lambda: None
    journal: "Journal | None" = None
    error_policy: ErrorPolicy = field(default_factory=ErrorPolicy)
    rows_of: Callable[[InputRow, RequestOutput], list[OutputRow]] = output_rows

    def __post_init__(self) -> None:
        self.result = RunResult()
        self._order = InputOrder() if self.order == "input" else CompletionOrder()
        self._active: dict[int, PreparedRow] = {}
        self._num_safe_rows = 0 if self.journal is None else self.journal.num_safe_rows
        self._num_inputs_taken_over = 0
        self._next_progress = 0.0

    def run(self, source: InputSource) -> RunResult:
        """Runs all rows of `source` and closes it. Raises what reading, the engine or the writer raise."""
        for _ in self.cycles(source):
            pass
        return self.result

    def cycles(self, source: InputSource) -> Generator[None, None, None]:
        """As `run`, a step at a time. After `close()` the engine has none of the run's requests."""
        started = time.perf_counter()
        try:
            with Feeder(source, self.prepare, self.limits.max_prefetched) as feeder:
                while not self._stopped() and self._cycle(feeder):
                    self._report(source)
                    yield
        except GeneratorExit:
            self._abort()
            raise
        finally:
            self.result.generate_seconds = time.perf_counter() - started
            self.result.num_failed_steps = self.engine.num_failed_steps
        self._abort()

    def _abort(self) -> None:
        """Of a run that was stopped; after a failure the engine is not used again."""
        for request_id in self._active:
            self.engine.abort(request_id)
        self._active.clear()

    def keep_finished(self) -> None:
        """Writes the rows held for their turn; for a job that ends early."""
        self._write(self._order.drain())

    def _cycle(self, feeder: Feeder) -> bool:
        """Admit what fits, run one step, release what finished, journal it. False when the job is done."""
        self._admit(feeder)
        goes_on = not feeder.exhausted
        if self.engine.has_unfinished():
            for output in self.engine.step():
                row = self._active.pop(output.request_id).row
                self._finish(self.rows_of(row, output))
            goes_on = True
        if self.journal is not None:
            self.journal.commit()
        return goes_on

    def _admit(self, feeder: Feeder) -> None:
        """Admits rows that are ready, as far as the limits go; waits for one only if the engine has nothing to do.

        Ends after max_active rows even if they were all error rows, so that a signal is seen.
        """
        for _ in range(self.limits.max_active):
            if not self._has_room():
                return
            prepared = feeder.take(0.0 if self._active else POLL_SECONDS)
            if prepared is None:
                return
            self._add(prepared)

    def _has_room(self) -> bool:
        num_active = len(self._active)
        return num_active < self.limits.max_active and num_active + len(self._order) < self.limits.max_outstanding

    def _add(self, prepared: PreparedRow) -> None:
        if prepared.finished is not None:
            self.result.num_taken_over += len(prepared.finished)
            self._num_inputs_taken_over += 1
            self._release(prepared.finished)
            return
        index, error = prepared.row.index, prepared.error
        if error is not None:
            self._finish([error_row(prepared.row, error, None, prepared.error_code)])
            return
        try:
            if prepared.choices:
                choices, lora = list(prepared.choices), prepared.params.lora
                self.engine.add_score_request(index, prepared.prompt_token_ids, choices, lora=lora)
            else:
                self.engine.add_request(index, prepared.prompt_token_ids, prepared.params, prepared.row_key)
            self._active[index] = prepared
        except RowError as problem:  # an engine of another size may take it: a resumed job finds out anew
            row = error_row(prepared.row, problem.one_line, len(prepared.prompt_token_ids) or None, code_of(problem))
            self._finish([row], for_good=False)

    def _finish(self, rows: list[OutputRow], for_good: bool = True) -> None:
        """Takes all output rows of one input row; those that a resumed job is to compute again are not `for_good`."""
        if self.journal is not None and for_good:
            self.journal.append(rows)
        self._release(rows)

    def _release(self, rows: list[OutputRow]) -> None:
        """Counts the finished rows of one input row, and writes the rows whose turn it is now."""
        result = self.result
        result.count(rows)
        if result.num_error_rows and result.too_many_errors is None:
            result.too_many_errors = self.error_policy.reason_to_stop(result.num_rows, result.num_error_rows)
        self._write(self._order.push(rows[0].row.index, rows))

    def _write(self, rows: list[OutputRow]) -> None:
        for row in rows:
            self.writer.write(row)

    def _stopped(self) -> bool:
        self.result.stopped_by = self.stop_requested()
        return self.result.ended_early

    def _report(self, source: InputSource) -> None:
        now = time.perf_counter()
        if self.monitor is None or now < self._next_progress:
            return
        self._next_progress = now + PROGRESS_SECONDS
        if self.journal is not None and self.journal.num_safe_rows != self._num_safe_rows:
            self._num_safe_rows = self.journal.num_safe_rows
            self.monitor.checkpoint(self._num_safe_rows)
        status = self.engine.status()
        self.monitor.progress(
            source.estimate(),
            num_rows=self.result.num_input_rows,
            num_error_rows=self.result.num_error_rows,
            num_taken_over=self._num_inputs_taken_over,
            num_running=status.num_running,
            num_waiting=status.num_waiting,
            kv_usage=status.kv_usage,
            output_tokens=status.num_output_tokens,
            processes=status.processes,
        )
