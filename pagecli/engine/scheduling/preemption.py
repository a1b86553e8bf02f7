"""Who was preempted, how often, and what it cost."""

from dataclasses import dataclass, field

from pagecli.engine.request import Request

MAX_NAMED = 100  # requests the log names; the sums count all


@dataclass(slots=True)
class PreemptionLog:
    """Sums over the run, and the requests hit hardest by name."""

    count: int = 0
    num_tokens_lost: int = 0  # computed and dropped; what the prefix cache still has need not be computed again
    by_request: dict[int, tuple[int, int]] = field(default_factory=dict)  # request_id -> times, tokens lost

    def record(self, request: Request, tokens_lost: int) -> None:
        self.count += 1
        self.num_tokens_lost += tokens_lost
        times, lost = self.by_request.get(request.request_id, (0, 0))
        if request.request_id in self.by_request or len(self.by_request) < MAX_NAMED:
            self.by_request[request.request_id] = (times + 1, lost + tokens_lost)
