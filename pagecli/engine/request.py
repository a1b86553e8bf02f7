"""A request (one input row) and its sequences (one continuation each), as the scheduler and the engine keep them."""

from dataclasses import dataclass, field
from itertools import count

from pagecli.engine.outputs import FinishReason, TokenLogprobs
from pagecli.engine.sampling_params import SamplingParams
from pagecli.engine.stopping import StopSearch

_next_seq_id = count()


@dataclass(slots=True, eq=False)
class Sequence:
    """One continuation. Its first `num_computed` tokens have their K and V in the cache; the others are still to be run.

    Prefill, chunked prefill, decoding and recomputation after preemption are one rule: the computed catch up with the known.
    """

    request: "Request"
    sample: int
    token_ids: list[int]  # prompt and output
    num_computed: int = 0
    running: bool = False  # in the batch, as opposed to waiting for its first or next turn
    finish_reason: FinishReason | None = None
    stop_search: StopSearch | None = None  # set where the request has stop strings
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    seq_id: int = field(default_factory=_next_seq_id.__next__)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.request.num_prompt_tokens

    @property
    def output_token_ids(self) -> list[int]:
        return self.token_ids[self.request.num_prompt_tokens :]

    @property
    def num_uncomputed(self) -> int:
        return len(self.token_ids) - self.num_computed


@dataclass(slots=True, eq=False)
class Request:
    """One input row: a prompt, its parameters and the sequences made from it."""

    request_id: int
    prompt_token_ids: list[int]
    params: SamplingParams
    row_key: int  # with the seed, the sample and the position: what its random draws depend on
    sequences: list[Sequence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sequences.append(Sequence(self, 0, list(self.prompt_token_ids)))

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def finished(self) -> bool:
        return all(s.finish_reason is not None for s in self.sequences)
