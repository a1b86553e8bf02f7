"""A program on the CPU: each operation bound to its weights once; the layers recorded and run as one native call a step.

An operation adds to what an Add behind it would. The last layer computes few of its logits where only the largest is wanted.
"""

import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from pagecli.core import arrays
from pagecli.core.arrays import Array
from pagecli.devices.base import KVCache, StepInputs
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.weights import quantized_bounds
from pagecli.devices.cpu.weights.packed_weight import PANEL_WIDTH, CpuWeights, GatedLinear, PackedWeight
from pagecli.devices.rotary_table import rotations_of, table_of
from pagecli.model import program as ops
from pagecli.model.program import Operation, Program, Weight

if TYPE_CHECKING:
    from pagecli.devices.cpu.partial_products import SharedParts
    from pagecli.devices.step_masks import PendingMasks, RowMasks

MIN_TOKENS = 8192  # smaller vocabularies have no bounds
# Largest share of the weights to be computed. A panel takes 18 times as long for one row alone as in a batch of 64 (Zen 3);
# with few rows reading the weights takes the time, of which the bounds have half (bfloat16) or a quarter.
MOST_COMPUTED, MOST_COMPUTED_OF_FEW = 1 / 32, 1 / 8
# A matrix unit (AMX) multiplies all bfloat16 weights by more rows than these as fast as the bounds are computed.
MOST_ROWS_BESIDE_UNIT = 32


def with_adds(
    operations: Iterable[Operation], gated: Callable[..., Operation | None] | None = None
) -> list[tuple[Operation, str]]:
    """The operations, each with the value that its output is added to and so never in memory, where an Add of it comes next,
    which is left out; "" with others: their output is stored. `gated` (CpuWeights): makes one of an operation and the next."""
    found: list[tuple[Operation, str]] = []
    for operation in operations:
        match found[-1:]:
            case [(ops.Linear() | ops.Reduce() | ops.Combine() | ops.Norm(kind="rms") as before, "")] if (
                isinstance(operation, ops.Add) and operation.x == before.out
            ):
                found[-1] = before, operation.out
            case [(before, "")] if gated is not None and (one := gated(before, operation)):
                found[-1] = one, ""
            case _:
                found.append((operation, ""))
    return found


def buffer_widths(program: Program) -> dict[str, int]:
    """Columns of every buffer that the program takes on the CPU, of float32 with a row for each token of the largest step."""
    return ops.widths(operation for operation, added_to in with_adds(program.operations()) if not added_to)


def bounds_bytes(vocab_size: int, hidden_size: int, bytes_each: float) -> int:
    """Bytes of an LM head's bounds, beside weights of `bytes_each`."""
    return quantized_bounds.num_bytes(vocab_size, hidden_size) if vocab_size >= MIN_TOKENS and bytes_each >= 2 else 0


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
        return self.setdefault(name, self.workspace.rows(name, self.num_rows))


