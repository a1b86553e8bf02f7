"""The rows of a pool: waiting, on workers, lost with them; each finished exactly once.

A row goes to one worker. When that one is lost, it goes to the front of the queue; after a second loss it runs alone on a
worker, as it may be what ends them; after a third it waits until no other row does, so that what ends workers now may have
passed; when it has ended three alone, it is an error row. At the end of a job an idle worker gets a copy of the oldest row that
another still has: the first result counts.
"""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pagecli.core.outputs import RequestOutput
from pagecli.errors import ErrorCode
from pagecli.jobs.workers.worker import PoolRow

LOSSES_IN_COMPANY, LOSSES_ALONE = 2, 3  # of a row's workers: then it runs alone, then it is an error row
COPY_AFTER_SECONDS = 1.0  # on another worker


@dataclass(slots=True)
class OutstandingRow:
    """A row that has not finished."""

    row: PoolRow
    workers: set[int] = field(default_factory=set)  # that have it now, by number
    num_losses: int = 0
    since: float = 0.0  # time.monotonic() when it was sent


class OutstandingRows:
    """All rows that were added and not finished or forgotten."""

    def __init__(self) -> None:
        self._rows: dict[int, OutstandingRow] = {}
        self._waiting: deque[int] = deque()
        self._suspects: deque[int] = deque()  # waiting to run alone
        self._last: deque[int] = deque()  # lost alone: waiting until no others do
        self._on_worker: dict[int, set[int]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + len(self._suspects) + len(self._last)

    def add(self, row: PoolRow) -> None:
        self._rows[row.request_id] = OutstandingRow(row)
        self._waiting.append(row.request_id)

    def on_worker(self, worker: int) -> set[int]:
        """Request ids."""
        return self._on_worker.get(worker, set())

    def runs_alone(self, worker: int) -> bool:
        """Whether it has a row that must have no company."""
        return any(self._rows[request_id].num_losses >= LOSSES_IN_COMPANY for request_id in self.on_worker(worker))

    def take(self, worker: int, room: int) -> list[PoolRow]:
        """Up to `room` rows for the worker, which has them from now on."""
        if self.runs_alone(worker):
            return []
        if self.wants_an_empty_worker and not self.on_worker(worker):
            return self._give(worker, [(self._suspects or self._last).popleft()])
        return self._give(worker, [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))])

    @property
    def wants_an_empty_worker(self) -> bool:
        return bool(self._suspects or (self._last and not self._waiting))

    def copy_for(self, worker: int) -> list[PoolRow]:
        """For a worker without rows when none are waiting: the row that another has had for longest, and for long."""
        oldest = min(
            (held for held in self._rows.values() if len(held.workers) == 1 and held.num_losses < LOSSES_IN_COMPANY),
            key=lambda held: held.since,
            default=None,
        )
        if self.num_waiting or oldest is None or time.monotonic() - oldest.since < COPY_AFTER_SECONDS:
            return []
        return self._give(worker, [oldest.row.request_id])

    def finish(self, worker: int, request_id: int) -> set[int] | None:
        """The workers that still have a copy of it; None if it has finished before, or was forgotten."""
        self.on_worker(worker).discard(request_id)
        if request_id not in self._rows:
            return None
        return self.forget(request_id) - {worker}

    def forget(self, request_id: int) -> set[int]:
        """The workers that have it."""
        held = self._rows.pop(request_id)
        for others in held.workers:
            self.on_worker(others).discard(request_id)
        if not held.workers:
            for queue in (self._waiting, self._suspects, self._last):
                if request_id in queue:
                    queue.remove(request_id)
        return {other for other in held.workers if other in self._on_worker}

    def lose(self, worker: int, how: str) -> list[RequestOutput]:
        """The worker is gone: its rows wait again. Those that have been lost too often are returned as failed."""
        failed, again = [], []
        for request_id in sorted(self._on_worker.pop(worker, set())):
            held = self._rows[request_id]
            held.workers.discard(worker)
            if held.workers:
                continue
            held.num_losses += 1
            if held.num_losses >= LOSSES_IN_COMPANY + LOSSES_ALONE:
                del self._rows[request_id]
                text = f"{held.num_losses} workers ended while they ran this row, the last {LOSSES_ALONE} alone with it: {how}"
                failed.append(RequestOutput(request_id, len(held.row.prompt_token_ids), (), text, ErrorCode.WORKER_LOST))
            elif held.num_losses >= LOSSES_IN_COMPANY:
                (self._last if held.num_losses > LOSSES_IN_COMPANY else self._suspects).append(request_id)
            else:
                again.append(request_id)
        self._waiting.extendleft(reversed(again))
        return failed

    def _give(self, worker: int, request_ids: Iterable[int]) -> list[PoolRow]:
        rows = []
        for request_id in request_ids:
            held = self._rows[request_id]
            held.workers.add(worker)
            held.since = time.monotonic()
            self._on_worker.setdefault(worker, set()).add(request_id)
            rows.append(held.row)
        return rows
