"""The seam between the engine and its device: a device takes a model's program and weights once, and returns a runner of steps.

A step's inputs are plain arrays (numpy's on the CPU, torch's tensors on a GPU), passed as an argument, never a global.
A device's modules are imported when it is looked up by its name: those of GPUs take seconds.
"""

import importlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.engine_config import EngineConfig
from pagecli.core.model_config import ModelConfig
from pagecli.errors import ModelError, UsageError

if TYPE_CHECKING:
    from pagecli.core.step_plan import BlockMove, StepPlan, StepResult
    from pagecli.devices.step_masks import PendingMasks
    from pagecli.model.source import ModelSource

T = TypeVar("T")  # of arrays

CPU_HEAD_DIMS = range(8, 257)  # that the CPU's attention kernels take
_OWN = {
    "cpu": ("pagecli.devices.cpu.device", "CpuDevice"),
    "cuda": ("pagecli.devices.cuda.device", "CudaDevice"),
    "transformers": ("pagecli.devices.transformers_modules.device", "TransformersDevice"),
    "reference": ("pagecli.devices.reference.device", "ReferenceDevice"),
}
_made: "dict[str, Device]" = {}
_registered: "dict[str, Callable[[], Device]]" = {}


@dataclass(frozen=True, slots=True)
class StepInputs(Generic[T]):
    """Tokens [T] of S sequences, concatenated; R of the tokens need logits."""

    token_ids: T  # [T] int32
    positions: T  # [T] int32, position of the token in its sequence
    slot_ids: T  # [T] int64, KV slot the token's K and V are written to
    block_tables: T  # [S, max_blocks] int32
    context_lens: T  # [S] int32, tokens in the cache after this step's writes
    query_start: T  # [S + 1] int32, rows of sequence s are query_start[s]:query_start[s + 1]
    logit_rows: T  # [R] int64, rows whose next-token logits are wanted
    adapter_ids: T | None = None  # [T] int32, the token's LoRA adapter or -1; None: no token has one


@dataclass(frozen=True, slots=True, weakref_slot=True)
class KVCache(Generic[T]):
    """K and V of every layer: values[layer][num_blocks, kv_heads, block_size, head_dim] (int8: + 4); keys[layer] the same on a
    GPU, on the CPU [num_blocks, kv_heads, head_dim, block_size]."""

    keys: list[T]
    values: list[T]


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

    @classmethod
    def of(cls, config: EngineConfig, **found: Any) -> "RunSettings":
        """Those of an engine; `found`: what its config leaves to be found out (kv_dtype, max_model_len, num_swap_blocks)."""
        same = ("block_size", "max_num_seqs", "max_batch_tokens", "kv_memory_bytes", "cuda_graphs")
        return cls(**{"name": config.model} | {name: getattr(config, name) for name in same} | found)


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

    def forward(self, inputs: StepInputs[Array], kv: KVCache[Array]) -> Array:
        """logits[R, vocab], float32: a view of a buffer that the next call overwrites."""
        ...

    def most_likely(self, inputs: StepInputs[Array], kv: KVCache[Array], masks: "PendingMasks | None" = None) -> Array:
        """token_ids[R], int64: the argmax of `forward`'s logits among the allowed tokens; the logits are not stored."""
        ...


class Device(Protocol):
    """What computes models: the CPU, a GPU, or another library on them."""

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


def register(name: str, make: Callable[[], Device]) -> None:
    """Register a device, in place of one of that name."""
    _registered[name] = make
    _made.pop(name, None)


def find(name: str) -> Device:
    """The device of that name, which this machine need not have. Raises UsageError for an unknown one."""
    if name not in _made:
        if name in _registered:
            _made[name] = _registered[name]()
        elif name in _OWN:
            module, kind = _OWN[name]
            _made[name] = getattr(importlib.import_module(module), kind)()
        else:
            raise UsageError(f"device {name!r} is unknown", f"use auto, {', '.join(_OWN)}")
    return _made[name]


def choose(name: str) -> Device:
    """The device to compute on; "auto": the GPU where one can be used. Raises ModelError where that is not there."""
    if name == "auto":
        from pagecli.devices.cuda.presence import may_have_gpu

        name = "cuda" if may_have_gpu() and _is_available(find("cuda")) else "cpu"
    device = find(name)
    device.check_available()
    return device


def load_model(source: "ModelSource", dtype: str, max_batch_tokens: int, device: str = "cpu") -> Model:
    """Device.load of the device of that name."""
    return find(device).load(source, dtype, max_batch_tokens)


def _is_available(device: Device) -> bool:
    try:
        device.check_available()
    except ModelError:
        return False
    return True


def inputs_of(plan: "StepPlan", block_size: int) -> StepInputs[Array]:
    """The inputs of a step of these chunks, one behind the other."""
    columns = plan.columns
    of_chunks, specs = columns.token_ids, columns.specs
    lengths = np.fromiter(map(len, of_chunks), dtype=np.int32, count=len(of_chunks))
    starts = np.array(columns.start, dtype=np.int32)
    query_start = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=query_start[1:])
    token_ids = np.fromiter(chain.from_iterable(of_chunks), dtype=np.int32, count=query_start[-1])

    block_tables = padded_tables(columns.block_ids)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.arange(len(token_ids), dtype=np.int32) + np.repeat(starts - query_start[:-1], lengths)
    slot_ids = block_tables[rows, positions // block_size].astype(np.int64) * block_size + positions % block_size
    if plan.has_wanted:
        counts = np.array([c.num_logits for c in plan.chunks], dtype=np.int64)
        ends = np.cumsum(counts)
        logit_rows = np.arange(ends[-1]) + np.repeat(query_start[1:] - ends, counts)
    else:
        logit_rows = query_start[1:].astype(np.int64) - 1
        if not all(specs):
            logit_rows = logit_rows[np.fromiter(map(bool, specs), dtype=bool, count=len(specs))]
    return StepInputs(
        token_ids=token_ids,
        positions=positions,
        slot_ids=slot_ids,
        block_tables=block_tables,
        context_lens=starts + lengths,
        query_start=query_start,
        logit_rows=logit_rows,
        adapter_ids=np.repeat(np.array(plan.adapters, np.int32), lengths) if plan.adapters else None,
    )


def padded_tables(tables: Sequence[Sequence[int]]) -> Array:
    """[S, max_blocks] int32: the tables, zeros behind them. Copied from arrays of C ints, as the KV manager keeps them."""
    lengths = list(map(len, tables))
    width = max(lengths)
    zeros = {length: bytes(4 * (width - length)) for length in set(lengths)}
    ints = [table if type(table) is array else array("i", table) for table in tables]
    flat = bytearray().join(chain.from_iterable(zip(ints, map(zeros.__getitem__, lengths), strict=True)))
    return np.frombuffer(flat, dtype=np.int32).reshape(len(tables), width)
