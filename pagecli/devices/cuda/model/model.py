"""A program on a GPU: each operation bound to its weights once. GEMMs by torch, all else by the kernels; activations are of the
model's type."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from pagecli.core.arrays import Array
from pagecli.devices.base import KVCache, StepInputs
from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.model import prompt_attention
from pagecli.devices.cuda.model.adapters import CudaLowRank, num_adapters_of, tiles_of
from pagecli.devices.cuda.model.attention import AttentionPlan, attention_shape, paged_attention, plan_attention
from pagecli.devices.cuda.model.fused import (
    AddNorm,
    CudaOperation,
    InFloat8,
    PositionedEmbedding,
    PreparedAttention,
    fuse,
    last_uses,
    with_float8,
)
from pagecli.devices.cuda.model.linear import CudaFloat8Linear, float8_room, logits
from pagecli.devices.cuda.model.mixture import bind_mixture
from pagecli.devices.cuda.model.prompt_attention import PromptRows
from pagecli.devices.cuda.model.weights import CudaWeights
from pagecli.devices.cuda.streams import Gpu
from pagecli.devices.rotary_table import rotations_of, table_of
from pagecli.model import program as ops
from pagecli.model.program import Program


@dataclass(frozen=True, slots=True)
class CudaStep:
    """A step's inputs on the GPU, and the plan of its attention for each sliding window of the model."""

    inputs: StepInputs[torch.Tensor]
    plans: dict[int, AttentionPlan]
    prompts: PromptRows | None = None  # rows that the plans leave to prompt_attention
    prompt_starts: torch.Tensor | None = None  # [n + 1] int32, of those rows
    adapter_tiles: torch.Tensor | None = None  # rows by their LoRA adapters (model/adapters.py); None: no row has one


@dataclass(frozen=True, slots=True)
class _Step:
    """What the bound operations of one step read and write."""

    given: CudaStep
    inputs: StepInputs[torch.Tensor]
    plans: dict[int, AttentionPlan]
    kv: KVCache[torch.Tensor]
    cos_sin: torch.Tensor
    logits: torch.Tensor
    values: dict[str, torch.Tensor] = field(default_factory=dict)
    row_scales: dict[str, torch.Tensor] = field(default_factory=dict)  # of the values in 8-bit floats
    routes: dict[str, kernels.SortedRows] = field(default_factory=dict)  # of a router's ids


_Bound = Callable[[_Step], object]


