"""The states of a replay's KV slots, summed over its steps: exactly, also over many decode steps taken at once.

Counted when a step's tokens are in the cache and the sequences that finish in it still hold their memory:
  token states             slots with the K and V of a token that a sequence will still read, shared ones once
  reservation              slots held that their sequence will fill later
  internal fragmentation   slots held that it will never fill; all that a finished sequence of a static batch still holds
  external fragmentation   contiguous memory only: lost when a run is rounded up to a power of two; and all that is free while
                           requests wait though the batch is not full: there is no run that the first of them fits into
  free                     the rest: free, or cached and held by no sequence
A sequence of p prompt and o output tokens fills p + o - 1 slots: the last token's K and V are never stored.
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from pagecli.engine.request import Request, Sequence
from pagecli.engine.scheduling.scheduler import Scheduler
from pagecli.kv.manager import KVManager
from pagecli.profiler.recording.records import KVShares


def final_slots(request: Request) -> int:
    """Slots that each of the request's sequences will have filled at its end."""
    return request.num_prompt_tokens + request.params.max_tokens - 1


@dataclass(slots=True)
class SlotSums:
    """Sums over steps. Slots are counted once a step."""

    steps: int = 0
    seconds: float = 0.0
    sequence_steps: int = 0  # sequences in the step, summed
    output_tokens: int = 0
    filled: int = 0
    held: int = 0
    never_filled: int = 0
    lost: int = 0  # to external fragmentation

    def copy(self) -> "SlotSums":
        return replace(self)

    def since(self, earlier: "SlotSums") -> "SlotSums":
        """What was added after `earlier`, a copy taken then."""
        return SlotSums(*(getattr(self, name) - getattr(earlier, name) for name in self.__slots__))

    def shares(self, num_slots: int) -> KVShares:
        """Means over the steps, in percent of `num_slots`."""
        if self.steps == 0:
            return KVShares(0.0, 0.0, 0.0, 0.0, 100.0)
        percent = 100 / (self.steps * num_slots)
        filled, never, lost = self.filled * percent, self.never_filled * percent, self.lost * percent
        reserved = (self.held - self.filled - self.never_filled) * percent
        return KVShares(filled, reserved, never, lost, max(0.0, 100 - filled - reserved - never - lost))


