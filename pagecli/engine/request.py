"""A request (one input row) and its sequences (one continuation each), as the scheduler and the engine keep them, and the check
that it can run at all."""

import dataclasses
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Protocol

from pagecli.core.outputs import FinishReason, TokenLogprobs, TokenScore
from pagecli.core.sampling_params import MAX_SEQUENCES, SamplingParams
from pagecli.errors import ErrorCode, RowError, short_repr

if TYPE_CHECKING:
    from pagecli.core.step_plan import SampleSpec
    from pagecli.engine.constraints.sequence_constraint import SequenceConstraint
    from pagecli.engine.generation.beam_search import BeamSearch
    from pagecli.engine.generation.stopping import StopSearch
    from pagecli.kv.memory import KVMemory

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


class Reserving(Protocol):
    """Contiguous memory for each request (scheduling/reservations.py)."""

    def check(self, num_prompt_tokens: int, params: SamplingParams) -> None: ...


@dataclass(frozen=True, slots=True)
class Admission:
    """The limits that a request has to keep: one that can never run is refused, with the sum that shows why."""

    kv: "KVMemory"
    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    reservations: "Reserving | None" = None  # of a kv_policy that is not paged
    loras: tuple[tuple[str, str], ...] = ()  # as EngineConfig has them

    def check(self, prompt_token_ids: list[int], params: SamplingParams) -> SamplingParams:
        """The parameters, max_tokens lowered to what the model's length leaves; RowError if the request can never run."""
        self._check_prompt(prompt_token_ids)
        self._check_token_ids(params)
        room = self.max_model_len - len(prompt_token_ids)
        if params.max_tokens > room:
            params = dataclasses.replace(params, max_tokens=room, min_tokens=min(params.min_tokens, room))
        self._check_fits(len(prompt_token_ids), params)
        if params.lora:
            self.adapter(params.lora)
        return params

    def adapter(self, name: str | None) -> int:
        """Index of the adapter that a request names; -1: none. Raises RowError for a name that no adapter has."""
        if not name:
            return -1
        from pagecli.engine.adapters import adapter_of

        return adapter_of(self.loras, name)

    def check_choices(self, prompt_token_ids: list[int], choices: list[list[int]], num_top: int | None) -> SamplingParams:
        """The parameters of a request that scores these continuations of the prompt; RowError if it can never run."""
        self._check_prompt(prompt_token_ids)
        if not choices or not all(choices):
            raise RowError("a continuation to score has no tokens", "give a continuation that is not empty")
        longest = max(map(len, choices))
        if len(prompt_token_ids) + longest - 1 > self.max_model_len:  # the last token is not computed
            raise RowError(
                f"prompt and continuation have {len(prompt_token_ids) + longest} tokens; the limit is {self.max_model_len + 1}",
                "shorten them, or raise --max-model-len up to what the model allows",
                ErrorCode.PROMPT_TOO_LONG,
            )
        if any(min(choice) < 0 or max(choice) >= self.vocab_size for choice in choices):
            raise RowError("a continuation has an id outside the vocabulary", f"ids must be in [0, {self.vocab_size})")
        if len(choices) > MAX_SEQUENCES:
            raise RowError(f"{len(choices)} choices are more than a row may have, {MAX_SEQUENCES}", "split the row")
        params = SamplingParams(max_tokens=longest, n=len(choices), ignore_eos=True, logprobs=num_top)
        self._check_fits(len(prompt_token_ids), params)
        return params

    def _check_prompt(self, prompt_token_ids: list[int]) -> None:
        if not prompt_token_ids:
            raise RowError("the prompt has no tokens", "give a prompt that is not empty", ErrorCode.EMPTY_PROMPT)
        if len(prompt_token_ids) >= self.max_model_len:
            raise RowError(
                f"the prompt has {len(prompt_token_ids)} tokens; the limit, with one output token, is {self.max_model_len}",
                "shorten the prompt, or raise --max-model-len up to what the model allows",
                ErrorCode.PROMPT_TOO_LONG,
            )
        if min(prompt_token_ids) < 0 or max(prompt_token_ids) >= self.vocab_size:
            raise RowError("prompt_token_ids has an id outside the vocabulary", f"ids must be in [0, {self.vocab_size})")

    def _check_token_ids(self, params: SamplingParams) -> None:
        outside = [token_id for token_id in params.stop_token_ids if token_id >= self.vocab_size]
        if outside:
            raise RowError(
                f"stop_token_ids has {short_repr(outside[0])}, which is outside the model's vocabulary",
                f"ids must be in [0, {self.vocab_size})",
            )

    def _check_fits(self, num_prompt_tokens: int, params: SamplingParams) -> None:
        width = params.num_sequences
        if width > self.max_num_seqs:
            raise RowError(
                f"{width} sequences side by side are more than a step takes, {self.max_num_seqs}",
                "raise --max-num-seqs or lower n, best_of, beam_width or the number of choices",
            )
        if self.reservations is not None:
            self.reservations.check(num_prompt_tokens, params)
            return
        num_slots = num_prompt_tokens + params.max_tokens - 1  # the last token's K and V are never stored
        shared = num_prompt_tokens // self.kv.block_size if width > 1 else 0  # whole blocks of the prompt are held once
        needed = shared + width * (self.kv.num_blocks_for(num_slots) - shared)
        total = self.kv.pool.num_blocks
        if needed > total:
            sequences = f" in each of {width} sequences" if width > 1 else ""
            raise RowError(
                f"{num_prompt_tokens} prompt and up to {params.max_tokens} output tokens{sequences} need {needed} KV blocks of "
                f"{self.kv.block_size} slots; the cache has {total}",
                "raise --kv-memory or lower max_tokens",
                ErrorCode.KV_TOO_SMALL,
            )
