"""A step as plain data: blocks to move, tokens to run, tokens to sample; and the step's results."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

from pagecli.core.outputs import TokenLogprobs, TokenScore
from pagecli.core.sampling_params import SamplingParams
from pagecli.core.token_masks import MaskSource

MAX_SCORES = 256  # tokens scored in a step, where their logits take no more than MAX_SCORE_BYTES
MAX_SCORE_BYTES = 64 << 20


class MoveKind(Enum):
    COPY = "copy"  # cache block -> cache block
    SWAP_OUT = "swap out"  # cache block -> swap block
    SWAP_IN = "swap in"  # swap block -> cache block


@dataclass(frozen=True, slots=True)
class BlockMove:
    """All layers' K and V of block `source` go to block `target`; later moves see what earlier ones did."""

    kind: MoveKind
    source: int
    target: int


NO_TOKEN = -1  # chosen where no token can be: a logit is NaN or +inf, or all are -inf


def max_scores(vocab_size: int) -> int:
    """Tokens that a step scores at most, beside those that it chooses: so many rows of float32 logits are bounded in bytes."""
    return min(MAX_SCORES, max(16, MAX_SCORE_BYTES // (4 * vocab_size)))


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """Everything that choosing a sequence's next token depends on; no field depends on the batch."""

    params: SamplingParams
    row_key: int
    sample: int
    known_token_ids: list[int]  # prompt and output so far
    num_prompt_tokens: int
    forbidden_ids: tuple[int, ...]  # end and stop tokens while output is shorter than min_tokens
    num_candidates: int = 0  # of a beam: how many of the most likely next tokens are wanted; 0: one token is chosen
    mask: MaskSource | None = None  # the tokens to choose among; None: all. The specs of one chunk have one source
    is_plain: bool = field(init=False)  # one token by the logits, the mask and the draw; no log probabilities are wanted
    needs_no_host: bool = field(init=False)  # the choice depends on the logits and the draw alone, not on earlier tokens
    is_argmax: bool = field(init=False)  # the most likely of the allowed tokens; no log probabilities are wanted
    needs_last_token: bool = field(init=False)  # the host has to know the sequence's last token before it asks for the next

    def __post_init__(self) -> None:
        params = self.params
        needs_host = params.wants_logprobs or params.has_penalties or self.forbidden_ids or self.num_candidates
        object.__setattr__(self, "is_plain", not needs_host)
        object.__setattr__(self, "needs_no_host", not needs_host and self.mask is None)
        object.__setattr__(self, "is_argmax", params.greedy and not needs_host)
        object.__setattr__(self, "needs_last_token", self.mask is not None or params.no_repeat_ngram_size > 0)

    @property
    def position(self) -> int:
        """Index of the output token being chosen."""
        return len(self.known_token_ids) - self.num_prompt_tokens


@dataclass(frozen=True, slots=True)
class ScoreSpec:
    """Given tokens whose log probabilities are wanted: token_ids[i] follows the chunk's token `first` + i."""

    first: int  # the chunk's tokens from this one on give logits, up to its last if that has specs or choices
    token_ids: list[int]
    num_top: int  # the most likely tokens that are wanted beside each
    choice_ids: tuple[int, ...] = ()  # several tokens that may each follow the chunk's last one


@dataclass(frozen=True, slots=True)
class DraftSpec:
    """The chunk's tokens behind `first` are drafts: guesses of what the specs choose, one from each logits from `first` on.

    A choice counts if all drafts before it are what was chosen (Leviathan et al., ICML 2023, with a draft that is certain).
    """

    first: int


class Chunk(NamedTuple):
    """Consecutive tokens of one sequence from position `start` on; each of `specs` chooses from the last one's logits.

    A step makes one for each of its sequences; what does not change while a sequence decodes (block_ids, specs) is the same
    object from step to step.
    """

    seq_id: int
    token_ids: list[int]
    start: int
    block_ids: Sequence[int]
    specs: tuple[SampleSpec, ...]  # one; several where samples fork; none where the chunk does not reach the last known token
    num_repeated: int = 0  # tokens that had been computed before a preemption
    wanted: ScoreSpec | DraftSpec | None = None  # where logits of several tokens are

    @property
    def context_len(self) -> int:
        return self.start + len(self.token_ids)

    @property
    def num_known(self) -> int:
        """The chunk's tokens but for drafts."""
        return self.wanted.first + 1 if isinstance(self.wanted, DraftSpec) else len(self.token_ids)

    @property
    def may_have_drafts(self) -> bool:
        """Whether it chooses one token, so that others can be guessed behind it."""
        specs = self.specs
        return self.wanted is None and len(specs) == 1 and specs[0].num_candidates == 0 and specs[0].mask is None

    @property
    def num_logits(self) -> int:
        """How many of the chunk's last tokens give logits."""
        return int(bool(self.specs)) if self.wanted is None else len(self.token_ids) - self.wanted.first


make_chunk = partial(tuple.__new__, Chunk)  # of all its fields in a tuple: as Chunk(...), in half the time


@dataclass(frozen=True, slots=True)
class KVUsage:
    """The KV memory at one moment of a run. Blocks: total = used + cached + free."""

    num_blocks: int
    num_used: int
    num_requested: int  # used blocks but for what an allocator's rounding adds
    num_cached: int  # held by no sequence, kept for their content
    num_free: int
    num_shared: int  # used blocks that more than one sequence holds
    num_table_entries: int  # blocks that the same sequences would use if none were shared
    num_filled_slots: int  # slots of used blocks with a token's K and V, shared ones counted once


@dataclass(frozen=True)
class StepPlan:
    """Blocks to move, in order, before anything is written; then the chunks, in the order of their rows in the batch."""

    chunks: list[Chunk]
    moves: list[BlockMove]
    feeds: Sequence[tuple[int, int]] = ()
    """(row of this step's flat token ids, row among the previous launched step's sampled tokens): tokens the host does not
    know yet. The plan holds a placeholder 0; the runner puts the token there on the device."""
    memory: KVUsage | None = None  # with the plan's blocks reserved; None in a plan that no scheduler made
    has_wanted: bool = False  # a chunk wants logits of several tokens
    adapters: Sequence[int] = ()  # of each chunk, the index of its LoRA adapter or -1; empty: no chunk has one
    is_decode: ClassVar[bool] = False  # whether it is a DecodePlan (devices/decode_step.py)

    @cached_property
    def columns(self) -> Any:
        """A Chunk that has in each field a tuple of all chunks' values."""
        return Chunk._make(zip(*self.chunks, strict=True) if self.chunks else ((),) * len(Chunk._fields))

    @cached_property
    def seq_ids(self) -> Sequence[int]:
        """The sequence of each chunk."""
        return self.columns.seq_id

    @cached_property
    def block_ids(self) -> Sequence[Sequence[int]]:
        """The block table of each chunk."""
        return self.columns.block_ids

    @cached_property
    def asked(self) -> list[tuple[SampleSpec, ...]]:
        """The specs of the chunks that have any; read it, do not change it."""
        return list(filter(None, self.columns.specs))

    @cached_property
    def num_tokens(self) -> int:
        return sum(map(len, self.columns.token_ids))

    @cached_property
    def answered(self) -> list[Chunk]:
        """The chunks that the step gives a result for, in order; read it, do not change it."""
        if self.has_wanted:
            return [c for c in self.chunks if c.specs or c.wanted is not None]
        return self.chunks if all(self.columns.specs) else [c for c in self.chunks if c.specs]

    @cached_property
    def num_sampled(self) -> int:
        """Tokens that the step chooses."""
        return sum(map(len, self.columns.specs))

    @cached_property
    def num_repeated(self) -> int:
        """Tokens that had been computed before a preemption."""
        return sum(self.columns.num_repeated)


class SampledToken(NamedTuple):
    """A chosen token, or NO_TOKEN, with log probabilities if its request needs them."""

    token_id: int
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class BeamCandidates:
    """The most likely next tokens of one beam, best first; all with finite log probabilities. Empty: no token can be chosen."""

    token_ids: list[int]
    logprobs: list[float]


# Of one chunk that has specs: the token (or NO_TOKEN) where one is chosen, with log probabilities if wanted; one for each
# of several specs; or a beam's candidates.
Choice = int | TokenLogprobs | tuple[SampledToken, ...] | BeamCandidates


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """Of a chunk with a ScoreSpec: its tokens' scores, its choices' scores, and what its specs chose."""

    scores: list[TokenScore]
    choices: list[TokenScore]
    chosen: Choice | None


@dataclass(frozen=True, slots=True)
class DraftResult:
    """Of a chunk with a DraftSpec: what each of its specs chose, whether the drafts before it hold or not."""

    chosen: list[Choice]


StepResult = Choice | ScoreResult | DraftResult
