"""A pool of engines, each in a process of its own with a whole model, that a job uses as it uses one engine.

Rows, order, journal and output stay with the driver, which loads no weights. A worker holds at most twice its batch of rows and
gets the next ones as it finishes some, so that nobody waits for anybody; which worker ran a row changes no text. What a lost
worker had is run again (outstanding.py), and the worker is started anew.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pagecli.core.engine_config import EngineConfig
from pagecli.core.message_socket import wait_for_any
from pagecli.core.outputs import RequestOutput
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine import loaded_model
from pagecli.engine.replicas import admission_of
from pagecli.engine.stats import EngineStatus
from pagecli.errors import ModelError, PagecliError
from pagecli.jobs.workers.outstanding import LOSSES_ALONE, LOSSES_IN_COMPANY, OutstandingRows
from pagecli.jobs.workers.pool_stats import merged_stats, worker_row
from pagecli.jobs.workers.same_job import Facts, difference, engine_difference, facts_here
from pagecli.jobs.workers.sources import WorkerProcess, WorkerSource
from pagecli.jobs.workers.worker import PoolRow
from pagecli.model.tokenizer.loading import load_tokenizer

ROWS_OF_A_MESSAGE = 64
STEP_SECONDS = 0.05  # that `step` waits for results
MAX_RESTARTS = LOSSES_IN_COMPANY + LOSSES_ALONE  # of one worker, after which it finished no row
LOOK_SECONDS = 10.0  # between two looks for room


@dataclass(slots=True)
class _Worker:
    number: int
    process: WorkerProcess
    heard: float = 0.0  # time.monotonic() of its last message
    stats: dict[str, Any] = field(default_factory=dict)  # empty: it is not ready
    loading: tuple[int, int] = (0, 0)  # parameters that it has read, and those of its model
    num_rows: int = 0
    num_restarts: int = 0
    num_vain_restarts: int = 0  # since it finished a row
    crash: str = ""


class EnginePool:
    """See Engine for the methods. Raises ModelError, UsageError if the workers cannot be started."""

    def __init__(
        self,
        config: EngineConfig,
        num_workers: int,
        source: WorkerSource,
        worker_timeout: float = 60.0,
        mixed_hardware: bool = False,
        say: Callable[[str], None] = lambda text: None,
        on_loading: Callable[[int, int], None] = lambda num_read, num_parameters: None,
        record: Callable[[Any], Any] | None = None,
    ) -> None:
        """`config`: of each worker. `worker_timeout`: one that is not heard of for so long is lost. `say`: takes warnings.
        `on_loading`: see Engine, of the worker that is furthest. `record`: begins the recording of a worker's engine, there."""
        started = time.perf_counter()
        found = loaded_model.resolve(config)
        self.config = replace(config, dtype=found.dtype)  # type: ignore[arg-type]
        self.tokenizer = load_tokenizer(found.source)
        self.model_config = found.source.config
        self.max_model_len = min(config.max_model_len or self.model_config.max_positions, self.model_config.max_positions)
        self.on_growth: Callable[[int], None] = lambda num_workers: None
        self._facts, self._mixed_hardware = facts_here(config, found.source, "the driver"), mixed_hardware
        self._source, self._timeout, self._say = source, worker_timeout, say
        self._record, self._recordings = record, dict[int, Any]()
        self._rows = OutstandingRows()
        self._finished: list[RequestOutput] = []
        self._workers: dict[int, _Worker] = {}
        self._lost_stats: list[dict[str, Any]] = []
        self._num_requests = self._num_prompt_tokens = self._num_output_tokens = self._num_lost = 0
        self._exchanged = time.monotonic()
        self._next_look, self._said = self._exchanged + LOOK_SECONDS, ""
        self.num_replicas = self._num_asked = num_workers
        self.load_seconds = 0.0
        try:
            for _ in range(num_workers):
                self.add_worker()
            while not self._ready():
                self._exchange(STEP_SECONDS)
                furthest = max((worker.loading for worker in self._workers.values()), default=(0, 0))
                if furthest[1]:
                    on_loading(*furthest)
        except BaseException:
            self.close()
            raise
        num_blocks = self._ready()[0].stats["kv_blocks_total"]
        self._admission = admission_of(config, self.model_config.vocab_size, self.max_model_len, num_blocks)
        self.load_seconds = time.perf_counter() - started

    def add_worker(self) -> None:
        """One more: it gets rows as soon as it has loaded its model."""
        number = max(self._workers, default=-1) + 1
        self._workers[number] = self._launched(_Worker(number, self._source.start(number)))

    def _ready(self) -> list[_Worker]:
        """Workers that have loaded their model."""
        return [worker for worker in self._workers.values() if worker.stats]

    def _launched(self, worker: _Worker) -> _Worker:
        worker.heard = time.monotonic()
        worker.process.messages.send(self.config)
        return worker

    def add_request(
        self, request_id: int, prompt_token_ids: list[int], params: SamplingParams, row_key: int | None = None
    ) -> None:
        params = self._admission.check(prompt_token_ids, params)
        self._add(PoolRow(request_id, prompt_token_ids, params, request_id if row_key is None else row_key))

    def add_score_request(
        self, request_id: int, prompt_token_ids: list[int], choices: list[list[int]], *, lora: str | None = None
    ) -> None:
        params = replace(self._admission.check_choices(prompt_token_ids, choices, None), lora=lora)
        self._add(PoolRow(request_id, prompt_token_ids, params, request_id, tuple(choices)))

    def _add(self, row: PoolRow) -> None:
        self._rows.add(row)
        self._num_requests += 1
        self._num_prompt_tokens += len(row.prompt_token_ids)

    def step(self) -> list[RequestOutput]:
        """What has finished; waits a short while for something. Raises ModelError when no worker can be kept alive."""
        self._hand_out()
        self._exchange(0.0 if self._finished else STEP_SECONDS)
        finished, self._finished = self._finished, []
        return finished

    def has_unfinished(self) -> bool:
        return bool(len(self._rows) or self._finished)

    def abort(self, request_id: int) -> None:
        with contextlib.suppress(KeyError):  # its result may lie here already
            self._abort_on(self._rows.forget(request_id), request_id)

    def _abort_on(self, numbers: set[int], request_id: int) -> None:
        for number in numbers:
            self._workers[number].process.messages.send(("abort", [request_id]))

    def _hand_out(self) -> None:
        """Rows to workers with credit, first to those with the fewest, a message's worth in turn."""
        credit = 2 * self.config.max_num_seqs
        ready = sorted(self._ready(), key=lambda worker: len(self._rows.on_worker(worker.number)))
        keeps_one_empty = self._rows.wants_an_empty_worker
        share = max(1, min(ROWS_OF_A_MESSAGE, -(-self._rows.num_waiting // max(1, len(ready)))))
        while True:
            gave = False
            for index, worker in enumerate(ready):
                held = len(self._rows.on_worker(worker.number))
                room = 0 if keeps_one_empty and index == 0 and held else min(share, credit - held)
                rows = self._rows.take(worker.number, room) if room > 0 else []
                if not rows and not held:
                    rows = self._rows.copy_for(worker.number)
                if rows:
                    worker.process.messages.send(("rows", rows))
                gave = gave or bool(rows)
            if not gave or not self._rows.num_waiting:
                return

    def _exchange(self, seconds: float) -> None:
        """Takes what workers have sent, waiting so long for the first, and looks after those that are gone."""
        sockets = [worker.process.messages for worker in self._workers.values() if not worker.process.messages.is_closed]
        readable = wait_for_any(sockets, seconds)
        now, away = time.monotonic(), time.monotonic() - self._exchanged
        self._exchanged = now
        self._source.check()
        for worker in list(self._workers.values()):
            messages = worker.process.messages
            messages.flush()
            if away > 1.0:  # the driver was stopped, or waited for a disk: no time to hear anything
                worker.heard += away
            if not messages.is_connected:  # there is no room for it yet
                worker.heard = now
            if messages in readable:
                for kind, content in messages.receive():
                    self._take(worker, kind, content)
            if worker.number not in self._workers:
                continue
            if messages.is_closed:
                self._replace(worker)
            elif now - worker.heard > self._timeout:
                worker.crash = worker.crash or f"not heard of for {self._timeout:g} s"
                self._replace(worker)
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._look_for_room()

    def _look_for_room(self) -> None:
        """Asks for one more worker where the pool may grow and has enough rows; says which wait for room."""
        pending = [worker for worker in self._workers.values() if not worker.process.messages.is_connected]
        is_enough = self._source.grows and bool(self._ready())
        if is_enough and not pending:
            if len(self._rows) > 1.5 * self.config.max_num_seqs * len(self._workers):
                self.add_worker()
        elif pending and not is_enough and (text := self._source.room_text()) != self._said:
            self._said = text
            self._say(f"{len(pending)} of {len(self._workers)} workers wait for room: {text}")

    def _take(self, worker: _Worker, kind: str, content: Any) -> None:
        worker.heard = time.monotonic()
        if kind == "refused":
            self._refuse(worker, content)
        elif kind == "crashed":
            worker.crash = content
        elif kind == "loading":
            worker.loading = content
        elif kind == "ready":
            worker.stats, facts = content
            if self._record is not None:
                worker.process.messages.send(("record", self._record))
            self._check_same(worker, facts)
        elif kind == "recording":
            self._recordings[worker.number] = content
        elif kind == "done":
            outputs, worker.stats = content
            for output in outputs:
                self._finish(worker, output)
        elif content is not None:
            worker.stats = content

    def _finish(self, worker: _Worker, output: RequestOutput) -> None:
        copies = self._rows.finish(worker.number, output.request_id)
        if copies is None:  # finished by another worker before
            return
        worker.num_rows += 1
        worker.num_vain_restarts = 0
        self._num_output_tokens += sum(len(sequence.token_ids) for sequence in output.sequences)
        self._finished.append(output)
        self._abort_on(copies, output.request_id)

    def _check_same(self, worker: _Worker, facts: Facts) -> None:
        """Refuses a worker that would compute other bits, or refuse other rows."""
        found = difference(self._facts, facts, self._mixed_hardware)
        for other in self._ready():
            found = found or engine_difference(other.stats, worker.stats)
        if found is not None:
            worker.stats = {}
            self._refuse(worker, found)
            return
        self.num_replicas = max(self.num_replicas, len(self._ready()))
        self.on_growth(self.num_replicas)

    def _refuse(self, worker: _Worker, why: PagecliError) -> None:
        """The worker will not be started again. Raises `why`, unless it has joined others, or replaced one that was lost."""
        others = [other for other in self._ready() if other is not worker]
        if not others or (worker.number < self._num_asked and not worker.num_restarts):
            raise why
        worker.process.close()
        del self._workers[worker.number]
        self._say(f"a worker was refused: {why.one_line}")

    def _replace(self, worker: _Worker) -> None:
        """The worker is lost: its rows wait again, and a new process takes its place. Raises ModelError if that is in vain."""
        worker.process.kill()
        how = worker.crash or worker.process.end_text()
        worker.process.close()
        self._num_lost += 1
        failed = self._rows.lose(worker.number, how)
        self._finished += failed
        if failed:
            worker.num_vain_restarts = 0
        if worker.stats:
            self._lost_stats.append(worker.stats)
        if worker.num_vain_restarts >= MAX_RESTARTS or not self._all_stats():
            del self._workers[worker.number]
            if not self._workers:
                raise ModelError(
                    f"all workers of the pool are lost, the last one: {how}", "finished rows are kept; see what ends them"
                )
            self._say(f"worker {worker.number} was lost for good: {how}")
            return
        self._say(f"worker {worker.number} was lost, and is started again: {how}")
        worker.num_restarts += 1
        worker.num_vain_restarts += 1
        worker.stats, worker.crash = {}, ""
        worker.process = self._source.start(worker.number)
        self._launched(worker)

    @property
    def num_failed_steps(self) -> int:
        return sum(stats["num_failed_steps"] for stats in self._all_stats())

    def status(self) -> EngineStatus:
        ready = [worker.stats for worker in self._ready()]
        return EngineStatus(
            sum(stats["num_waiting"] for stats in ready) + self._rows.num_waiting,
            sum(stats["num_running"] for stats in ready),
            sum(stats["kv_usage"] for stats in ready) / max(1, len(ready)),
            self._num_prompt_tokens,
            sum(stats["num_sampled_tokens"] for stats in self._all_stats()),
            self._worker_rows(),
        )

    def stats(self) -> dict[str, Any]:
        """As of each worker's last message; "workers" has a row for each, "num_workers_lost" how many ended before the job."""
        return {
            **merged_stats([worker.stats for worker in self._ready()], self._lost_stats),
            "load_seconds": self.load_seconds,
            "num_requests": self._num_requests,
            "prompt_tokens": self._num_prompt_tokens,
            "output_tokens": self._num_output_tokens,
            "num_workers_lost": self._num_lost,
            "workers": self._worker_rows(),
        }

    def recordings(self, seconds: float) -> dict[int, Any]:
        """What each worker recorded since it was started last, by its number; of those that answer in that time."""
        asked = self._ready()
        for worker in asked:
            worker.process.messages.send(("recorded", None))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(w.stats and w.number not in self._recordings for w in asked):
            self._exchange(STEP_SECONDS)
        return self._recordings

    def _worker_rows(self) -> list[dict[str, Any]]:
        ready = self._ready()
        return [worker_row(worker.number, worker.stats, worker.num_rows, worker.num_restarts) for worker in ready]

    def _all_stats(self) -> list[dict[str, Any]]:
        return [worker.stats for worker in self._ready()] + self._lost_stats

    def close(self) -> None:
        """Ends all workers."""
        for worker in self._workers.values():
            worker.process.messages.close()
        for worker in self._workers.values():
            worker.process.close()
        self._workers.clear()
        self._source.close()