class LMHead:
    """logits[M, N] = x[M, K] @ weight[N, K].T, and their argmax.

    The argmax prunes by quantized upper bounds (weights/quantized_bounds.py): 8-bit sums bound every logit, and only those that
    could be the largest are computed. The tokens are the same, to the bit; bounds that prune too little are disabled. int8
    weights have none: they are as small and, on Zen 3, nearly as fast. Nor have those kept in fewer bits, which are smaller.
    """

    def __init__(self, weight: PackedWeight, bias: Array | None = None, cap: float = 0.0) -> None:
        """Logits become cap * tanh(logit / cap) where there is a cap, which changes no argmax. A bias leaves no bounds."""
        self.weight, self.bias, self.cap = weight, bias, cap
        is_smaller = weight.dtype.startswith("int8") or weight.nbytes < weight.num_rows * weight.num_cols
        is_bounded = weight.num_rows >= MIN_TOKENS and not is_smaller and bias is None
        self.bounds = kernels.pack_bounds(weight) if is_bounded else None
        # Of a batch that uses the bounds.
        self._most_rows = MOST_ROWS_BESIDE_UNIT if (kernels.isa_name(), weight.dtype) == ("amx", "bfloat16") else sys.maxsize
        self._rows = self._panels = self._allowed = 0.0  # with bounds; panels computed in spite of them, and that may be

    def __call__(self, out: Array, x: Array) -> None:
        kernels.linear(out, x, self.weight, self.bias)
        if self.cap > 0:
            np.divide(out, np.float32(self.cap), out=out)
            np.multiply(np.tanh(out, out=out), np.float32(self.cap), out=out)

    def argmax(self, x: Array, masks: "RowMasks | None" = None) -> Array:
        """[M] int64: the first of the largest of each row's N logits, among those that its mask allows, one at least."""
        indices = np.empty(x.shape[0], dtype=np.int64)
        if self.bias is not None:
            logits = self.biased(x)
            if masks is not None:
                kernels.restrict_logits(logits, masks.words, masks.mask_of)
            kernels.argmax(indices, logits)
            return indices
        bounds = self.bounds if x.shape[0] <= self._most_rows else None
        if masks is not None:
            num_rows, num_panels = kernels.masked_argmax(indices, x, self.weight, masks.words, masks.mask_of, bounds)
        else:
            num_rows, num_panels = x.shape[0], kernels.linear_argmax(indices, x, self.weight, bounds)
        if bounds is not None and num_rows:
            self._judge(num_rows, num_panels)
        return indices

    def biased(self, x: Array) -> Array:
        """[M, N] float32: the logits of a head with a bias, without the cap."""
        logits = np.empty((x.shape[0], self.weight.num_rows), np.float32)
        kernels.linear(logits, x, self.weight, self.bias)
        return logits

    def _judge(self, num_rows: int, num_panels: int) -> None:
        """Disables bounds that prune too little: too many panels are computed."""
        self._rows += num_rows
        self._panels += num_panels
        self._allowed += (
            num_rows * self.weight.num_rows / PANEL_WIDTH * (MOST_COMPUTED if num_rows > 4 else MOST_COMPUTED_OF_FEW)
        )
        if self._rows >= 64:
            if self._panels > self._allowed:
                self.bounds = None
            self._rows = self._panels = self._allowed = 0.0


@dataclass(slots=True)
class _Step:
    """What the bound operations of one step read and write."""

    values: Values
    inputs: StepInputs[Array]
    kv: KVCache[Array]
    cos_sin: Array | None
    program: kernels.LayerProgram | None = None  # that operations are recorded in, instead of being run


