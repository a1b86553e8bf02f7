"""What one step will do, as plain data: which tokens of which sequences run, where their K and V go, who samples."""

from dataclasses import dataclass

from pagecli.engine.outputs import TokenLogprobs
from pagecli.engine.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """What choosing a sequence's next token depends on; nothing of it depends on the batch."""

    params: SamplingParams
    row_key: int
    sample: int
    known_token_ids: list[int]  # prompt and output so far
    num_prompt_tokens: int
    forbidden_ids: tuple[int, ...]  # end and stop tokens while output is shorter than min_tokens

    @property
    def position(self) -> int:
        """Index of the output token being chosen."""
        return len(self.known_token_ids) - self.num_prompt_tokens


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence from position `start` on; the last one's logits are sampled if `spec` is given."""

    seq_id: int
    token_ids: list[int]
    start: int
    block_ids: list[int]
    spec: SampleSpec | None

    @property
    def context_len(self) -> int:
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The chunks of one step, in the order of their rows in the batch."""

    chunks: list[Chunk]

    @property
    def num_tokens(self) -> int:
        return sum(len(c.token_ids) for c in self.chunks)


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The token chosen for a chunk that samples, with log probabilities if its request asked for them."""

    token_id: int
    logprobs: TokenLogprobs | None = None
