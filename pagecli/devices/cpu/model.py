"""A program on the CPU: each operation bound to its weights once; the layers recorded and run as one native call a step.

A linear layer, or an RMS norm, adds to what an addition behind it would.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pagecli.core import arrays
from pagecli.core.arrays import Array
from pagecli.devices.base import KVCache, StepInputs
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.lm_head import LMHead
from pagecli.devices.cpu.weights.packed_weight import CpuWeights, PackedWeight
from pagecli.devices.rotary_table import rotations_of, table_of
from pagecli.model.program import (
    Add,
    Attention,
    Combine,
    Embedding,
    ExpertLinear,
    GatedActivation,
    Head,
    Linear,
    LowRank,
    Norm,
    Operation,
    Program,
    Reduce,
    Rotary,
    Router,
    Select,
    Split,
    Weight,
    widths,
)

if TYPE_CHECKING:
    from pagecli.devices.cpu.partial_products import SharedParts
    from pagecli.devices.step_masks import PendingMasks


@dataclass(frozen=True, slots=True)
class LinearAdd:
    """out += activation(x @ weight.T + bias): Linear and the Add of its output, which is never in memory."""

    out: str
    x: str
    weight: Weight
    bias: Weight | None
    activation: str


@dataclass(frozen=True, slots=True)
class ReduceAdd:
    """out += ((parts[0] + parts[1]) + ...): Reduce and the Add of its output."""

    out: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NormAdd:
    """out += norm(norm.x): Norm and the Add of its output, which is never in memory."""

    out: str
    norm: Norm


@dataclass(frozen=True, slots=True)
class CombineAdd:
    """out += what `combine` gives: Combine and the Add of its output, which is never in memory."""

    out: str
    combine: Combine


CpuOperation = Operation | LinearAdd | ReduceAdd | NormAdd | CombineAdd


def fuse_adds(operations: Iterable[Operation]) -> tuple[CpuOperation, ...]:
    fused: list[CpuOperation] = []
    for operation in operations:
        before = fused[-1] if fused else None
        if isinstance(operation, Add) and isinstance(before, Linear) and before.out == operation.x:
            fused[-1] = LinearAdd(operation.out, before.x, before.weight, before.bias, before.activation)
        elif isinstance(operation, Add) and isinstance(before, Reduce) and before.out == operation.x:
            fused[-1] = ReduceAdd(operation.out, before.parts)
        elif isinstance(operation, Add) and isinstance(before, Norm) and before.out == operation.x and before.kind == "rms":
            fused[-1] = NormAdd(operation.out, before)
        elif isinstance(operation, Add) and isinstance(before, Combine) and before.out == operation.x:
            fused[-1] = CombineAdd(operation.out, before)
        else:
            fused.append(operation)
    return tuple(fused)


def buffer_widths(program: Program) -> dict[str, int]:
    """Columns of every buffer that the program takes on the CPU, of float32 with a row for each token of the largest step."""
    fused = (LinearAdd, ReduceAdd, NormAdd, CombineAdd)
    return widths(operation for operation in fuse_adds(program.operations()) if not isinstance(operation, fused))


class Workspace:
    """A buffer of `max_tokens` rows for each value of a program; logits grow to the most rows ever asked for."""

    def __init__(self, max_tokens: int, widths: dict[str, int], shared: Mapping[str, Array]) -> None:
        self.max_tokens = max_tokens
        own = {name: width for name, width in widths.items() if name not in shared}
        self.num_bytes = sum(max_tokens * width * 4 for width in own.values())
        self._buffers = {name: arrays.empty((max_tokens, width)) for name, width in own.items()} | dict(shared)
        self._logits: Array | None = None

    def rows(self, name: str, num_rows: int) -> Array:
        """The first `num_rows` rows of buffer `name`."""
        return self._buffers[name][:num_rows]

    def logits(self, num_rows: int, vocab_size: int) -> Array:
        """[num_rows, vocab_size], allocated when first needed, and again when more rows are."""
        if self._logits is None or self._logits.shape[0] < num_rows:
            self._logits = arrays.empty((num_rows, vocab_size))
        return self._logits[:num_rows]


class Values(dict[str, Array]):
    """The values of a program for a step of `num_rows` rows, cut from the workspace when they are first used."""

    def __init__(self, workspace: Workspace, num_rows: int) -> None:
        self.workspace, self.num_rows = workspace, num_rows

    def __missing__(self, name: str) -> Array:
        rows = self[name] = self.workspace.rows(name, self.num_rows)
        return rows


@dataclass(slots=True)
class _Step:
    """What the bound operations of one step read and write."""

    values: Values
    inputs: StepInputs[Array]
    kv: KVCache[Array]
    cos_sin: Array | None
    program: kernels.LayerProgram | None = None  # that operations are recorded in, instead of being run


_Bound = Callable[[_Step], None]
_NOT_RECORDED = (Add, Embedding, Select)


class CpuModel:
    """A loaded model; `forward` or `most_likely` is one step, of at most `max_batch_tokens` tokens."""

    def __init__(
        self,
        program: Program,
        weights: CpuWeights,
        max_batch_tokens: int,
        notes: tuple[str, ...] = (),
        shared: "SharedParts | None" = None,
    ) -> None:
        """`shared`: of one rank of several, where the partial sums of all are."""
        self.notes = notes
        self._meeting = None if shared is None else shared.meeting
        self.program, self.config, self.weights = program, program.config, weights
        head = program.head_operation
        self.lm_head = LMHead(weights.matrix(head.weight), self._vector_or_none(head.bias), head.cap)
        bounds = self.lm_head.bounds
        self.weight_bytes = weights.num_bytes + (bounds.nbytes if bounds is not None else 0)
        self.workspace = Workspace(max_batch_tokens, buffer_widths(program), {} if shared is None else shared.parts)
        # False: every operation is called from Python: operations are timed, or one of them has no kernel.
        self.record_layers = not any(isinstance(op, _NOT_RECORDED) for layer in program.layers for op in fuse_adds(layer))
        self._rotary, self._rotations = table_of(program, weights.vector), rotations_of(program)
        self._cos_sin: Array | None = None  # as far as the longest context until now
        self._embed, self._head = self._bind(program.embed), self._bind(program.head)
        self._layers = self._bind(operation for layer in program.layers for operation in layer)
        self._last = head.x
        self._recorded = kernels.LayerProgram(max_batch_tokens)
        self._recorded_for: weakref.ref[KVCache[Array]] | None = None  # whose memory ends with its engine

    def forward(self, inputs: StepInputs[Array], kv: KVCache[Array]) -> Array:
        """logits[R, vocab], float32: a view of a buffer that the next call overwrites."""
        last = self.last_hidden(inputs, kv)
        logits = self.workspace.logits(last.shape[0], self.config.vocab_size)
        self.lm_head(logits, last)
        return logits

    def most_likely(self, inputs: StepInputs[Array], kv: KVCache[Array], masks: "PendingMasks | None" = None) -> Array:
        """token_ids[R], int64: the argmax of what `forward` gives among the allowed tokens, without the logits."""
        last = self.last_hidden(inputs, kv)
        made = None if masks is None else masks.result()
        return self.lm_head.argmax(last) if made is None else self.lm_head.masked_argmax(last, made)

    def last_hidden(self, inputs: StepInputs[Array], kv: KVCache[Array]) -> Array:
        """The rows of the LM head's input: those of the tokens whose next tokens are wanted."""
        cos_sin = self._cos_sin
        if self._rotary is not None and (cos_sin is None or inputs.context_lens.max() > cos_sin.shape[0]):
            cos_sin = self._cos_sin = self._rotary.up_to(int(inputs.context_lens.max()))
        step = _Step(Values(self.workspace, inputs.token_ids.shape[0]), inputs, kv, cos_sin)
        _run(self._embed, step)
        if self.record_layers:
            self._run_recorded(step)
        else:
            _run(self._layers, step)
        step.values = Values(self.workspace, inputs.logit_rows.shape[0])
        _run(self._head, step)
        return step.values[self._last]

    def _run_recorded(self, step: _Step) -> None:
        """The layers without Python between their operations, which a thin model's step would mostly be."""
        inputs = step.inputs
        if self._recorded_for is None or self._recorded_for() is not step.kv:
            self._recorded_for = None
            max_tokens = self.workspace.max_tokens
            self._recorded = kernels.LayerProgram(max_tokens)
            values, any_inputs = Values(self.workspace, max_tokens), _any_inputs(max_tokens)
            _run(self._layers, _Step(values, any_inputs, step.kv, step.cos_sin, self._recorded))
            self._recorded_for = weakref.ref(step.kv)
        sequences = inputs.block_tables, inputs.context_lens, inputs.query_start
        self._recorded.run(inputs.positions, step.cos_sin, inputs.slot_ids, *sequences, inputs.adapter_ids)

    def _bind(self, operations: Iterable[Operation]) -> list[_Bound]:
        """The operations as calls of kernels; views and the head, which `forward` and `most_likely` take, aside."""
        return [self._bound(operation) for operation in fuse_adds(operations) if not isinstance(operation, Head)]

    def _bound(self, operation: CpuOperation) -> _Bound:
        match operation:
            case Linear(weight=weight) if weight.whole_columns:
                from pagecli.devices.cpu.partial_products import bind_partial

                return bind_partial(operation, self.weights.matrix(weight), self._vector_or_none(operation.bias))
            case Linear() | LinearAdd():
                return self._linear(operation)
            case LowRank(a=a, b=b, starts=starts):
                from pagecli.devices.cpu.partial_products import bind_low_rank

                self.weight_bytes += a.nbytes + b.nbytes + starts.nbytes
                return bind_low_rank(operation)
            case Norm():
                return self._norm(operation, operation.out, accumulate=False)
            case NormAdd(out, norm):
                return self._norm(norm, out, accumulate=True)
            case Attention():
                return self._attention(operation)
            case Embedding():
                return self._embedding(operation)
            case Split():
                return lambda step: _split(operation, step.values)
            case Rotary(q, k, rope, factors):
                columns = self._rotations[rope, factors], rope.rotary_dim
                return lambda step: _rotate(step, q, k, columns)
            case GatedActivation():
                return _gated(operation)
            case Router() | ExpertLinear() | Combine():
                from pagecli.devices.cpu.mixture import bind_mixture

                return bind_mixture(operation, self.weights)
            case CombineAdd(out, combine):
                from pagecli.devices.cpu.mixture import bind_combine

                return bind_combine(combine, out, accumulate=True)
            case Add(out, x):
                return lambda step: _add(step.values[out], step.values[x])
            case Select(out, x):
                return lambda step: _select(step, out, x)
            case Reduce() | ReduceAdd():
                from pagecli.devices.cpu.partial_products import bind_sum

                return bind_sum(operation.out, operation.parts, isinstance(operation, ReduceAdd), self._meeting)
        raise ValueError(f"the CPU has no {type(operation).__name__}")

    def _linear(self, operation: Linear | LinearAdd) -> _Bound:
        out, x, activation, accumulate = operation.out, operation.x, operation.activation, isinstance(operation, LinearAdd)
        sections, bias = self.weights.sections(operation.weight), self._vector_or_none(operation.bias)
        if len(sections) == 1:
            weight = sections[0]
            return lambda step: kernels.linear(
                step.values[out], step.values[x], weight, bias, activation, accumulate, step.program
            )

        def call(step: _Step) -> None:
            first = 0
            for section in sections:
                last = first + section.num_rows
                columns, of_bias = step.values[out][:, first:last], None if bias is None else bias[first:last]
                kernels.linear(columns, step.values[x], section, of_bias, activation, accumulate, step.program)
                first = last

        return call

    def _norm(self, operation: Norm, out: str, accumulate: bool) -> _Bound:
        x, eps = operation.x, operation.eps
        weight, bias = self._vector_or_none(operation.weight), self._vector_or_none(operation.bias)
        weight = np.ones(self.config.hidden_size, np.float32) if weight is None else weight
        if operation.kind == "rms" and x in ("q", "k") and len(weight) != self.config.head_dim:  # of all heads together
            return lambda step: kernels.rms_norm(_flat(step, out), _flat(step, x), weight, eps, program=step.program)
        if operation.kind == "rms":
            return lambda step: kernels.rms_norm(step.values[out], step.values[x], weight, eps, accumulate, step.program)
        shift = np.zeros_like(weight) if bias is None else bias
        return lambda step: kernels.layer_norm(step.values[out], step.values[x], weight, shift, eps, step.program)

    def _attention(self, operation: Attention) -> _Bound:
        layer, scale, window, cap = operation.layer, operation.scale, operation.window, operation.cap
        slopes = np.array(operation.slopes, np.float32) if operation.slopes else None
        sinks = self._vector_or_none(operation.sinks)

        def call(step: _Step) -> None:
            values, inputs = step.values, step.inputs
            k_cache, v_cache, q = step.kv.keys[layer], step.kv.values[layer], values[operation.q]
            kernels.store_kv(k_cache, v_cache, values[operation.k], values[operation.v], inputs.slot_ids, step.program)
            sequences = inputs.block_tables, inputs.context_lens, inputs.query_start
            out = values[operation.out].reshape(q.shape)
            kernels.paged_attention(out, q, k_cache, v_cache, *sequences, scale, window, cap, slopes, sinks, step.program)

        return call

    def _vector_or_none(self, weight: Weight | None) -> Array | None:
        return None if weight is None else self.weights.vector(weight)

    def _embedding(self, operation: Embedding) -> _Bound:
        out, ids, offset, scale = operation.out, operation.ids, operation.offset, operation.scale
        weight = self.weights.matrix(operation.weight)
        if scale != 1.0:
            return lambda step: _embed_scaled(step.values[out], getattr(step.inputs, ids) + offset, weight, scale)
        if offset == 0:
            return lambda step: kernels.embedding(step.values[out], getattr(step.inputs, ids), weight)
        return lambda step: kernels.embedding(step.values[out], getattr(step.inputs, ids) + offset, weight)