class CudaModel:
    """A loaded model; `compute` is one step, and a CUDA graph may hold it."""

    def __init__(
        self,
        program: Program,
        weights: CudaWeights,
        gpu: Gpu,
        notes: tuple[str, ...] = (),
        all_reduce: Callable[[torch.Tensor], None] | None = None,
    ) -> None:
        """`all_reduce`: of one rank of several."""
        self.notes, self._all_reduce = notes, all_reduce
        config = self.config = program.config
        self.gpu = gpu
        self.program, self.place, self.dtype = program, weights.place, weights.dtype
        shape = attention_shape(config.num_heads, config.num_kv_heads, config.head_dim, weights.dtype)
        attentions = [operation for operation in program.operations() if isinstance(operation, ops.Attention)]
        leaves_prompts = prompt_attention.is_on(weights.dtype) and all(operation.sinks is None for operation in attentions)
        self.attention_shape = replace(shape, leaves_prompts=leaves_prompts)
        self.windows = tuple(sorted({operation.window for operation in attentions}))
        self.num_adapters = num_adapters_of(program.operations())
        self.weight_bytes = weights.num_bytes
        self._weights = weights
        self._rotary = table_of(program, lambda weight: weights.tensor(weight).cpu().numpy())
        self._rotations = rotations_of(program)
        self._cos_sin = torch.empty(0, 0)
        operations = with_float8(fuse(program), lambda linear: isinstance(weights.linear(linear), CudaFloat8Linear))
        self._bound = list(zip((self._bind(operation) for operation in operations), last_uses(operations), strict=True))

    def compute(self, step: CudaStep, kv: KVCache[torch.Tensor], out: torch.Tensor) -> None:
        """out[R, vocab] (float32) = the logits of a step whose inputs lie on the GPU: queues work, waits for nothing."""
        running = _Step(step, step.inputs, step.plans, kv, self._cos_sin, out)
        for call, ended in self._bound:
            call(running)
            for name in ended:
                running.values.pop(name, None)
                running.row_scales.pop(name, None)

    def reserve_positions(self, num_positions: int) -> None:
        """Make the rotary table, which grows with the context, as large as it will ever be needed: graphs hold on to it."""
        if self._rotary is not None and num_positions > self._cos_sin.shape[0]:
            self._cos_sin = torch.from_numpy(self._rotary.up_to(num_positions)).to(self.place)

    def forward(self, inputs: StepInputs[Array], kv: KVCache[torch.Tensor]) -> torch.Tensor:
        """logits[R, vocab]: `compute` for inputs on the CPU."""
        context_lens, query_start = inputs.context_lens, inputs.query_start
        self.reserve_positions(int(context_lens.max()))
        plans = {w: plan_attention(context_lens, query_start, self.attention_shape, self.place, w) for w in self.windows}
        arrays = {name: getattr(inputs, name) for name in StepInputs.__slots__}
        moved = {name: torch.from_numpy(array).to(self.place) for name, array in arrays.items() if array is not None}
        adapter_ids, tiles = inputs.adapter_ids, None
        if adapter_ids is not None and (adapter_ids >= 0).any():
            tiles = torch.from_numpy(tiles_of(adapter_ids)).to(self.place)
        out = torch.empty(inputs.logit_rows.shape[0], self.config.vocab_size, device=self.place)
        self.compute(CudaStep(StepInputs(**moved), plans, adapter_tiles=tiles), kv, out)
        return out

    def _bind(self, operation: CudaOperation, narrow: bool = False) -> _Bound:
        """`narrow`: its output is in 8-bit floats."""
        match operation:
            case InFloat8(made):
                return self._bind(made, narrow=True)
            case ops.Linear():
                return self._linear(operation, narrow)
            case ops.LowRank():
                return self._low_rank(operation)
            case ops.Norm():
                return self._norm(operation, None, narrow)
            case AddNorm(norm, added):
                return self._norm(norm, added, narrow)
            case PreparedAttention():
                return self._attention(operation)
            case ops.Embedding():
                return self._embedding(operation, None)
            case PositionedEmbedding(tokens, positions):
                return self._embedding(tokens, positions)
            case ops.Split():
                return lambda step: _split(step.values, operation)
            case ops.GatedActivation():
                return lambda step: _gate(step, operation, narrow)
            case ops.Add(out, x):
                return lambda step: step.values[out].add_(step.values[x])
            case ops.Select(out, x):
                return lambda step: step.values.__setitem__(out, step.values[x].index_select(0, step.inputs.logit_rows))
            case ops.Head():
                return self._head(operation)
            case ops.Reduce():
                return self._reduce(operation)
            case ops.Router() | ops.ExpertLinear() | ops.Combine():
                return bind_mixture(operation, self._weights)
        raise ValueError(f"GPUs have no {type(operation).__name__} by itself")

    def _linear(self, operation: ops.Linear, narrow: bool) -> _Bound:
        linear, activation = self._weights.linear(operation), operation.activation
        if operation.weight.whole_columns:
            columns = slice(operation.first_column, operation.first_column + operation.weight.columns)
            return lambda step: step.values.__setitem__(operation.out, linear(step.values[operation.x][:, columns]))
        bias = self._weights.vector(operation.bias) if activation != "none" else None

        def call(step: _Step) -> None:
            x, row_scales = step.values[operation.x], step.row_scales.get(operation.x)
            if row_scales is not None:
                assert isinstance(linear, CudaFloat8Linear)
                out = linear.of_rows(x, row_scales, self.dtype)
            else:
                out = linear(x)
            step.values[operation.out] = out
            if activation != "none":
                activated, scales = _room(step, operation.out, out.shape, self.dtype, narrow) if narrow else (out, None)
                kernels.activation(activated, out, activation, bias, scales)

        return call

    def _low_rank(self, operation: ops.LowRank) -> _Bound:
        update = CudaLowRank(operation, self.place)
        self.weight_bytes += update.num_bytes
        columns = slice(operation.first_column, operation.first_column + operation.a.shape[1])

        def call(step: _Step) -> None:
            if (tiles := step.given.adapter_tiles) is not None:
                out = step.values[operation.out][:, operation.first : operation.last]
                update(out, step.values[operation.x][:, columns], tiles)

        return call

    def _reduce(self, operation: ops.Reduce) -> _Bound:
        """The parts that are computed here, in order, then those of the other ranks; the first part is overwritten."""
        made = {each.out for each in self.program.operations() if isinstance(each, ops.Linear | ops.Combine)}
        first, *others = (part for part in operation.parts if part in made)

        def call(step: _Step) -> None:
            out = step.values[operation.out] = step.values[first]
            for part in others:
                out.add_(step.values[part])
            if self._all_reduce is not None:
                self._all_reduce(out)

        return call

    def _norm(self, norm: ops.Norm, added: str | None, narrow: bool) -> _Bound:
        """With `added`, which is added to what is normed: see AddNorm. Overwrites what it reads where that is its output."""
        weight, bias = self._weights.vector(norm.weight), self._weights.vector(norm.bias)
        weight = torch.ones(self.config.hidden_size, device=self.place) if weight is None else weight
        shift = torch.zeros_like(weight) if bias is None else bias

        def call(step: _Step) -> None:
            x, more = step.values[norm.x], step.values[added] if added is not None else None
            out, scales = (x, None) if norm.out == norm.x else _room(step, norm.out, x.shape, x.dtype, narrow)
            if x.shape[-1] != weight.shape[0]:  # of all heads together
                x = out = x.flatten(1)
            if norm.kind == "rms":
                kernels.rms_norm(out, x, weight, norm.eps, more, scales)
            else:
                kernels.layer_norm(out, x, weight, shift, norm.eps, more, scales)

        return call

    def _attention(self, operation: PreparedAttention) -> _Bound:
        attention, rotary, norms = operation.attention, operation.rotary, operation.norms
        sinks, columns, by = self._weights.vector(attention.sinks), None, None
        if rotary is not None:
            first = self._rotations[rotary.rope, rotary.factors]
            columns = slice(first, first + rotary.rope.rotary_dim)
        if norms is not None:
            of_q, of_k = (self._weights.vector(norm.weight) for norm in norms)
            assert of_q is not None
            assert of_k is not None
            by = of_q, of_k, norms[0].eps
        return lambda step: _attend(step, attention, columns, by, sinks)

    def _head(self, operation: ops.Head) -> _Bound:
        head, bias, cap = self._weights.tensor(operation.weight), self._weights.vector(operation.bias), operation.cap

        def call(step: _Step) -> None:
            logits(step.logits, step.values[operation.x], head)
            if bias is not None:
                step.logits.add_(bias)
            if cap > 0:
                step.logits.div_(cap).tanh_().mul_(cap)

        return call

    def _embedding(self, embedding: ops.Embedding, positions: ops.Embedding | None) -> _Bound:
        table = self._weights.tensor(embedding.weight)
        more = (self._weights.tensor(positions.weight), positions.offset) if positions is not None else ()

        def call(step: _Step) -> None:
            ids = getattr(step.inputs, embedding.ids)
            out = torch.empty(ids.shape[0], table.shape[1], dtype=table.dtype, device=self.place)
            step.values[embedding.out] = out
            if more:
                kernels.embedding(out, ids, table, step.inputs.positions, *more)
            else:
                kernels.embedding(out, ids + embedding.offset if embedding.offset else ids, table)
            if embedding.scale != 1.0:
                out.mul_(embedding.scale)

        return call


