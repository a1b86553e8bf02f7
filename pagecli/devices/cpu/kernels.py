"""The operations as C++ kernels: typed signatures, shapes and meaning as in `reference`, checks and work in `_native`.

Environment: PAGECLI_CPU_ISA forces an instruction set (generic, avx2, avx512, avx512bf16, amx; neon, neon_bf16);
PAGECLI_NATIVE_MODULE loads the extension from another file, such as a build with sanitizers.
"""

from __future__ import annotations  # they are not computed at start-up

import importlib.util
import os
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np

from pagecli.core.arrays import Array, Tensor
from pagecli.devices.cpu.weights import packed_weight, quantized_bounds, quantized_weight
from pagecli.devices.cpu.weights.packed_weight import PackedExperts, PackedWeight
from pagecli.devices.cpu.weights.quantized_bounds import QuantizedBounds
from pagecli.errors import UsageError
from pagecli.model.weights.quantized import AnyQuantized


def _load_extension() -> ModuleType:
    path = os.environ.get("PAGECLI_NATIVE_MODULE")
    if not path:
        from pagecli.devices.cpu import _native  # type: ignore[attr-defined]

        return _native
    spec = importlib.util.spec_from_file_location("pagecli.devices.cpu._native", path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise UsageError(f"PAGECLI_NATIVE_MODULE: {path} is not an extension module", "unset it to use the installed one")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _force_isa(extension: ModuleType) -> None:
    isa = os.environ.get("PAGECLI_CPU_ISA")
    if isa and not extension.select_isa(isa):
        supported = ", ".join(extension.supported_isas())
        raise UsageError(f"PAGECLI_CPU_ISA: this machine has no kernels for {isa!r}", f"unset it, or choose one of {supported}")


_native = _load_extension()
_force_isa(_native)


class LayerProgram(_native.LayerProgram):  # type: ignore[misc, name-defined]
    """Operations that are recorded once and then run as one call, without Python between them.

    LayerProgram(max_tokens): every operation is given max_tokens rows, the most that `run` may be given. An operation that is
    given a program is checked and recorded there, not run: linear, the norms and activations, rotary_embedding, store_kv and
    paged_attention take one. A program keeps no reference to what they were given: buffers, weights and caches must live as
    long as it is used.
    """

    def __len__(self) -> int:
        """The number of operations."""
        return self.num_operations

    def run(
        self,
        positions: Tensor,
        cos_sin: Tensor | None,
        slot_ids: Tensor,
        block_tables: Tensor,
        context_lens: Tensor,
        query_start: Tensor,
        adapter_ids: Tensor | None = None,
    ) -> None:
        """Run what was recorded on the first T = len(positions) rows of its buffers, with these arrays, shaped as the
        operations take them, in place of those of the recording. cos_sin may be None where nothing is rotated."""
        super().run(positions, cos_sin, slot_ids, block_tables, context_lens, query_start, adapter_ids)


def isa_name() -> str:
    """The instruction set in use."""
    return _native.isa_name()


def supported_isas() -> list[str]:
    """The instruction sets this machine has kernels for, best first."""
    return _native.supported_isas()


def set_num_threads(num_threads: int) -> None:
    """Run every operation on so many threads, the calling one included; at least 1."""
    _native.set_num_threads(num_threads)


def num_threads() -> int:
    """What set_num_threads set, at first one for each CPU."""
    return _native.num_threads()


def peak_operations(dtype: str, pieces: int) -> int:
    """Measures the machine: multiply-adds in registers by all threads, in pieces of about 0.3 ms; returns how many operations.

    They are those that `linear` does for weights of `dtype`: on bfloat16 pairs where the instruction set has that, else on
    float32; for int8 on bytes, for int8-a16 on 16-bit pairs.
    """
    return _native.peak_operations(dtype, pieces)


def read_memory(tensor: Tensor) -> int:
    """Measures the machine: reads tensor[n] (int32) once, by all threads; returns the exclusive-or of its words."""
    return _native.read_memory(tensor)


def wants_huge_pages(dtype: str) -> bool:
    """Whether packed weights of `dtype` are read so much faster from huge pages that they lie in them: floats on AVX2, whose
    products wait for memory longest (docs/performance-cpu.md)."""
    return dtype == "float32" and isa_name() == "avx2"


def pack_weight(weight: Tensor, dtype: str) -> PackedWeight:
    """weight[N, K] (float32, bfloat16 or float16) -> PackedWeight of `dtype` (float32, bfloat16, int8 or int8-a16)."""
    num_rows, num_cols = weight.shape
    packed = packed_weight.allocate(num_rows, num_cols, dtype, wants_huge_pages(dtype))
    _native.pack_weight(packed.data, weight)
    return packed


def pack_quantized(tensor: AnyQuantized, dtype: str) -> PackedWeight | None:
    """A matrix that stays quantized and is multiplied as `dtype`, float32 or bfloat16: one section, groups of up to 256 k.
    None where a scale is not finite."""
    num_rows, num_cols = tensor.shape
    packed, first_row = quantized_weight.allocate(tensor.format, num_rows, num_cols, dtype), 0
    for chunk in tensor.chunks():
        q, factor, offset_factor = (
            None if each is None else each.view(np.uint8) for each in (chunk.q, chunk.factor, chunk.offset_factor)
        )
        if not _native.pack_quantized(packed, num_rows, first_row, q, chunk.scale, chunk.offset, factor, offset_factor):
            return None
        first_row += len(chunk.q)
    return PackedWeight(packed, num_rows, num_cols)


def pack_experts(experts: Iterable[Tensor], num_experts: int, dtype: str) -> PackedExperts:
    """weight[N, K] of each of num_experts experts, one after the other -> PackedExperts of `dtype`."""
    packed: PackedExperts | None = None
    for index, weight in enumerate(experts):
        if packed is None:
            num_rows, num_cols = weight.shape
            packed = packed_weight.allocate_experts(num_experts, num_rows, num_cols, dtype, wants_huge_pages(dtype))
        _native.pack_weight(packed.expert(index).data, weight)
    assert packed is not None
    return packed


def pack_quantized_experts(experts: Iterable[AnyQuantized | None], num_experts: int, dtype: str) -> PackedExperts | None:
    """Matrices of num_experts experts that stay quantized; None where one cannot, or not in the format of the first."""
    packed: PackedExperts | None = None
    for index, tensor in enumerate(experts):
        if tensor is None or len(tensor.sections()) > 1 or not quantized_weight.can_pack(tensor):
            return None
        if (one := pack_quantized(tensor, dtype)) is None:
            return None
        packed = packed or packed_weight.like_quantized(one, num_experts)
        if not packed.set_quantized(index, one):
            return None
    return packed


def embedding(out: Tensor, token_ids: Tensor, weight: PackedWeight) -> None:
    """out[T, K] = weight[token_ids[T], :]; token_ids int32, each in [0, N)."""
    _native.embedding(out, token_ids, weight.data, weight.num_rows, weight.num_cols)


def linear(
    out: Tensor,
    x: Tensor,
    weight: PackedWeight,
    bias: Tensor | None = None,
    activation: str = "none",
    accumulate: bool = False,
    program: LayerProgram | None = None,
    hands_over: bool = False,
    x_is_handed_over: bool = False,
    is_gated: bool = False,
) -> None:
    """out[M, N] (+)= activation(x[M, K] @ weight[N, K].T + bias[N]); gated (amx, bfloat16): out[M, N / 2] = half of that
    times the others. What a product hands over to one of its type, float32 or bfloat16, lies as that multiplies it."""
    shape, ways = (weight.num_rows, weight.num_cols), (hands_over, x_is_handed_over, is_gated)
    _native.linear(out, x, weight.data, *shape, bias, activation, accumulate, program, *ways)


def low_rank(
    out: Tensor,
    x: Tensor,
    a: Tensor,
    b: Tensor,
    starts: Tensor,
    adapter_ids: Tensor | None,
    program: LayerProgram | None = None,
) -> None:
    """out[T, N] += (x[T, K] @ a[r].T) @ b[r] of the ranks r = starts[i]:starts[i + 1] of each token's adapter
    i = adapter_ids[T] (int32), of a[R, K] and b[R, N]; nothing where i is -1, or adapter_ids None."""
    _native.low_rank(out, x, a, b, starts, adapter_ids, program)


def pack_bounds(weight: PackedWeight) -> QuantizedBounds | None:
    """The quantized upper bounds of weight[N, K]; None where a weight is not finite or too large to be bounded."""
    bounds = quantized_bounds.allocate(weight.num_rows, weight.num_cols)
    usable = _native.pack_bounds(bounds.data, weight.data, weight.num_rows, weight.num_cols)
    return bounds if usable else None


def linear_argmax(out: Tensor, x: Tensor, weight: PackedWeight, bounds: QuantizedBounds | None = None) -> int:
    """out[R] int64 = argmax of each row of x[R, K] @ weight[N, K].T: of `linear`'s sums, to the bit, but never in memory.

    With the weight's bounds only sums that could be the largest are computed. Returns the number of panels (16 outputs of a
    row) that were.
    """
    if bounds is None:
        _native.linear_argmax(out, x, weight.data, weight.num_rows, weight.num_cols)
        return x.shape[0] * -(-weight.num_rows // packed_weight.PANEL_WIDTH)
    return _native.pruned_argmax(out, x, weight.data, weight.num_rows, weight.num_cols, bounds.data)


def masked_argmax(
    out: Tensor, x: Tensor, weight: PackedWeight, words: Array, mask_of: Array, bounds: QuantizedBounds | None = None
) -> tuple[int, int]:
    """linear_argmax among the outputs that each row's mask allows: row mask_of[R] (int32) of words[C, ceil(N / 32)] (uint32,
    core/token_masks.py), all of them where that is -1; -1 of a row that may choose none.

    Only panels with an allowed output are computed, none for a row that may choose one output. Returns the number of rows that
    the bounds were used for, and of panels computed for those.
    """
    shape, bounds_data = (weight.num_rows, weight.num_cols), None if bounds is None else bounds.data
    return _native.masked_argmax(out, x, weight.data, *shape, bounds_data, words.view("int32"), mask_of)


def rms_norm(
    out: Tensor, x: Tensor, weight: Tensor, eps: float, accumulate: bool = False, program: LayerProgram | None = None
) -> None:
    """out[..., D] (+)= x / sqrt(mean(x^2) + eps) * weight[D]; x and out [T, D] or [T, heads, D], any stride; out may be x."""
    _native.rms_norm(out, x, weight, eps, accumulate, program)


def layer_norm(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float, program: LayerProgram | None = None) -> None:
    """out[T, H] = (x - mean) / sqrt(var + eps) * weight[H] + bias[H]; out may be x."""
    _native.layer_norm(out, x, weight, bias, eps, program)


def rotary_embedding(
    q: Tensor,
    k: Tensor,
    positions: Tensor,
    cos_sin: Tensor,
    first_column: int = 0,
    rotary_dim: int = 0,
    program: LayerProgram | None = None,
) -> None:
    """Rotate q[T, heads, D] and k[T, kv_heads, D] in place by positions[T] (int32) with cos_sin[P, R]; of several tables side
    by side, the one of rotary_dim columns from first_column on."""
    _native.rotary_embedding(q, k, positions, cos_sin, first_column, rotary_dim, program)


def activation(out: Tensor, x: Tensor, name: str, program: LayerProgram | None = None) -> None:
    """out[T, I] = name(x[T, I]); name: relu, gelu (erf), gelu_tanh, silu, relu2; out may be x."""
    _native.activation(out, x, name, program)


def gated_activation(
    out: Tensor,
    gate_up: Tensor,
    name: str,
    limit: float = 0.0,
    alpha: float = 1.0,
    program: LayerProgram | None = None,
) -> None:
    """out[..., I] = name(gate_up[..., :I]) * gate_up[..., I:], of [T, 2 * I] or [T, groups, 2 * I]; name as of
    activation; limit > 0: as in `reference`."""
    _native.gated_activation(out, gate_up, name, limit, alpha, program)


def router(ids: Tensor, weights: Tensor, logits: Tensor, normalize: bool, program: LayerProgram | None = None) -> None:
    """ids[T, C] (int32) = the experts of the C largest of logits[T, E], the first of equals; weights[T, C] = their softmax."""
    _native.router(ids, weights, logits, normalize, program)


def grouped_linear(
    out: Tensor,
    x: Tensor,
    ids: Tensor,
    weight: PackedExperts,
    bias: Tensor | None = None,
    program: LayerProgram | None = None,
) -> None:
    """out[T, C, N] = x[T, K] or x[T, C, K] @ weight[ids[T, C], N, K].T + bias[ids[T, C], N]: the bits of `linear`; weights of
    experts that no row names are not read."""
    shape = weight.num_experts, weight.num_rows, weight.num_cols
    _native.grouped_linear(out, x, ids, weight.data, *shape, bias, program)


def combine_experts(
    out: Tensor,
    x: Tensor,
    weights: Tensor,
    shared: Tensor | None = None,
    gate: Tensor | None = None,
    accumulate: bool = False,
    program: LayerProgram | None = None,
) -> None:
    """out[T, N] (+)= the sum of weights[T, C] * x[T, C, N] over C in order, then sigmoid(gate[T, 1]) * shared[T, N]."""
    _native.combine_experts(out, x, weights, shared, gate, accumulate, program)


def rendezvous(words: Tensor, rank: int, timeout_seconds: float) -> Any:
    """The meeting point of `rank` with the others of words[ranks + 1, 16] (int32, zeros at first), in memory that all share.

    Its `meet()` says whether all came in time, as often as this one did; `missing` is the rank that did not, -1 none, and
    `waited_seconds` how long this rank has waited. Any number in the last row of words ends all waiting.
    """
    return _native.rendezvous(words, rank, timeout_seconds)


def reduce(
    out: Tensor, parts: list[Tensor], accumulate: bool = False, meeting: Any = None, program: LayerProgram | None = None
) -> None:
    """out[T, N] (+)= ((parts[0] + parts[1]) + parts[2]) + ..., after the `meeting` of the ranks that compute them."""
    _native.reduce(out, parts, accumulate, meeting, program)


def argmax(out: Tensor, x: Tensor) -> None:
    """out[R] int64 = index of the largest number, the first of equal ones, of each row of x[R, N] (float32); -1 where no token
    can be chosen: a number is NaN or +inf, or all are -inf."""
    _native.argmax(out, x)


def restrict_logits(logits: Tensor, words: Array, mask_of: Array) -> None:
    """logits[R, N] become -inf where the row's mask (as of masked_argmax) leaves the output out; where it allows one output
    alone, that one's logit becomes 0."""
    _native.restrict_logits(logits, words.view("int32"), mask_of)


def apply_penalties(logits: Tensor, rows: Array, penalties: Array, ids: Array, counts: Array) -> None:
    """Lower logits[rows[n], cols] of the tokens that a sequence knows: ids[n, W] int32, each once, -1 where there is none,
    counts[n, W] times in the output. penalties[n, 3]: repetition (Keskar et al., 2019) divides positive logits and multiplies
    others; presence once, and frequency for each time, is taken from tokens of the output."""
    _native.apply_penalties(logits, rows, penalties, ids, counts)


def top_logits(ids: Tensor, values: Tensor, normalizers: Tensor, logits: Tensor, rows: Array) -> None:
    """ids[n, K] int64, values[n, K] = the largest of logits[rows[n], cols], largest first, of equal ones the first, NaN the
    least; normalizers[n, 2] = the largest and log(sum(exp(x - largest))), NaN where no token can be chosen."""
    _native.top_logits(ids, values, normalizers, logits, rows)


def sample(
    out: Tensor,
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    draws: Tensor,
) -> None:
    """out[R] int64 = a token of each row of logits[R, N], drawn after temperature[R], top_k[R] (int64; 0: all), top_p[R] and
    min_p[R] by draws[R] (int64, times 2^-53); -1 as of argmax."""
    _native.sample(out, logits, temperature, top_k, top_p, min_p, draws)


def store_kv(
    k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, slot_ids: Tensor, program: LayerProgram | None = None
) -> None:
    """Write k, v[T, kv_heads, D] into slots slot_ids[T] (int64) of v_cache[num_blocks, kv_heads, block_size, D (int8: D + 4)]
    and k_cache[num_blocks, kv_heads, D (int8: D + 4), block_size], K dimension by dimension."""
    _native.store_kv(k_cache, v_cache, k, v, slot_ids, program)


def paged_attention(
    out: Tensor,
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    query_start: Tensor,
    scale: float,
    window: int = 0,
    cap: float = 0.0,
    slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    program: LayerProgram | None = None,
) -> None:
    """Causal attention of out, q[T, heads, D] over the paged caches; a row's result is the same in any batch and chunking.
    cap, slopes[heads], sinks[heads]: as in `reference`."""
    sequences = block_tables, context_lens, query_start
    _native.paged_attention(out, q, k_cache, v_cache, *sequences, scale, window, cap, slopes, sinks, program)


def copy_blocks(target: Tensor, source: Tensor, pairs: Tensor) -> None:
    """Copy blocks between caches[num_blocks, ...] of one type: pairs[n, 2] int64 are (source, target), in order."""
    _native.copy_blocks(target, source, pairs)