class SlotLedger:
    """Adds up a scheduler's slots: one step after it has run, or k decode steps from the state before them."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.sums = SlotSums()
        self._scheduler = scheduler
        self._kv = scheduler.kv
        self._paged = isinstance(scheduler.kv, KVManager)

    def add_step(self) -> None:
        """Count the slots as they are now, once."""
        held = self._kv.num_used_blocks * self._kv.block_size
        ended_filled, ended_held = self._ended()
        running = self._scheduler.running
        self.sums.filled += self._kv.num_filled_slots - ended_filled
        self.sums.held += held
        self.sums.never_filled += ended_held + (self._tails(running) if self._paged else self._surplus(running))
        self.sums.lost += self._lost()

    def _lost(self) -> int:
        """Slots of contiguous memory that no request can have: what runs are rounded up by, what waiting ones cannot use."""
        if self._paged:
            return 0
        scheduler, pool = self._scheduler, self._kv.pool
        lost = pool.num_used - self._kv.num_used_blocks
        num_places = sum(r.max_live + len(r.leaving) for r in scheduler.running) + len(scheduler.ended)
        memory_is_the_limit = scheduler.limits.batching != "none" and num_places < scheduler.limits.max_num_seqs
        if scheduler.num_waiting and memory_is_the_limit:
            lost += pool.num_free
        return lost * self._kv.block_size

    def _ended(self) -> tuple[int, int]:
        """(filled slots, slots) that finished sequences of a static batch hold and no other sequence does."""
        if not self._scheduler.ended:
            return 0, 0
        size, filled, held = self._kv.block_size, 0, 0
        holders = (
            Counter(block for s in self._scheduler.ended for block in self._kv.block_table(s.seq_id)) if self._paged else {}
        )
        for sequence in self._scheduler.ended:
            table = self._kv.block_table(sequence.seq_id)
            if not self._paged:
                filled, held = filled + sequence.num_computed, held + len(table) * size
                continue
            for at, block in enumerate(table):
                if holders.pop(block, 0) == self._kv.pool.ref_count(block):
                    filled, held = filled + min(size, sequence.num_computed - at * size), held + size
        return filled, held

    def _surplus(self, running: list[Request]) -> int:
        """Reserved slots beyond what the sequences, and those still to be forked, will fill."""
        assert self._scheduler.reservations is not None
        size = self._kv.block_size
        total = 0
        for request in running:
            each = self._kv.num_blocks_for(self._scheduler.reservations.num_slots(request)) * size - final_slots(request)
            # Finished samples of a running request have released theirs, unless the batch is static.
            total += each * (request.max_live + len(request.leaving))
        return total

    def _tails(self, running: list[Request]) -> int:
        """Slots past the end in last blocks, which their sequence holds and will not fill; a block still shared counts once."""
        size, seen = self._kv.block_size, set()
        total = 0
        for request in running:
            final = final_slots(request)
            for sequence in request.live + request.leaving:
                if not self._kv.has_table(sequence.seq_id):
                    continue
                table = self._kv.block_table(sequence.seq_id)
                past_end = len(table) * size - final
                if past_end > 0 and table[-1] not in seen:
                    total += past_end
                    seen.add(table[-1])
        return total

    def add_decodes(self, before: "DecodeState", num_steps: int) -> None:
        """Count `num_steps` steps in each of which every sequence of `before` adds a token, and nothing else happens."""
        k, n = num_steps, len(before.computed)
        self.sums.filled += k * before.filled + n * (k * (k + 1) // 2)
        self.sums.never_filled += k * before.ended_held
        self.sums.lost += k * before.lost
        if not self._paged:
            self.sums.held += k * before.used_blocks * self._kv.block_size
            self.sums.never_filled += k * before.surplus
            return
        size, start = self._kv.block_size, before.computed
        blocks = sum_of_blocks(start + k, size) - sum_of_blocks(start, size) - k * -(-start // size)
        self.sums.held += (k * before.used_blocks + int(blocks.sum())) * size
        last_block_starts = (before.final - 1) // size * size
        past_end = last_block_starts + size - before.final
        self.sums.never_filled += int((past_end * np.clip(start + k - last_block_starts, 0, k)).sum())

    def decode_state(self, sequences: list[Sequence]) -> "DecodeState":
        """What add_decodes needs, of these running sequences, all of which are one token behind."""
        ended_filled, ended_held = self._ended()
        return DecodeState(
            np.array([s.num_computed for s in sequences], dtype=np.int64),
            np.array([final_slots(s.request) for s in sequences], dtype=np.int64),
            self._kv.num_filled_slots - ended_filled,
            self._kv.num_used_blocks,
            ended_held,
            0 if self._paged else self._surplus(self._scheduler.running),
            self._lost(),
        )


@dataclass(frozen=True, slots=True)
class DecodeState:
    """The cache before decode steps that are taken at once."""

    computed: np.ndarray  # [sequences] slots filled
    final: np.ndarray  # [sequences] slots filled at the end
    filled: int  # slots, all together
    used_blocks: int
    ended_held: int  # slots of finished sequences of a static batch
    surplus: int  # reserved slots that will never be filled
    lost: int  # slots, to external fragmentation


def sum_of_blocks(num_slots: np.ndarray, block_size: int) -> np.ndarray:
    """ceil(1 / block_size) + ceil(2 / block_size) + ... + ceil(num_slots / block_size)."""
    whole, rest = np.divmod(num_slots, block_size)
    return block_size * whole * (whole + 1) // 2 + rest * (whole + 1)