_Bound = Callable[[_Step], None]
_NOT_RECORDED = (ops.Add, ops.Embedding, ops.Select)


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
        self.weight_bytes = weights.num_bytes + (self.lm_head.bounds.nbytes if self.lm_head.bounds is not None else 0)
        self.workspace = Workspace(max_batch_tokens, buffer_widths(program), {} if shared is None else shared.parts)
        layers = with_adds(chain.from_iterable(program.layers), weights.gated if kernels.isa_name() == "amx" else None)
        # False: every operation is called from Python: operations are timed, or one of them has no kernel.
        self.record_layers = not any(isinstance(operation, _NOT_RECORDED) for operation, _ in layers)
        self._handed_over = weights.handed_over([*with_adds(program.embed), *layers, *with_adds(program.head)])
        self._rotary, self._rotations = table_of(program, weights.vector), rotations_of(program)
        self._embed, self._layers, self._head = map(self._bind, (with_adds(program.embed), layers, with_adds(program.head)))
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
        return self.lm_head.argmax(last, None if masks is None else masks.result())

    def last_hidden(self, inputs: StepInputs[Array], kv: KVCache[Array]) -> Array:
        """The rows of the LM head's input: those of the tokens whose next tokens are wanted."""
        cos_sin = None if self._rotary is None else self._rotary.up_to(int(inputs.context_lens.max()))
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

    def _bind(self, operations: list[tuple[Operation, str]]) -> list[_Bound]:
        """The operations as calls of kernels; the head, which `forward` and `most_likely` take, aside."""
        return [self._bound(operation, to) for operation, to in operations if not isinstance(operation, ops.Head)]

    def _bound(self, operation: Operation, added_to: str) -> _Bound:
        match operation:
            case ops.Linear(weight=weight) if weight.whole_columns:
                from pagecli.devices.cpu.partial_products import bind_partial

                return bind_partial(operation, self.weights.matrix(weight), self._vector_or_none(operation.bias))
            case ops.Linear():
                return self._linear(operation, added_to)
            case ops.LowRank(a=a, b=b, starts=starts):
                from pagecli.devices.cpu.partial_products import bind_low_rank

                self.weight_bytes += a.nbytes + b.nbytes + starts.nbytes
                return bind_low_rank(operation)
            case ops.Norm():
                return self._norm(operation, added_to)
            case ops.Attention():
                return self._attention(operation)
            case ops.Embedding():
                return self._embedding(operation)
            case ops.Split():
                return lambda step: _split(operation, step.values)
            case ops.Rotary(q, k, rope, factors):
                columns = self._rotations[rope, factors], rope.rotary_dim
                return lambda step: _rotate(step, q, k, columns)
            case ops.GatedActivation():
                return _gated(operation)
            case ops.Router() | ops.ExpertLinear() | ops.Combine():
                from pagecli.devices.cpu.mixture import bind_mixture

                return bind_mixture(operation, added_to, self.weights)
            case ops.Add(out, x):
                return lambda step: _add(step.values[out], step.values[x])
            case ops.Select(out, x):
                return lambda step: _select(step, out, x)
            case ops.Reduce():
                from pagecli.devices.cpu.partial_products import bind_sum

                return bind_sum(operation, added_to, self._meeting)
        raise ValueError(f"the CPU has no {type(operation).__name__}")

    def _linear(self, operation: ops.Linear, added_to: str) -> _Bound:
        out, x, activation, accumulate = added_to or operation.out, operation.x, operation.activation, bool(added_to)
        sections, bias = self.weights.sections(operation.weight), self._vector_or_none(operation.bias)
        ways = out in self._handed_over, x in self._handed_over, isinstance(operation, GatedLinear)

        def call(step: _Step) -> None:
            first = 0
            for section in sections:
                last = first + section.num_rows
                columns, of_bias = step.values[out][:, first:last], None if bias is None else bias[first:last]
                kernels.linear(columns, step.values[x], section, of_bias, activation, accumulate, step.program, *ways)
                first = last

        return call

    def _norm(self, operation: ops.Norm, added_to: str) -> _Bound:
        out, x, eps = added_to or operation.out, operation.x, operation.eps
        weight, bias = self._vector_or_none(operation.weight), self._vector_or_none(operation.bias)
        weight = np.ones(self.config.hidden_size, np.float32) if weight is None else weight
        if operation.kind == "rms" and x in ("q", "k") and len(weight) != self.config.head_dim:  # of all heads together
            return lambda step: kernels.rms_norm(_flat(step, out), _flat(step, x), weight, eps, program=step.program)
        if operation.kind == "rms":
            return lambda step: kernels.rms_norm(step.values[out], step.values[x], weight, eps, bool(added_to), step.program)
        shift = np.zeros_like(weight) if bias is None else bias
        return lambda step: kernels.layer_norm(step.values[out], step.values[x], weight, shift, eps, step.program)

    def _attention(self, operation: ops.Attention) -> _Bound:
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

    def _embedding(self, operation: ops.Embedding) -> _Bound:
        out, offset, scale = operation.out, operation.offset, operation.scale
        weight = self.weights.matrix(operation.weight)

        def call(step: _Step) -> None:
            rows, ids = step.values[out], getattr(step.inputs, operation.ids)
            kernels.embedding(rows, ids + offset if offset else ids, weight)
            if scale != 1.0:
                np.multiply(rows, np.float32(scale), out=rows)

        return call


def _gated(operation: ops.GatedActivation) -> _Bound:
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


def _add(out: Array, x: Array) -> None:
    np.add(out, x, out=out)


def _split(operation: ops.Split, values: Values) -> None:
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
        ids, ids, slots, block_tables=none.reshape(1, 1), context_lens=none, query_start=none.repeat(2), logit_rows=slots[:0]
    )