def _attend(
    step: _Step,
    attention: ops.Attention,
    columns: slice | None,
    norms: tuple[torch.Tensor, torch.Tensor, float] | None,
    sinks: torch.Tensor | None,
) -> None:
    """`columns`: of the rotation in the table; `norms`: the weights of queries and keys, and eps."""
    values, inputs = step.values, step.inputs
    q, k, v = values[attention.q], values[attention.k], values[attention.v]
    k_cache, v_cache = step.kv.keys[attention.layer], step.kv.values[attention.layer]
    rotation = () if columns is None else (inputs.positions, step.cos_sin[:, columns])
    if norms is not None:
        kernels.norm_rotary_store_kv(k_cache, v_cache, q, k, v, inputs.slot_ids, *norms, *rotation)
    elif rotation:
        kernels.rotary_store_kv(k_cache, v_cache, q, k, v, inputs.slot_ids, *rotation)
    else:
        kernels.store_kv(k_cache, v_cache, k, v, inputs.slot_ids)
    attended = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    plan = step.plans[attention.window]
    paged_attention(attended, q, k_cache, v_cache, inputs.block_tables, plan, attention.scale, sinks=sinks)
    if (prompts := step.given.prompts) is not None:
        rows, starts, rounds = prompts.rows, step.given.prompt_starts, k_cache.dtype != k.dtype
        assert starts is not None
        slot_ids, of_step = inputs.slot_ids[rows], (not (norms or rotation or rounds), not rounds)
        k, v = (
            x[rows] if is_there else prompt_attention.cached(cache, slot_ids, q.dtype)
            for x, cache, is_there in zip((k, v), (k_cache, v_cache), of_step, strict=True)
        )
        attended[rows] = prompt_attention.varlen(q[rows], k, v, starts, prompts.longest, attention.scale, attention.window)
    values[attention.out] = attended.flatten(1)


def _split(values: dict[str, torch.Tensor], split: ops.Split) -> None:
    x = values[split.x]
    heads = x.view(x.shape[0], -1, split.head_dim)
    values[split.q], values[split.k], values[split.v] = heads.split([split.heads, split.kv_heads, split.kv_heads], dim=1)


def _gate(step: _Step, gated: ops.GatedActivation, narrow: bool) -> None:
    x, groups = step.values[gated.x], gated.groups
    out, scales = _room(step, gated.out, (x.shape[0], x.shape[1] // 2), x.dtype, narrow)
    rows = out.view(out.shape[0] * groups, -1), x.view(x.shape[0] * groups, -1)
    kernels.gated_activation(*rows, gated.activation, None, gated.limit, gated.alpha, scales)


def _room(
    step: _Step, value: str, shape: Sequence[int], dtype: torch.dtype, narrow: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What an operation writes a value into: of `dtype`, or where it is `narrow` of 8-bit floats, and their rows' scales."""
    if not narrow:
        out = step.values[value] = torch.empty(*shape, dtype=dtype, device=step.logits.device)
        return out, None
    out, scales = step.values[value], step.row_scales[value] = float8_room(shape, step.logits.device)
    return out, scales
