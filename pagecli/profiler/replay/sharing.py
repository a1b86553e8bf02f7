"""Blocks that samples and beams of one prompt save by sharing: the real manager forks, copies on write and counts.

A model decides which beams survive; here candidates' log probabilities are drawn, so that beams part and meet as they would
with a model that is neither sure nor lost. What samples save depends on lengths alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pagecli.core.sampling_params import SamplingParams
from pagecli.core.step_plan import BeamCandidates, Chunk, StepResult
from pagecli.engine.request import Request
from pagecli.profiler.replay.replay_clock import Arrival, ReplayCase, ReplayClock, ReplaySettings, StepTimer
from pagecli.profiler.workloads.workloads import Workload

WIDTHS = (2, 4, 6)  # of the paper's figure 15
MAX_REQUESTS = 16  # every step is taken, of every sample: a part of a workload is enough for a mean
CANDIDATE_SPREAD = 2.0  # standard deviation of the scores whose softmax the candidates' probabilities are
SCORED_TOKENS = 256  # tokens that get a score, of which the best are candidates


@dataclass(frozen=True, slots=True)
class SharingResult:
    """One way of decoding with so many sequences a request."""

    decoding: str  # "samples" or "beams"
    width: int
    saved_percent: float  # of the blocks that would be used if none were shared, mean over steps
    num_copies: int  # blocks copied on write
    num_requests: int


class SharingClock(ReplayClock):
    """Steps one by one, and the blocks saved in each, as `--stats` counts them (kv_sharing_saving)."""

    def __init__(self, settings: ReplaySettings, timer: StepTimer) -> None:
        super().__init__(ReplayCase("paged"), replace(settings, fast_forward=False), timer)
        self.saved_sum = 0.0
        self._rng = np.random.default_rng(0)

    def choose(self, chunk: Chunk) -> StepResult:
        num_candidates = chunk.specs[0].num_candidates
        if not num_candidates:
            return super().choose(chunk)
        scores = self._rng.normal(0, CANDIDATE_SPREAD, SCORED_TOKENS)
        scores -= np.log(np.exp(scores).sum())
        best = np.argsort(-scores)[:num_candidates]
        return BeamCandidates(best.tolist(), scores[best].tolist())

    def planned(self) -> None:
        kv = self.scheduler.kv
        self.saved_sum += 1 - kv.num_used_blocks / kv.num_table_entries


def sharing(
    workload: Workload, settings: ReplaySettings, timer: StepTimer, widths: Sequence[int] = WIDTHS
) -> list[SharingResult]:
    """The saving of the workload's first requests as samples and as beams of each width; those that never fit left out."""
    results = []
    for decoding in ("samples", "beams"):
        for width in widths:
            clock = SharingClock(settings, timer)
            requests = _requests(workload, decoding, width, clock.num_slots)
            clock.run(requests)
            saved = 100 * clock.saved_sum / max(1, clock.total.steps)
            results.append(SharingResult(decoding, width, saved, clock.scheduler.kv.num_copy_on_write, len(requests)))
    return results


def _requests(workload: Workload, decoding: str, width: int, num_slots: int) -> list[Arrival]:
    arrivals = []
    for i, one in enumerate(workload.requests[:MAX_REQUESTS]):
        if width * (one.prompt_tokens + one.output_tokens + 16) > num_slots:
            continue
        shared = {"n": width} if decoding == "samples" else {"beam_width": width, "early_stopping": "never"}
        params = SamplingParams(max_tokens=one.output_tokens, ignore_eos=True, **shared)
        arrivals.append(Arrival(0.0, Request(i, [0] * one.prompt_tokens, params, row_key=i)))
    return arrivals
