"""Counts over a run of the engine: what `--stats` writes and the closing summary shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pagecli.core.step_plan import KVUsage, StepPlan

_SHOWN = (
    *("num_requests", "prompt_tokens", "output_tokens", "num_sampled_tokens", "num_steps", "step_seconds"),
    *("num_computed_tokens", "num_recomputed_tokens", "kv_blocks_peak", "kv_slot_utilization", "kv_sharing_saving"),
)


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The engine at this moment, for progress displays."""

    num_waiting: int
    num_running: int
    kv_usage: float  # used blocks / blocks
    num_prompt_tokens: int  # of finished requests
    num_output_tokens: int  # sampled so far
    processes: Sequence[Mapping[str, Any]] = ()  # its ranks or workers, by the names that --stats has


@dataclass(slots=True)
class EngineStats:
    """Sums and peaks, updated once a step."""

    num_requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0  # in what finished requests returned
    num_sampled_tokens: int = 0  # candidates that best_of dropped and beams that ended nowhere included
    num_steps: int = 0
    num_computed_tokens: int = 0
    num_recomputed_tokens: int = 0  # of them, computed before a preemption too
    recompute_seconds: float = 0.0  # their share of their steps
    kv_blocks_peak: int = 0
    step_seconds: float = 0.0
    num_failed_steps: int = 0
    _utilization_sum: float = 0.0
    _sharing_sum: float = 0.0

    def record_step(self, plan: StepPlan, memory: KVUsage, block_size: int) -> None:
        """Add one step; `memory` after its tokens were recorded and before finished sequences leave."""
        self.num_steps += 1
        self.num_computed_tokens += plan.num_tokens
        self.num_recomputed_tokens += plan.num_repeated
        self.num_sampled_tokens += plan.num_sampled
        self.kv_blocks_peak = max(self.kv_blocks_peak, memory.num_requested)
        self._utilization_sum += memory.num_filled_slots / (memory.num_requested * block_size)
        if plan.memory is not None:  # shared are the blocks that the step is about to use, copied where they are written
            self._sharing_sum += 1 - plan.memory.num_requested / plan.memory.num_table_entries

    def record_seconds(self, plan: StepPlan, seconds: float) -> None:
        """Add what the step took, from its plan to its tokens."""
        self.step_seconds += seconds
        self.recompute_seconds += seconds * plan.num_repeated / plan.num_tokens

    def as_dict(self) -> dict[str, object]:
        """The counts by their names in the --stats file."""
        return {name: getattr(self, name) for name in _SHOWN}

    @property
    def kv_slot_utilization(self) -> float | None:
        """Mean over steps of slots that hold a token's K and V / slots in assigned blocks."""
        return self._utilization_sum / self.num_steps if self.num_steps else None

    @property
    def kv_sharing_saving(self) -> float | None:
        """Mean over steps of blocks saved by sharing / blocks without sharing (Kwon et al., SOSP 2023, section 6.3)."""
        return self._sharing_sum / self.num_steps if self.num_steps else None
