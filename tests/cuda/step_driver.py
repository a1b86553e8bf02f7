"""Drives a runner without an engine: sequences in blocks of their own, prompts in chunks, then one token a step. Each step is
collected before the next is launched, or one step later, its token fed on the device."""

from dataclasses import dataclass, field

from pagecli.core.sampling_params import SamplingParams
from pagecli.core.step_plan import BlockMove, Chunk, SampleSpec, StepPlan


@dataclass
class DrivenSequence:
    seq_id: int
    tokens: list[int]
    params: SamplingParams
    block_ids: list[int]
    num_prompt: int = 0
    computed: int = 0

    def __post_init__(self) -> None:
        self.num_prompt = len(self.tokens)

    def chunk(self, most: int = 100) -> Chunk:
        tokens = self.tokens[self.computed : self.computed + most]
        last = self.computed + len(tokens) == len(self.tokens)
        spec = SampleSpec(self.params, self.seq_id, 0, list(self.tokens), self.num_prompt, ())
        chunk = Chunk(self.seq_id, tokens, self.computed, list(self.block_ids), (spec,) if last else ())
        self.computed += len(tokens)
        return chunk


@dataclass
class StepDriver:
    runner: object
    pipelined: bool
    found: dict[int, list[int]] = field(default_factory=dict)
    _pending: tuple[object, list[DrivenSequence]] | None = None
    _places: dict[int, int] = field(default_factory=dict)  # sequence -> row among the sampled tokens of the step before

    def step(self, chunks: list[tuple[DrivenSequence, Chunk]], moves: list[BlockMove] = ()) -> None:
        """Launch a step of these chunks; `tokens[-1]` of a sequence that waits for its token is a placeholder."""
        feeds, row, places = [], 0, {}
        for sequence, chunk in chunks:
            row += len(chunk.token_ids)
            if sequence.seq_id in self._places:
                feeds.append((row - 1, self._places[sequence.seq_id]))
            if chunk.specs:
                places[sequence.seq_id] = len(places)
        pending = self.runner.launch(StepPlan([chunk for _, chunk in chunks], list(moves), tuple(feeds)))
        before, self._pending = self._pending, (pending, [s for s, chunk in chunks if chunk.specs])
        self._places = places if self.pipelined else {}
        for sequence in self._pending[1]:
            sequence.tokens.append(0)
        if before is not None:
            self._collect(*before)
        if not self.pipelined:
            self.finish()

    def finish(self) -> dict[int, list[int]]:
        if self._pending is not None:
            self._collect(*self._pending)
        self._pending, self._places = None, {}
        return self.found

    def _collect(self, pending: object, sequences: list[DrivenSequence]) -> None:
        for sequence, result in zip(sequences, self.runner.collect(pending), strict=True):
            token_id = result if isinstance(result, int) else result.token_id
            at = sequence.num_prompt + len(self.found.setdefault(sequence.seq_id, []))
            assert sequence.tokens[at] == 0
            sequence.tokens[at] = token_id
            self.found[sequence.seq_id].append(token_id)
