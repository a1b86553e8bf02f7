"""Workloads of plans and replays: requests as lengths, when they arrive, and which prompts begin alike."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pagecli.errors import UsageError
from pagecli.profiler.workloads.drawn_lengths import ALPACA, SHAREGPT, draw, poisson_arrivals

BUILT_IN = {"sharegpt": SHAREGPT, "alpaca": ALPACA}
LEAST_RATE, MOST_RATE = 1e-9, 1e9  # of requests a second: times of arrival and sums of them stay numbers
DEFAULT_NUM_REQUESTS = 500  # of a built-in workload; their replay takes a second


@dataclass(frozen=True, slots=True)
class WorkloadRequest:
    """One request: `prefix_hashes` name the blocks its prompt begins with, equal where prompts are equal up to there."""

    prompt_tokens: int
    output_tokens: int
    arrival_seconds: float | None = None  # None: there from the start, as in a batch job
    prefix_hashes: tuple[int, ...] = ()

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class LengthStats:
    """Of one length over all requests, in tokens."""

    p50: int
    mean: float
    p95: int
    max: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of arrival. Raises UsageError if there is none."""

    name: str
    requests: tuple[WorkloadRequest, ...]
    note: str = ""  # where the lengths come from, in one line
    prefix_block_size: int = 0  # tokens that one of prefix_hashes stands for; 0: prompts have no known prefixes
    requests_per_second: float | None = None  # None: no rate, all at once

    def __post_init__(self) -> None:
        if not self.requests:
            raise UsageError(f"workload {self.name} has no requests", "give one with at least one request")

    def with_rate(self, requests_per_second: float) -> "Workload":
        """The same requests arriving as a Poisson process of this rate. Raises UsageError."""
        if not LEAST_RATE <= requests_per_second <= MOST_RATE:
            hint = f"give requests per second from {LEAST_RATE:g} to {MOST_RATE:g}"
            raise UsageError(f"the request rate is {requests_per_second}", hint)
        arrivals = poisson_arrivals(len(self.requests), requests_per_second)
        requests = tuple(replace(r, arrival_seconds=t) for r, t in zip(self.requests, arrivals, strict=True))
        return replace(self, requests=requests, requests_per_second=requests_per_second)

    @property
    def prompt_stats(self) -> LengthStats:
        return length_stats([r.prompt_tokens for r in self.requests])

    @property
    def output_stats(self) -> LengthStats:
        return length_stats([r.output_tokens for r in self.requests])

    @property
    def total_stats(self) -> LengthStats:
        """Of prompt and output together: what a request holds at its end."""
        return length_stats([r.total_tokens for r in self.requests])


def length_stats(lengths: Sequence[int]) -> LengthStats:
    """Percentiles are lengths that occur: the smallest that so many percent of the requests do not pass."""
    p50, p95 = np.percentile(lengths, [50, 95], method="inverted_cdf")
    return LengthStats(int(p50), float(np.mean(lengths)), int(p95), int(max(lengths)))


def built_in(name: str, num_requests: int | None = None) -> Workload:
    """The workload of that name, drawn anew and always the same. Raises KeyError."""
    lengths = BUILT_IN[name]
    drawn = draw(lengths, DEFAULT_NUM_REQUESTS if num_requests is None else num_requests)
    note = f"log-normal lengths with the PagedAttention paper's means, {lengths.prompt_mean} in and {lengths.output_mean} out"
    return Workload(name, tuple(WorkloadRequest(prompt, output) for prompt, output in drawn), f"{note}; seed 0")
