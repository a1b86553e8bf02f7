"""Replay of a workload under each memory policy: the engine's own scheduler and KV manager, without a model."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.request import Request
from pagecli.profiler.recording.records import PolicyResult
from pagecli.profiler.replay.replay_clock import Arrival, ReplayCase, ReplayClock, ReplaySettings, StepTimer
from pagecli.profiler.replay.slot_ledger import SlotSums, final_slots
from pagecli.profiler.workloads.prompt_tokens import prompt_token_ids
from pagecli.profiler.workloads.workloads import Workload

PAGED_CASE = ReplayCase("paged")
# The systems that the PagedAttention paper and the vLLM announcement compare, from one request at a time to paging.
DEFAULT_CASES = (
    ReplayCase("reserve-max", "none"),
    ReplayCase("reserve-max", "static"),
    ReplayCase("reserve-max"),
    ReplayCase("reserve-pow2"),
    ReplayCase("reserve-oracle"),
    PAGED_CASE,
)
SHARING_CASE = ReplayCase("paged", prefix_caching=True)
VOCABULARY = 32_000  # of synthesized prompts
MOST_REPLAYED = 2_000  # requests of a longer workload


def replay(
    workload: Workload, settings: ReplaySettings, timer: StepTimer, cases: Iterable[ReplayCase] | None = None
) -> list[PolicyResult]:
    """One result a case, in their order. By default the cases of the paper, and prefix sharing if the workload knows prefixes.

    Requests come when the workload says, or are all there from the start. Those that a policy could never hold are left out
    and counted (`details["num_refused"]`).
    """
    if cases is None:
        cases = (*DEFAULT_CASES, SHARING_CASE) if workload.prefix_block_size else DEFAULT_CASES
    return [replay_case(workload, settings, timer, case) for case in cases]


def sample_of(workload: Workload, size: int = MOST_REPLAYED) -> Workload:
    """At most `size` requests: evenly spaced ones of those that are all there from the start; else the first, as they come.

    Leaving out every other arrival would halve the rate, and so the queue.
    """
    requests = workload.requests
    if len(requests) <= size:
        return workload
    if any(request.arrival_seconds for request in requests):
        return replace(workload, requests=requests[:size])
    return replace(workload, requests=tuple(requests[at * len(requests) // size] for at in range(size)))


def sample_text(workload: Workload) -> str:
    """How the sample of a longer workload is taken."""
    return "the first" if any(request.arrival_seconds for request in workload.requests) else "evenly spaced ones"


def replay_case(workload: Workload, settings: ReplaySettings, timer: StepTimer, case: ReplayCase) -> PolicyResult:
    """The workload under one policy."""
    clock = ReplayClock(case, settings, timer)
    arrivals = Arrivals(workload, case).that_fit(clock)
    clock.run(arrivals)
    return result(clock, len(arrivals), len(workload.requests) - len(arrivals))


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A workload's requests, made anew for each replay. Their tokens matter only where prefixes are looked for."""

    workload: Workload
    case: ReplayCase

    def that_fit(self, clock: ReplayClock) -> list[Arrival]:
        """Those that the clock's empty cache could hold, in order of arrival."""
        requests = self.workload.requests
        blank = {length: [0] * length for length in {one.prompt_tokens for one in requests}}
        blanks = (blank[one.prompt_tokens] for one in requests)
        prompts = prompt_token_ids(self.workload, VOCABULARY) if self.case.prefix_caching else blanks
        lengths = {one.output_tokens for one in requests}
        params = {length: SamplingParams(max_tokens=length, ignore_eos=True) for length in lengths}
        arrivals = []
        for i, (one, prompt) in enumerate(zip(requests, prompts, strict=True)):
            request = Request(i, prompt, params[one.output_tokens], row_key=i)
            arrivals.append(Arrival(one.arrival_seconds or 0.0, request))
        return sorted((a for a in arrivals if _fits(clock, a.request)), key=lambda arrival: arrival.seconds)


def _fits(clock: ReplayClock, request: Request) -> bool:
    if clock.scheduler.reservations is None:
        return final_slots(request) <= clock.num_slots
    return clock.scheduler.reservations.kv.fits_when_empty(clock.scheduler.reservations.num_slots(request), 1)


def result(clock: ReplayClock, num_requests: int, num_refused: int = 0) -> PolicyResult:
    """The result of a clock that has run; over the whole run if it was too short to have a steady part."""
    steady = clock.steady if clock.steady is not None and clock.steady.steps > 0 else clock.total
    return PolicyResult(
        policy=clock.case.policy,
        batching=clock.case.batching,
        block_size=clock.block_size,
        prefix_caching=clock.case.prefix_caching,
        shares=steady.shares(clock.num_slots),
        mean_batch=steady.sequence_steps / max(1, steady.steps),
        num_requests=num_requests,
        num_steps=clock.total.steps,
        num_preemptions=clock.scheduler.preemptions.count,
        seconds=clock.seconds,
        output_tokens_per_second=steady.output_tokens / steady.seconds if steady.seconds else 0.0,
        details=_details(clock, steady, num_refused),
    )


def _details(clock: ReplayClock, steady: SlotSums, num_refused: int) -> dict[str, float]:
    return {
        "steady_steps": steady.steps,
        "steady_seconds": steady.seconds,
        "num_refused": num_refused,
        "prefill_tokens_cached": clock.scheduler.num_cached_prompt_tokens,
        "tokens_recomputed": clock.scheduler.preemptions.num_tokens_lost,
    }
