"""The constraint of one sequence: its output satisfies what the row asks for, and its reasoning ends when its budget is used.

A reasoning model thinks first, unconstrained; the constraint is on what follows the marker after it.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from pagecli.core.arrays import Array
from pagecli.engine.constraints.matcher import Matcher, clear_bit, set_bit
from pagecli.engine.generation.reasoning import ReasoningMarkers


class Phase(Enum):
    """Of a sequence's output: before, inside and behind its reasoning; only an answer is constrained."""

    START = 1  # the model may begin to think
    THINKING = 2
    ANSWER = 3


@dataclass(slots=True)
class SequenceConstraint:
    """A core.token_masks.MaskSource."""

    matcher: Matcher | None  # None: any answer
    markers: ReasoningMarkers | None
    budget: int | None  # tokens of reasoning
    end_ids: tuple[int, ...]
    unending: Array  # the mask of every token but these
    min_tokens: int
    one_at_a_time: bool  # forced tokens wait for their step: their log probabilities are wanted
    phase: Phase
    num_tokens: int = 0  # of the output
    num_thinking: int = 0
    _forced: deque[int] = field(default_factory=deque)
    _has_choice: bool = False  # it is known that no token is forced now

    def fill(self, words: Array) -> bool:
        if self._find_forced():
            words[:] = 0
            set_bit(words, self._forced[0])
            return True
        if self.matcher is None:
            return False
        if self.phase is Phase.THINKING:  # the answer is still to come
            words[:] = self.unending
            return True
        self.matcher.fill(words)
        if self.phase is Phase.START:
            assert self.markers is not None
            set_bit(words, self.markers.start_id)
        if self.num_tokens < self.min_tokens:
            self._forbid_the_end(words)
        return True

    def _forbid_the_end(self, words: Array) -> None:
        """Where anything else is allowed."""
        allowed = words.copy()
        for token_id in self.end_ids:
            clear_bit(allowed, token_id)
        if allowed.any():
            words[:] = allowed

    def _next_forced(self) -> list[int]:
        if self.phase is Phase.THINKING:
            assert self.markers is not None
            return [self.markers.end_id] if self.budget is not None and self.num_thinking >= self.budget else []
        return self.matcher.forced() if self.phase is Phase.ANSWER and self.matcher is not None else []

    def take_forced(self) -> int | None:
        """The next token, where there is one whatever the model says and its log probability is not wanted."""
        if self.one_at_a_time:
            return None
        return self._forced[0] if self._find_forced() else None

    def _find_forced(self) -> bool:
        """Whether the next token is forced: the first of `_forced`."""
        if not self._forced and not self._has_choice:
            self._forced.extend(self._next_forced())
            self._has_choice = not self._forced
        return bool(self._forced)

    def consume(self, token_id: int) -> None:
        """Advance by a token of the output that is no end token."""
        self.num_tokens += 1
        self._has_choice = False
        if self._forced:
            self._forced.popleft()
        if self.phase is Phase.THINKING:
            assert self.markers is not None
            self.num_thinking += 1
            if token_id == self.markers.end_id:
                self.phase = Phase.ANSWER
            return
        if self.phase is Phase.START:
            assert self.markers is not None
            self.phase = Phase.THINKING if token_id == self.markers.start_id else Phase.ANSWER
            if self.phase is Phase.THINKING:
                return
        if self.matcher is not None:
            self.matcher.consume(token_id)

    @property
    def is_complete(self) -> bool:
        """Whether the output may end here, and no token can follow."""
        return self.phase is Phase.ANSWER and self.matcher is not None and self.matcher.is_complete

    def copy(self) -> "SequenceConstraint":
        """The same state, for a sequence that continues apart."""
        return SequenceConstraint(
            None if self.matcher is None else self.matcher.copy(),
            self.markers,
            self.budget,
            self.end_ids,
            self.unending,
            self.min_tokens,
            self.one_at_a_time,
            self.phase,
            self.num_tokens,
            self.num_thinking,
            deque(self._forced),
        )
