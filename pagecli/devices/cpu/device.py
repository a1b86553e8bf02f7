"""The CPU as a device: weights packed for its kernels as they are read, and a runner of steps in the host's memory, which other
devices that compute there use too: block moves (copies, swaps), inputs, forward pass, choice.

values[layer]: [num_blocks, kv_heads, block_size, head_dim]; int8: head_dim + 4, a slot's scale behind its numbers
keys[layer]: the same on a GPU; on the CPU [num_blocks, kv_heads, head_dim, block_size], as its attention reads them
within a block the slots of one KV head lie side by side, so attention streams them; a block of one layer is
kv_heads * block_size * head_dim numbers, and slot s of the pool is block s // block_size, offset s % block_size
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import is_
from typing import TYPE_CHECKING

import numpy as np

from pagecli.core import arrays
from pagecli.core.arrays import Array
from pagecli.core.dtypes import CPU_DTYPES, CPU_KV_DTYPES, GPU_DTYPES, KV_BYTES, KV_SCALE_BYTES, QUANTIZED_DTYPES, check_known
from pagecli.core.model_config import ModelConfig
from pagecli.core.step_plan import BlockMove, MoveKind, SampledToken, StepResult
from pagecli.devices import memory
from pagecli.devices.base import CPU_HEAD_DIMS, KVCache, RunSettings, StepInputs, inputs_of
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.model import CpuModel
from pagecli.devices.cpu.weights import quantized_weight
from pagecli.devices.cpu.weights.packed_weight import CpuWeights, PackedExperts, PackedWeight
from pagecli.errors import UsageError
from pagecli.model.program import Program, Weight
from pagecli.model.registry import open_weights
from pagecli.model.source import ModelSource
from pagecli.model.weights.reader import WeightReader

if TYPE_CHECKING:
    from pagecli.core.step_plan import SampleSpec, StepPlan
    from pagecli.devices.base import HostModel
    from pagecli.devices.cpu.partial_products import SharedParts
    from pagecli.devices.cpu.sampler import KeptChoices
    from pagecli.devices.decode_step import KeptInputs
    from pagecli.devices.step_masks import PendingMasks

MOST_SECTIONS = 4  # of a matrix: Q, K and V, or gate and up, quantized in their own ways


class CpuDevice:
    """See devices/base.Device."""

    name = "cpu"

    @property
    def isa(self) -> str:
        return kernels.isa_name()

    def check_available(self) -> None:
        pass

    def available_bytes(self) -> int:
        return memory.available_bytes()

    def resolve_dtype(self, dtype: str) -> str:
        """ "auto" -> "bfloat16" where the kernels in use multiply bfloat16 natively, else "float32"."""
        if dtype == "auto":
            return "bfloat16" if kernels.isa_name() in ("avx512bf16", "amx", "neon_bf16") else "float32"
        if dtype not in CPU_DTYPES:
            check_known(dtype)
            raise UsageError(f"--dtype {dtype} is computed on a GPU only", "use --device cuda, or --dtype int8 or bfloat16")
        return dtype

    def check_cache(self, kv_dtype: str, block_size: int, dtype: str, head_dim: int) -> None:
        if kv_dtype not in ("auto", *CPU_KV_DTYPES):
            raise UsageError(f"--kv-dtype {kv_dtype} is for GPUs", "use --device cuda, or --kv-dtype int8")

    def load(
        self,
        source: ModelSource,
        dtype: str,
        max_batch_tokens: int,
        of_program: Callable[[Program], Program] = lambda program: program,
        shared: "SharedParts | None" = None,
    ) -> CpuModel:
        """As Device.load; `of_program`: what is loaded of the model's program (model/shards.py)."""
        if dtype not in CPU_DTYPES:
            where = "on a GPU only" if dtype in GPU_DTYPES else "nowhere"
            raise UsageError(f"dtype {dtype!r} is computed {where}", f"use {', '.join(CPU_DTYPES)}")
        if max_batch_tokens < 1:
            raise UsageError(f"max_batch_tokens is {max_batch_tokens}", "it must be at least 1")
        if source.config.head_dim not in CPU_HEAD_DIMS:
            from pagecli.devices.limits import check_computed

            check_computed(self.name, source.name, source.config)
        reader = WeightReader(open_weights(source), source.on_read)
        program = reader.program(source.config)
        reader.check_nothing_left(program)
        if source.adapters:
            from pagecli.model.adapters.adapted_program import adapted

            program = adapted(program, source.adapters)
        program = of_program(program)
        weights = packed_weights(program, reader, dtype, source.keep_quantized and dtype in QUANTIZED_DTYPES)
        return CpuModel(program, weights, max_batch_tokens, (*source.notes, *reader.notes), shared)

    def start(self, model: CpuModel, settings: RunSettings) -> "ModelRunner":
        return start(model, settings)