def _gated(operation: GatedActivation) -> _Bound:
    out, x, groups = operation.out, operation.x, operation.groups
    settings = operation.activation, operation.limit, operation.alpha
    if groups == 1:
        return lambda step: kernels.gated_activation(step.values[out], step.values[x], *settings, step.program)
    from pagecli.devices.cpu.mixture import in_groups

    return lambda step: kernels.gated_activation(
        in_groups(step.values[out], groups), in_groups(step.values[x], groups), *settings, step.program
    )


def _run(bound: list[_Bound], step: _Step) -> None:
    for call in bound:
        call(step)


def _rotate(step: _Step, q: str, k: str, columns: tuple[int, int]) -> None:
    assert step.cos_sin is not None
    kernels.rotary_embedding(step.values[q], step.values[k], step.inputs.positions, step.cos_sin, *columns, step.program)


def _flat(step: _Step, name: str) -> Array:
    """A value with heads as rows of all of them."""
    heads = step.values[name]
    return heads.reshape(heads.shape[0], heads.shape[1] * heads.shape[2])


def _embed_scaled(out: Array, ids: Array, weight: PackedWeight, scale: float) -> None:
    kernels.embedding(out, ids, weight)
    np.multiply(out, np.float32(scale), out=out)


def _add(out: Array, x: Array) -> None:
    np.add(out, x, out=out)


