"""The seam between the engine and its device: a device takes a model's program and weights once, and returns a runner of steps.

devices/registry.py knows the devices by name.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pagecli.core.model_config import ModelConfig

if TYPE_CHECKING:
    from pagecli.core.arrays import Array
    from pagecli.core.step_plan import BlockMove, StepPlan, StepResult
    from pagecli.devices.step_inputs import KVCache, StepInputs
    from pagecli.devices.step_masks import PendingMasks
    from pagecli.model.source import ModelSource


CPU_HEAD_DIMS = range(8, 257)  # that the CPU's attention kernels take


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The engine settings that a device depends on."""

    name: str  # of the model
    block_size: int  # KV slots in a block
    kv_dtype: str
    max_num_seqs: int
    max_batch_tokens: int
    max_model_len: int
    kv_memory_bytes: int | None  # None: as much as is useful and available
    num_swap_blocks: int = 0
    cuda_graphs: bool = True


class BlockMover(Protocol):
    """Copies blocks within the KV cache, and between it and the swap pool."""

    swap_seconds: float  # of the host

    def carry_out(self, moves: "list[BlockMove]") -> None:
        """Move the blocks of all layers, in the order given, before any later step reads or writes them."""
        ...


class Runner(Protocol):
    """Runs steps on a model, with a KV cache and a swap pool of its own."""

    is_asynchronous: bool  # launch() returns before the step has run
    num_blocks: int  # of the KV cache
    mover: Any  # BlockMover
    times: tuple[float, float, float]  # perf_counter() when the last collected step's inputs, logits and tokens were there

    def can_pipeline(self, plan: "StepPlan") -> bool:
        """Whether a step may be launched behind this one before this one is collected, and be fed its tokens."""
        ...

    def launch(self, plan: "StepPlan") -> Any:
        """Move the plan's blocks and compute its tokens, writing their K and V; returns the argument of `collect`."""
        ...

    def collect(self, pending: Any) -> "list[StepResult]":
        """Wait for a step that was launched; one result for each of its chunks that has specs, in order."""
        ...


class Model(Protocol):
    """A program and its weights on a device."""

    config: ModelConfig
    weight_bytes: int
    notes: tuple[str, ...]  # what of the checkpoint was not as its config says


class HostModel(Protocol):
    """A model whose forward pass returns its results to the host."""

    config: ModelConfig
    weight_bytes: int

    def forward(self, inputs: "StepInputs[Array]", kv: "KVCache[Array]") -> "Array":
        """logits[R, vocab], float32: a view of a buffer that the next call overwrites."""
        ...

    def most_likely(self, inputs: "StepInputs[Array]", kv: "KVCache[Array]", masks: "PendingMasks | None" = None) -> "Array":
        """token_ids[R], int64: the argmax of `forward`'s logits among the allowed tokens; the logits are not stored."""
        ...


class Device(Protocol):
    name: str

    @property
    def isa(self) -> str:
        """The instruction set in use, such as "avx512" or "sm_90": between two of them bits may differ."""
        ...

    def check_available(self) -> None:
        """Raise ModelError where this machine, or this build of pagecli, does not have the device."""
        ...

    def available_bytes(self) -> int:
        """Memory that weights and a KV cache can take now."""
        ...

    def resolve_dtype(self, dtype: str) -> str:
        """ "auto" -> the type the device prefers; others as they are. Raises UsageError for those it does not have."""
        ...

    def check_cache(self, kv_dtype: str, block_size: int, dtype: str, head_dim: int) -> None:
        """Raise UsageError where K and V of a model of `dtype` cannot be kept so; kv_dtype "auto": as goes with the weights."""
        ...

    def load(self, source: "ModelSource", dtype: str, max_batch_tokens: int) -> Model:
        """Read the weights as `dtype`; steps will have up to max_batch_tokens tokens.

        Raises UsageError for a dtype that the device does not compute in, ModelError naming the file where weights are missing,
        damaged, or not those that the config describes.
        """
        ...

    def start(self, model: Any, settings: RunSettings) -> Runner:
        """A runner of a model that this device loaded; of those of one model, one may run at a time.

        Raises UsageError for settings that the device does not take, ModelError where its memory does not suffice.
        """
        ...