def packed_weights(program: Program, reader: WeightReader, dtype: str, keep: bool) -> CpuWeights:
    """Packs a program's weights as they are read, as `dtype`: peak memory is what is packed plus the tensor at hand. With
    `keep` those that are quantized in the checkpoint stay so."""
    found = CpuWeights()
    for weight in program.weights():
        packed_as = "float32" if weight.exact else dtype
        if weight.columns and weight.experts:
            found.add_experts(weight, _pack_experts(weight, reader, packed_as, keep and not weight.exact))
            reader.source.release()
        elif weight.experts:
            found.add_vector(weight, np.stack([arrays.to_float32(vector) for vector in reader.experts(weight)]))
        elif weight.columns:
            found.add_matrix(weight, _pack(weight, reader, packed_as, keep and not weight.exact))
            reader.source.release()
        else:  # norms and biases are small and always wanted exactly
            found.add_vector(weight, np.array(arrays.to_float32(reader.read(weight))))
    return found


def _pack_experts(weight: Weight, reader: WeightReader, dtype: str, keep: bool) -> PackedExperts:
    quantized = (reader.quantized_expert(weight, expert) for expert in range(weight.experts))
    kept = kernels.pack_quantized_experts(quantized, weight.experts, dtype) if keep else None
    return kernels.pack_experts(reader.experts(weight), weight.experts, dtype) if kept is None else kept


def _pack(weight: Weight, reader: WeightReader, dtype: str, keep: bool) -> list[PackedWeight]:
    quantized = reader.quantized(weight) if keep else None
    sections = [] if quantized is None else quantized.sections()
    most = 1 if weight.whole_columns else MOST_SECTIONS
    if 1 <= len(sections) <= most and all(map(quantized_weight.can_pack, sections)):
        packed = [kernels.pack_quantized(section, dtype) for section in sections]
        kept = [section for section in packed if section is not None]
        if len(kept) == len(packed):
            return kept
    return [kernels.pack_weight(reader.read(weight), dtype)]


class BlockMover:
    """Moves blocks of all layers, in the order given. `swap` has the cache's shape but for its number of blocks."""

    def __init__(self, cache: KVCache[Array], swap: KVCache[Array] | None = None) -> None:
        self.swap_seconds = 0.0
        self._planes = list(zip(cache.keys + cache.values, self._tensors(swap, cache), strict=True))

    @staticmethod
    def _tensors(swap: KVCache[Array] | None, cache: KVCache[Array]) -> list[Array]:
        return swap.keys + swap.values if swap is not None else cache.keys + cache.values

    def carry_out(self, moves: list[BlockMove]) -> None:
        """Run the moves, those of one kind that follow each other in one call for each layer's K and V."""
        for kind, group in groupby(moves, key=lambda move: move.kind):
            pairs = np.array([(move.source, move.target) for move in group], dtype=np.int64)
            started = time.perf_counter()
            for cache, swap in self._planes:
                target = swap if kind is MoveKind.SWAP_OUT else cache
                source = swap if kind is MoveKind.SWAP_IN else cache
                kernels.copy_blocks(target, source, pairs)
            if kind is not MoveKind.COPY:
                self.swap_seconds += time.perf_counter() - started


Allocate = Callable[[ModelConfig, int, int, str], KVCache[Array]]  # config, num_blocks, block_size, kv_dtype


@dataclass(frozen=True, slots=True)
class PendingStep:
    """A step that was launched; here it has run already."""

    results: list[StepResult]
    times: tuple[float, float, float]