def _split(operation: Split, values: Values) -> None:
    """Once for all layers: their views are the same."""
    if operation.q in values:
        return
    num_heads = operation.heads + 2 * operation.kv_heads
    heads = values[operation.x].reshape(values.num_rows, num_heads, operation.head_dim)
    first_v = operation.heads + operation.kv_heads
    values[operation.q], values[operation.k] = heads[:, : operation.heads], heads[:, operation.heads : first_v]
    values[operation.v] = heads[:, first_v:]


def _select(step: _Step, out: str, x: str) -> None:
    whole = step.values.workspace.rows(x, step.inputs.token_ids.shape[0])
    np.take(whole, step.inputs.logit_rows, axis=0, out=step.values[out], mode="clip")


def _any_inputs(num_tokens: int) -> StepInputs[Array]:
    """Inputs of the right shapes, of one sequence without tokens: a recording only checks them."""
    ids = np.zeros(num_tokens, np.int32)
    slots = np.zeros(num_tokens, np.int64)
    none = np.zeros(1, np.int32)
    return StepInputs(
        token_ids=ids,
        positions=ids,
        slot_ids=slots,
        block_tables=none.reshape(1, 1),
        context_lens=none,
        query_start=np.zeros(2, np.int32),
        logit_rows=slots[:0],
    )
