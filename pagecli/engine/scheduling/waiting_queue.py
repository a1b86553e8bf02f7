"""Requests that wait for their turn: preempted ones first, then newcomers, those of one prefix side by side.

Newcomers are taken in windows of bounded size, so that a row is never put off for longer than a window: output in input order
then costs bounded memory. Within a window, requests that share their first block stand together, in the order of their tokens
(longest common prefix order), where the first of them arrived.
"""

from collections import deque
from collections.abc import Iterator

from pagecli.engine.request import Request

MAX_WINDOW = 512


def by_prefix(requests: list[Request]) -> list[Request]:
    """The requests in longest-common-prefix order; those that share no block keep the order they came in."""
    groups: dict[object, list[Request]] = {}
    for request in requests:
        first = request.prefix_hashes[0] if request.prefix_hashes else request.request_id
        groups.setdefault(first, []).append(request)
    return [r for group in groups.values() for r in sorted(group, key=lambda r: r.prompt_token_ids)]


class WaitingQueue:
    """What the scheduler admits from, in order."""

    def __init__(self) -> None:
        self._preempted: deque[Request] = deque()
        self._window: list[Request] = []
        self._arrivals: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._preempted) + len(self._window) + len(self._arrivals)

    def add(self, request: Request) -> None:
        self._arrivals.append(request)

    def put_back(self, request: Request) -> None:
        """A preempted request goes before all others: it is older than any newcomer, and than those preempted before it."""
        self._preempted.appendleft(request)

    def next_preempted(self) -> Request | None:
        return self._preempted[0] if self._preempted else None

    def preempted(self) -> list[Request]:
        """Those that were put back, in order."""
        return list(self._preempted)

    def newcomers(self) -> Iterator[Request]:
        """The window's requests in order, then the next window's if all were removed; remove() may be called meanwhile."""
        while self._window or self._arrivals:
            if not self._window:
                arrived = [self._arrivals.popleft() for _ in range(min(MAX_WINDOW, len(self._arrivals)))]
                self._window = by_prefix(arrived)
            yield from list(self._window)
            if self._window:
                return

    def remove(self, request: Request) -> None:
        for queue in (self._preempted, self._window, self._arrivals):
            if request in queue:
                queue.remove(request)
                return