class ModelRunner:
    """Holds the model, its KV cache and its swap pool, and nothing of the scheduler."""

    is_asynchronous = False  # a step has run when launch() returns

    def __init__(
        self, model: "HostModel", kv_cache: KVCache[Array], block_size: int, swap: KVCache[Array] | None = None
    ) -> None:
        self.model = model
        self.kv_cache = kv_cache
        self.block_size = block_size
        self.num_blocks = kv_cache.values[0].shape[0] if kv_cache.values else 0
        self.mover = BlockMover(kv_cache, swap)
        self._asked = AskedOfRows()
        self._kept_choices: KeptChoices | None = None  # once logits are needed
        self.times = (0.0, 0.0, 0.0)  # time.perf_counter() when the last collected step's inputs, logits and tokens were there

    @cached_property
    def _kept_inputs(self) -> "KeptInputs":
        from pagecli.devices.decode_step import KeptInputs

        return KeptInputs(self.block_size)

    def can_pipeline(self, plan: "StepPlan") -> bool:
        return False

    def run(self, plan: "StepPlan") -> list[StepResult]:
        """Move the plan's blocks, compute its tokens, writing their K and V; one result for each chunk with specs, in order."""
        return self.collect(self.launch(plan))

    def collect(self, pending: PendingStep) -> list[StepResult]:
        """The results of a step that was launched, as of `run`."""
        self.times = pending.times
        return pending.results

    def launch(self, plan: "StepPlan") -> PendingStep:
        """Run the step, as `run`; its results are for `collect`. A plan without chunks only moves blocks."""
        if plan.moves:
            self.mover.carry_out(plan.moves)
        if not plan.num_tokens:
            return PendingStep([], (time.perf_counter(),) * 3)
        inputs = self._kept_inputs.of(plan) if plan.is_decode else inputs_of(plan, self.block_size)
        prepared = time.perf_counter()
        if plan.has_wanted:
            results, forwarded = self._several_logits(plan, inputs)
            return PendingStep(results, (prepared, forwarded, time.perf_counter()))
        specs = plan.asked
        asked = self._asked.of(specs)
        masks = self._start_masks(specs) if asked.have_masks else None
        if asked.are_argmaxes:
            token_ids = self.model.most_likely(inputs, self.kv_cache, masks)
            forwarded = time.perf_counter()
            results = token_ids.tolist() if asked.are_single else same_for_all(token_ids, specs)
        else:
            logits = self.model.forward(inputs, self.kv_cache)
            forwarded = time.perf_counter()
            results = self._choose(logits, specs, masks)
        return PendingStep(results, (prepared, forwarded, time.perf_counter()))

    def _start_masks(self, specs: "list[tuple[SampleSpec, ...]]") -> "PendingMasks | None":
        """Begin to make the masks of rows with these specs, while the layers run."""
        from pagecli.devices import step_masks

        return step_masks.start(specs, self.model.config.vocab_size)

    def _choose(self, logits: Array, specs: "list[tuple[SampleSpec, ...]]", masks: "PendingMasks | None") -> list[StepResult]:
        from pagecli.devices.cpu import sampler

        if self._kept_choices is None:
            self._kept_choices = sampler.KeptChoices()
        return sampler.choose(logits, specs, self._kept_choices, None if masks is None else masks.result())

    def _several_logits(self, plan: "StepPlan", inputs: StepInputs[Array]) -> tuple[list[StepResult], float]:
        """The results of a plan that wants logits of several tokens of a chunk, and the time when the logits were there."""
        from pagecli.devices import several_logits

        masks = self._start_masks(several_logits.specs_of_rows(plan))
        if several_logits.needs_no_logits(plan):
            token_ids = self.model.most_likely(inputs, self.kv_cache, masks)
            return several_logits.same_for_all(token_ids, plan), time.perf_counter()
        logits = self.model.forward(inputs, self.kv_cache)
        forwarded = time.perf_counter()
        return several_logits.choose(logits, plan, None if masks is None else masks.result()), forwarded


class AskedOfRows:
    """What a step's specs ask for, found anew where they are not those of the step before."""

    def __init__(self) -> None:
        self._specs: list[tuple[SampleSpec, ...]] = []
        self.are_argmaxes = self.are_single = True
        self.have_masks = False

    def of(self, specs: "list[tuple[SampleSpec, ...]]") -> "AskedOfRows":
        """`specs` must not change afterwards."""
        if specs is not self._specs and (len(specs) != len(self._specs) or not all(map(is_, specs, self._specs))):
            self._specs = specs
            # the most likely token without log probabilities: the LM head's argmax needs no logits
            self.are_argmaxes = all(spec.is_argmax for row in specs for spec in row)
            self.are_single = all(len(row) == 1 for row in specs)
            self.have_masks = any(row[0].mask is not None for row in specs)
        return self


def same_for_all(token_ids: Array, specs: "list[tuple[SampleSpec, ...]]") -> list[StepResult]:
    """token_ids[R] as results: of a row's specs, each the row's token."""
    pairs = zip(token_ids.tolist(), specs, strict=True)
    return [token_id if len(row) == 1 else (SampledToken(token_id),) * len(row) for token_id, row in pairs]


def allocate(config: ModelConfig, num_blocks: int, block_size: int, dtype: str) -> KVCache[Array]:
    """A cache of `num_blocks` blocks in the host's memory, which the operating system gives it page by page, when slots are
    first written; dtype: one of CPU_KV_DTYPES."""
    slot_size = config.head_dim + KV_SCALE_BYTES.get(dtype, 0) // KV_BYTES[dtype]
    shape = (num_blocks, config.num_kv_heads, block_size, slot_size)
    keys_shape = (*shape[:2], slot_size, block_size)
    keys = [arrays.empty(keys_shape, arrays.stored_as(dtype)) for _ in range(config.num_layers)]
    values = [arrays.empty(shape, arrays.stored_as(dtype)) for _ in range(config.num_layers)]
    return KVCache(keys, values)


def start(model: "HostModel", settings: RunSettings, make: Allocate | None = None) -> ModelRunner:
    """A runner whose cache and swap pool `make` allocates in the host's memory; by default as `allocate`."""
    block_size, kv_dtype = settings.block_size, settings.kv_dtype
    bytes_each = memory.block_bytes(model.config, block_size, kv_dtype)
    useful = memory.most_useful_blocks(settings.max_num_seqs, settings.max_model_len, block_size)
    num_blocks = memory.num_kv_blocks(settings.kv_memory_bytes, bytes_each, useful)
    make = make or allocate
    cache, swap = (make(model.config, n, block_size, kv_dtype) for n in (num_blocks, settings.num_swap_blocks))
    return ModelRunner(model, cache, block_size, swap)
