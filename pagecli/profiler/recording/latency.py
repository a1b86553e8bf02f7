"""How long requests took: time to the first token, per output token after it, and from end to end."""

from collections.abc import Sequence
from dataclasses import dataclass

from pagecli.profiler.recording.records import RequestRecord

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class LatencyKind:
    """One of the three latencies of a run; `seconds` sorted."""

    name: str
    seconds: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.seconds) / len(self.seconds)

    def percentile(self, percent: float) -> float:
        """Linear between the two nearest ranks, as numpy's default. Raises ValueError if there is none."""
        if not self.seconds:
            raise ValueError(f"no request has a {self.name}")
        rank = (len(self.seconds) - 1) * percent / 100
        low = int(rank)
        high = min(low + 1, len(self.seconds) - 1)
        return self.seconds[low] + (self.seconds[high] - self.seconds[low]) * (rank - low)


def latencies(requests: Sequence[RequestRecord]) -> list[LatencyKind]:
    """The kinds that at least one request has: requests that failed before a token, or ended with the first, lack some."""
    first, per_token, whole = [], [], []
    for request in requests:
        whole.append(request.finished_seconds - request.added_seconds)
        if request.first_token_seconds is not None:
            first.append(request.first_token_seconds - request.added_seconds)
            if request.output_tokens > 1:
                per_token.append((request.finished_seconds - request.first_token_seconds) / (request.output_tokens - 1))
    named = (("time to first token", first), ("time per output token", per_token), ("end to end", whole))
    return [LatencyKind(name, tuple(sorted(seconds))) for name, seconds in named if seconds]
