"""Steps whose results the host does not have yet: who writes memory in them, and which tokens they will bring.

A step that was launched will have computed its tokens when the next one starts, so planning takes them for computed. What it
chose is not known: each sequence that it chooses one token for gets a PLACEHOLDER as its last token, which the next step is fed
on the device and which commit() replaces.
"""

from dataclasses import dataclass, field

from pagecli.core.step_plan import StepPlan
from pagecli.engine.request import Sequence
from pagecli.kv.memory import KVMemory

PLACEHOLDER = 0


class MemoryIsShort(Exception):
    """Somebody must be preempted, and a step in flight may still write what they hold: it is to be committed first."""


def feeding_rows(plan: StepPlan) -> dict[int, int]:
    """seq_id -> row among the plan's sampled tokens, of the sequences that it chooses exactly one token for.

    Sequences that fork, and beams, have nothing to go on with before commit(): they sit out the step planned meanwhile.
    """
    rows, row = {}, 0
    for chunk in plan.chunks:
        if len(chunk.specs) == 1 and chunk.specs[0].num_candidates == 0:
            rows[chunk.seq_id] = row
        row += len(chunk.specs)
    return rows


@dataclass(slots=True)
class InFlight:
    """Plans that were launched and not committed, oldest first: at most two, while the second is launched."""

    kv: KVMemory
    expected: dict[Sequence, int] = field(default_factory=dict)  # with a placeholder -> row that it is fed from
    looked_past: StepPlan | None = None  # the plan that was taken for computed
    num_ending: int = 0  # sequences whose last token is in flight, whatever it is
    _writers: list[tuple[StepPlan, set[int]]] = field(default_factory=list)  # plan, its seq_ids
    _to_free: list[int] = field(default_factory=list)  # seq_ids whose blocks a launched step may still write

    def add(self, plan: StepPlan) -> None:
        """The plan is about to be launched: what its sequences hold is not given away before it was committed."""
        if all(known is not plan for known, _ in self._writers):
            self._writers.append((plan, {chunk.seq_id for chunk in plan.chunks}))

    def look_past(self, plan: StepPlan) -> None:
        """The plan was taken for computed, and tokens of it are expected."""
        self.add(plan)
        self.looked_past = plan

    def check_may_take(self) -> None:
        """Raise MemoryIsShort if memory would be taken from a sequence that a launched step may still write for."""
        if self._writers:
            raise MemoryIsShort

    def feeds(self, lengths: dict[Sequence, int]) -> list[tuple[int, int]]:
        """StepPlan.feeds of a step of so many tokens of each sequence: an expected token is its sequence's last."""
        feeds, row = [], 0
        if self.expected:
            for sequence, num_tokens in lengths.items():
                row += num_tokens
                if sequence in self.expected:
                    feeds.append((row - 1, self.expected[sequence]))
        return feeds

    def expect(self, sequence: Sequence, row: int) -> None:
        """The sequence's next token is the one of this row."""
        sequence.token_ids.append(PLACEHOLDER)
        self.expected[sequence] = row
        self.num_ending += self.ends(sequence)

    def resolve(self, sequence: Sequence) -> None:
        """Take the placeholder away, for the token that is known now."""
        if self.expected.pop(sequence, None) is not None:
            sequence.token_ids.pop()

    def ends(self, sequence: Sequence) -> bool:
        """Whether the token in flight is the sequence's last, whatever it is."""
        return sequence in self.expected and sequence.num_output_tokens >= sequence.request.params.max_tokens

    def free(self, seq_id: int) -> None:
        """Free the sequence's blocks, as soon as no launched step may write them."""
        if any(seq_id in seq_ids for _, seq_ids in self._writers):
            self._to_free.append(seq_id)
        else:
            self.kv.free(seq_id)

    def landed(self, plan: StepPlan) -> None:
        """The plan's results are here: it writes nothing any more."""
        self._writers = [(known, seq_ids) for known, seq_ids in self._writers if known is not plan]
        if self.looked_past is plan:
            self.looked_past = None
            self.expected.clear()  # what is left belongs to sequences that ended
            self.num_ending = 0
        self._free_waiting()

    def give_up(self) -> None:
        """After a failure: nothing is in flight any more, and no placeholder will be replaced."""
        self._writers.clear()
        self.looked_past = None
        for sequence in list(self.expected):
            self.resolve(sequence)
        self.num_ending = 0
        self._free_waiting()

    def _free_waiting(self) -> None:
        waiting, self._to_free = self._to_free, []
        for seq_id in waiting:
            self.free(seq_id)
