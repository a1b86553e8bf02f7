"""How much contiguous KV memory a request is given at its start, by policy; the paged policy reserves nothing.

prompt of 100, 25 output tokens:   reserve-max 2048     reserve-pow2 100 + 32     reserve-oracle 100 + 25 - 1
"""

from dataclasses import dataclass

from pagecli.core.engine_config import KVPolicy
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.request import Request
from pagecli.errors import ErrorCode, RowError
from pagecli.kv.baselines.reserved_manager import ReservedManager


def num_reserved_slots(policy: KVPolicy, num_prompt_tokens: int, max_tokens: int, max_model_len: int) -> int:
    """Slots that a sequence of the request is given (Kwon et al., SOSP 2023, section 6.1, the three Orca baselines).

    reserve-max: the longest sequence there may be. reserve-pow2: the output's length rounded up to a power of two, so at most
    twice what it needs. reserve-oracle: what it needs. The length of the output is taken to be max_tokens: exact where a
    request runs to it (ignore_eos, a replay), else an upper limit. The last token's K and V are never stored.
    """
    needed = num_prompt_tokens + max_tokens - 1
    if policy == "reserve-oracle":
        return needed
    wanted = max_model_len if policy == "reserve-max" else num_prompt_tokens + (1 << (max_tokens - 1).bit_length())
    return max(needed, min(wanted, max_model_len))


@dataclass(frozen=True, slots=True)
class Reservations:
    """Carries one policy out on the memory that a scheduler uses."""

    kv: ReservedManager
    policy: KVPolicy
    max_model_len: int

    def num_slots(self, request: Request) -> int:
        """Slots for each of the request's sequences."""
        return num_reserved_slots(self.policy, request.num_prompt_tokens, request.params.max_tokens, self.max_model_len)

    def fits(self, request: Request) -> bool:
        """Whether all of the request's sequences can be given their runs now."""
        return self.kv.fits(self.num_slots(request), request.max_live)

    def hold(self, request: Request) -> None:
        """Give them to it; its first sequence starts, the others' runs wait for their fork."""
        self.kv.hold(request.live[0].seq_id, self.num_slots(request), request.max_live)

    def check(self, num_prompt_tokens: int, params: SamplingParams) -> None:
        """Raises RowError if a request of such a prompt can never have its runs."""
        policy, width = self.policy, params.num_sequences
        if params.beam_width > 1:
            raise RowError(
                f"beams share and drop KV blocks at every token, which contiguous memory (kv_policy {policy}) cannot",
                "use --kv-policy paged for beam search",
                ErrorCode.UNSUPPORTED,
            )
        num_slots = num_reserved_slots(policy, num_prompt_tokens, params.max_tokens, self.max_model_len)
        if not self.kv.fits_when_empty(num_slots, width):
            total = self.kv.pool.num_blocks * self.kv.block_size
            raise RowError(
                f"kv_policy {policy} holds {num_slots} consecutive slots for each of {width} sequences; the cache has {total}, "
                "in runs of powers of two",
                "raise --kv-memory or lower max_tokens and --max-model-len",
                ErrorCode.KV_TOO_SMALL,
            )
