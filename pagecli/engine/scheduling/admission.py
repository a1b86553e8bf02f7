"""Admission check: requests that can never run are refused, with the sum that shows why."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pagecli.core.sampling_params import MAX_SEQUENCES, SamplingParams, short_repr
from pagecli.errors import ErrorCode, RowError

if TYPE_CHECKING:
    from pagecli.engine.scheduling.reservations import Reservations
    from pagecli.kv.memory import KVMemory


@dataclass(frozen=True, slots=True)
class Admission:
    """The limits that a request has to keep."""

    kv: "KVMemory"
    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    reservations: "Reservations | None" = None  # of a kv_policy that is not paged

    def check(self, prompt_token_ids: list[int], params: SamplingParams) -> SamplingParams:
        """The parameters, max_tokens lowered to what the model's length leaves; RowError if the request can never run."""
        self._check_prompt(prompt_token_ids)
        self._check_token_ids(params)
        room = self.max_model_len - len(prompt_token_ids)
        if params.max_tokens > room:
            params = dataclasses.replace(params, max_tokens=room, min_tokens=min(params.min_tokens, room))
        self._check_fits(len(prompt_token_ids), params)
        return params

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
            self._check_reservation(self.reservations, num_prompt_tokens, params)
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

    def _check_reservation(self, reservations: "Reservations", num_prompt_tokens: int, params: SamplingParams) -> None:
        policy, width = reservations.policy, params.num_sequences
        if params.beam_width > 1:
            raise RowError(
                f"beams share and drop KV blocks at every token, which contiguous memory (kv_policy {policy}) cannot",
                "use --kv-policy paged for beam search",
                ErrorCode.UNSUPPORTED,
            )
        from pagecli.engine.scheduling.reservations import num_reserved_slots

        num_slots = num_reserved_slots(policy, num_prompt_tokens, params.max_tokens, self.max_model_len)
        if not reservations.kv.fits_when_empty(num_slots, width):
            total = self.kv.pool.num_blocks * self.kv.block_size
            raise RowError(
                f"kv_policy {policy} holds {num_slots} consecutive slots for each of {width} sequences; the cache has {total}, "
                "in runs of powers of two",
                "raise --kv-memory or lower max_tokens and --max-model-len",
                ErrorCode.KV_TOO_SMALL,
            )
