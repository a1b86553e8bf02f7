"""Which request makes steps fail: a search by halves, so that a failure costs the rows that cause it and never the job.

All requests that ran in a failed step are suspects. They start again from their prompts in two halves, each running alone until
it is done: the half that fails again is halved in its turn, and requests that did not run in the failed step come last. A
request that fails MAX_TRIES_ALONE times alone is given up with an error, if a probe of one token runs then; if not even that
runs, the engine is broken, and the step's error is raised: requests it never had a chance with are not to blame.
Rows are as good alone as in a batch (same row, same text), so the others come out as if nothing had happened.
"""

from collections import deque
from dataclasses import dataclass, field

from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.request import Request

MAX_TRIES_ALONE = 2
PROBE_PARAMS = SamplingParams(max_tokens=1, ignore_eos=True)


def probe() -> Request:
    """A request of one token in and one out."""
    return Request(-1, [0], PROBE_PARAMS, row_key=2**64 - 1)


@dataclass(slots=True)
class FailureSearch:
    """Requests that are kept out of the scheduler meanwhile, in groups that are to run one after the other."""

    _groups: deque[list[Request]] = field(default_factory=deque)
    _rest: list[Request] = field(default_factory=list)  # not suspected; run when the groups are done
    _in_group: bool = False  # the scheduler runs one of the groups

    @property
    def is_over(self) -> bool:
        """Whether every request is back in the scheduler, and none of them is to run alone."""
        return not (self._groups or self._rest or self._in_group)

    def suspect(self, suspects: list[Request], others: list[Request]) -> Request | None:
        """The step that ran the suspects failed, and neither they nor the others are in the scheduler any more. Returns the
        request that has failed alone as often as it may, which is then no longer kept."""
        self._rest += others
        if len(suspects) > 1:
            half = len(suspects) // 2
            self._groups.extendleft((suspects[half:], suspects[:half]))
            return None
        (alone,) = suspects
        alone.num_failures += 1
        if alone.num_failures >= MAX_TRIES_ALONE:
            return alone
        self._groups.appendleft(suspects)
        return None

    def add(self, request: Request) -> None:
        """Keep a new request until the search ends."""
        self._rest.append(request)

    def next_group(self) -> list[Request]:
        """The requests to run now, alone; empty when there are none left."""
        while self._groups:
            if group := self._groups.popleft():
                self._in_group = True
                return group
        self._in_group = False
        rest, self._rest = self._rest, []
        return rest

    def holds(self, request: Request) -> bool:
        """Whether the request is kept out of the scheduler."""
        return any(request in group for group in (*self._groups, self._rest))

    def abort(self, request: Request) -> None:
        """Forget the request."""
        for group in (*self._groups, self._rest):
            if request in group:
                group.remove(request)
