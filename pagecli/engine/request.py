"""A request (one input row) and its sequences (one continuation each), as the scheduler and the engine keep them."""

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from pagecli.core.outputs import FinishReason, TokenLogprobs, TokenScore
from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import RowError

if TYPE_CHECKING:
    from pagecli.core.step_plan import SampleSpec
    from pagecli.engine.constraints.sequence_constraint import SequenceConstraint
    from pagecli.engine.generation.beam_search import BeamSearch
    from pagecli.engine.generation.stopping import StopSearch

_next_seq_id = count()


@dataclass(slots=True)
class Scoring:
    """The scores that a sequence has, and which it still needs: of given_ids[first:]."""

    given_ids: list[int]  # prompt and continuation
    first: int
    num_top: int
    choice_ids: tuple[int, ...] = ()  # several tokens that may each follow the given ones
    scores: list[TokenScore] = field(default_factory=list)

    @property
    def next(self) -> int:
        """Index of the next token to score; behind the given ones where none is left."""
        return self.first + len(self.scores)

    def may_be_cached(self, token_ids: list[int]) -> list[int]:
        """The sequence's tokens as far as the cache may give their K and V: but for the last of these."""
        return token_ids[: self.next] if self.next < len(self.given_ids) or self.choice_ids else token_ids

    def num_logits(self, start: int, num_tokens: int) -> int:
        """How many of the sequence's `num_tokens` tokens from `start` on give logits for scores."""
        end = min(start + num_tokens, len(self.given_ids) - (not self.choice_ids))
        return max(0, end - max(start, self.next - 1))


@dataclass(slots=True, eq=False)
class Sequence:
    """One continuation. Its first `num_computed` tokens have their K and V in the cache; the others are still to be run.

    Prefill, chunked prefill, decoding and recomputation after preemption are one rule: the computed catch up with the known.
    """

    request: "Request"
    sample: int
    token_ids: list[int]  # prompt and output
    num_computed: int = 0
    num_lost: int = 0  # of its first tokens, how many a preemption dropped: computed before, to be computed again
    finish_reason: FinishReason | None = None
    specs: "tuple[SampleSpec, ...]" = ()  # what is chosen from its logits, once that stays the same to its end
    stop_search: "StopSearch | None" = None  # set where the request has stop strings
    constraint: "SequenceConstraint | None" = None  # set where not every token may follow another
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    sum_logprob: float = 0.0  # of the output tokens, where best_of or beam search needs it
    scoring: Scoring | None = None  # set while log probabilities of given tokens are wanted
    draft_state: object = None  # what the drafter knows of it
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

    def fork(self, sample: int) -> "Sequence":
        """A copy of the sequence that continues independently. Its KV slots are not copied: KVManager.fork() shares them."""
        stop_search = self.stop_search.copy() if self.stop_search else None
        return Sequence(
            self.request,
            sample,
            list(self.token_ids),
            self.num_computed,
            stop_search=stop_search,
            constraint=self.constraint.copy() if self.constraint else None,
            logprobs=list(self.logprobs),
            sum_logprob=self.sum_logprob,
        )


@dataclass(slots=True, eq=False)
class Request:
    """One input row: a prompt, its parameters and the sequences made from it.

    It starts with one sequence. When that one's prompt is computed, the others are forked from it: samples, or beams.
    """

    request_id: int
    prompt_token_ids: list[int]
    params: SamplingParams
    row_key: int  # with the seed, the sample and the position: what its random draws depend on
    live: list[Sequence] = field(default_factory=list)  # unfinished sequences
    done: list[Sequence] = field(default_factory=list)  # finished ones
    leaving: list[Sequence] = field(default_factory=list)  # finished or dropped ones whose blocks are still held
    running: bool = False  # in the batch, as opposed to waiting for its first or next turn
    forked: bool = False
    beam_search: "BeamSearch[Sequence] | None" = None
    prefix_hashes: list[bytes] = field(default_factory=list)  # of the prompt's full blocks
    end_ids: frozenset[int] = frozenset()  # every token that ends a sequence, once min_tokens are there
    failure: RowError | None = None  # why it ended without output
    num_failures: int = 0  # steps that failed while it ran alone
    adapter: int = -1  # index of its LoRA adapter; -1: none
    choices: tuple[list[int], ...] = ()  # continuations to score; then no token is chosen
    prompt_scores: list[TokenScore] | None = None

    max_num_tokens: int = field(init=False)  # of a sequence, prompt and output

    def __post_init__(self) -> None:
        if not self.live:
            self.live.append(Sequence(self, 0, list(self.prompt_token_ids)))

        self.max_num_tokens = len(self.prompt_token_ids) + self.params.max_tokens

    @property
    def variant(self) -> bytes:
        """What its K and V depend on beside its tokens."""
        return b"" if self.adapter < 0 else b" lora %d" % self.adapter

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def max_live(self) -> int:
        """How many sequences it may have in a step from now on."""
        return len(self.live) if self.forked and self.beam_search is None else self.params.num_sequences

    @property
    def seq_ids(self) -> list[int]:
        return [s.seq_id for s in self.live]

    @property
    def finished(self) -> bool:
        return not self.live
