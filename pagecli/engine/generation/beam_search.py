"""Beam search over one request's sequences: which continuations become beams, which hypotheses are kept, when to end.

The definition is that of transformers' generate(num_beams=k), so that results can be compared token by token: the best
max(2, 1 + number of end tokens) * k continuations are considered; finished ones among the best k become hypotheses, scored by
sum of log probabilities / output length ** length_penalty; the best k unfinished ones are the next beams.
"""

from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np

from pagecli.core.sampling_params import EarlyStopping
from pagecli.core.step_plan import BeamCandidates


class Beam(Protocol):
    """A sequence, as far as the search reads it."""

    seq_id: int
    sum_logprob: float

    @property
    def num_output_tokens(self) -> int: ...

    @property
    def output_token_ids(self) -> list[int]: ...


B = TypeVar("B", bound=Beam)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished continuation: its output tokens (the end token included) and its score."""

    output_ids: list[int]
    score: float
    ended: bool  # by an end or stop token, not by length


@dataclass(frozen=True, slots=True)
class Continuation(Generic[B]):
    """A beam of the next step: this sequence with this token, and the sum of its log probabilities."""

    parent: B
    token_id: int
    score: float


@dataclass(slots=True)
class BeamSearch(Generic[B]):
    """The search of one request. Scores are added in float32, as transformers does."""

    width: int
    length_penalty: float
    early_stopping: EarlyStopping
    end_ids: frozenset[int]
    max_tokens: int
    hypotheses: list[Hypothesis] = field(default_factory=list)  # best first, at most `width`
    _offered: dict[int, BeamCandidates] = field(default_factory=dict)

    @property
    def num_candidates(self) -> int:
        """Continuations considered in a step, and so the candidates to compute for every beam."""
        return max(2, 1 + len(self.end_ids)) * self.width

    def offer(self, sequence: B, candidates: BeamCandidates) -> None:
        """Add a beam's candidates; advance() continues when those of all beams are there."""
        self._offered[sequence.seq_id] = candidates

    def withdraw(self) -> None:
        """Drop all candidates: the beams were preempted and offer again when they have been recomputed."""
        self._offered.clear()

    def advance(self, beams: list[B]) -> list[Continuation[B]] | None:
        """The next beams, best first; empty when the search has ended; None while a beam's candidates are missing."""
        if any(beam.seq_id not in self._offered for beam in beams):
            return None
        best = self._best_continuations(beams)
        self._offered.clear()
        length = beams[0].num_output_tokens + 1
        stops = [c.token_id in self.end_ids or length >= self.max_tokens for c in best]
        running = [c for c, stop in zip(best, stops, strict=True) if not stop][: self.width]
        self._keep_hypotheses([c for c, stop in zip(best[: self.width], stops, strict=False) if stop], length)
        if not running or not self._may_improve(running[0].score, length):
            return []
        return running

    def _best_continuations(self, beams: list[B]) -> list[Continuation[B]]:
        every = []
        for beam in beams:
            candidates = self._offered[beam.seq_id]
            scores = np.float32(beam.sum_logprob) + np.array(candidates.logprobs, dtype=np.float32)
            every += [Continuation(beam, t, float(s)) for t, s in zip(candidates.token_ids, scores, strict=True)]
        return sorted(every, key=lambda c: -c.score)[: self.num_candidates]

    def _keep_hypotheses(self, finished: list[Continuation[B]], length: int) -> None:
        if self.early_stopping == "true" and len(self.hypotheses) == self.width:
            return
        for c in finished:
            output_ids = [*c.parent.output_token_ids, c.token_id]
            score = float(np.float32(c.score) / np.float32(length**self.length_penalty))
            self.hypotheses.append(Hypothesis(output_ids, score, c.token_id in self.end_ids))
        self.hypotheses = sorted(self.hypotheses, key=lambda h: -h.score)[: self.width]

    def _may_improve(self, best_running: float, length: int) -> bool:
        """Whether a running beam could still become a hypothesis, by transformers' estimate for each early stopping."""
        if len(self.hypotheses) < self.width:
            return True
        if self.early_stopping == "true":
            return False
        longest = self.early_stopping == "never" and self.length_penalty > 0
        best_possible = best_running / (self.max_tokens if longest else length) ** self.length_penalty
        return best_possible > self.hypotheses[-1].score
