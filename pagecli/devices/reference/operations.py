"""The definition of every operation, in plain torch: slow and obvious; the kernels of every device are tested against it.

T tokens, M rows, H hidden size, D head size, S sequences of the step. Operations write into the outputs they are given, compute
in the type of their inputs (float32 or float64) and return nothing. Weights are tensors, or packed as the CPU's kernels take
them. A KV cache's layout is [num_blocks, kv_heads, block_size, D], as on a GPU; the CPU keeps V so and K transposed,
`formats.keys_by_dimension` of that.
"""

import numpy as np
import torch

from pagecli.core.arrays import Array
from pagecli.core.sampling_params import MIN_TEMPERATURE
from pagecli.devices import random_draws
from pagecli.devices.cpu.weights.packed_weight import PANEL_WIDTH, PackedWeight
from pagecli.devices.cpu.weights.quantized_bounds import QuantizedBounds
from pagecli.devices.reference.formats import dequantize_slots, quantize_slots, unpack_weight
from pagecli.devices.reference.tensors import as_tensor

_ACTIVATIONS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "relu2": lambda x: torch.relu(x).square(),
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
}


E4M3_MAX = 448.0  # the largest number of float8_e4m3fn


def _numbers(weight: PackedWeight | torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """weight[N, K] in the type that `like` is computed in: float64, or float32."""
    numbers = unpack_weight(weight) if isinstance(weight, PackedWeight) else weight
    return numbers.double() if like.dtype == torch.float64 else numbers.float()


def embedding(
    out: torch.Tensor,
    token_ids: torch.Tensor,
    weight: PackedWeight | torch.Tensor,
    positions: torch.Tensor | None = None,
    positions_weight: torch.Tensor | None = None,
    position_offset: int = 0,
) -> None:
    """out[T, K] = weight[token_ids[T]] (+ positions_weight[positions[T] + position_offset]); ids int32, negative: zeros."""
    rows = _numbers(weight, out)[token_ids.clamp(min=0).long()]
    if positions is not None and positions_weight is not None:
        rows = rows + _numbers(positions_weight, out)[(positions + position_offset).long()]
    out.copy_(rows.masked_fill((token_ids < 0).unsqueeze(1), 0))


def linear(
    out: torch.Tensor,
    x: torch.Tensor,
    weight: PackedWeight | torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str = "none",
    accumulate: bool = False,
) -> None:
    """out[M, N] (+)= activation(x[M, K] @ weight[N, K].T + bias[N]), accumulated in float32 (in float64 where x is).

    A CPU's kernel may, with bfloat16 weights, round x to bfloat16 first (vdpbf16ps). With int8 weights it rotates each row of x
    in groups of 64 (formats.rotate), quantizes them to 8 bits and sums a group's products exactly; with int8-a16 it quantizes
    to 15 bits, without a rotation. A row's result depends on that row alone.
    """
    numbers = _numbers(weight, x)
    result = x.to(numbers.dtype) @ numbers.T
    if bias is not None:
        result += bias
    result = _ACTIVATIONS[activation](result)
    out.copy_(out + result if accumulate else result)


def rms_norm(
    out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    added: torch.Tensor | None = None,
    accumulate: bool = False,
    scales: torch.Tensor | None = None,
) -> None:
    """x += added, where given; out[..., D] = x / sqrt(mean(x^2) + eps) * weight[D]; x and out [T, D] or [T, heads, D], any
    stride; out may be x. Here and below: with scales[T, 1], quantize_rows(out, scales, what out would be)."""
    if added is not None:
        x.add_(added)
    normalized = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight
    _write(out, out + normalized if accumulate else normalized, scales)


def layer_norm(
    out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    added: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
) -> None:
    """x += added, where given; out[T, H] = (x - mean) / sqrt(var + eps) * weight[H] + bias[H]; out may be x."""
    if added is not None:
        x.add_(added)
    _write(out, torch.nn.functional.layer_norm(x, (x.shape[-1],), weight, bias, eps), scales)


def rotary_embedding(
    q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor, first_column: int = 0, rotary_dim: int = 0
) -> None:
    """Rotate q[T, heads, D] and k[T, kv_heads, D] in place by their positions[T] (int32).

    cos_sin[P, R]: R/2 cosines then R/2 sines; dimension i pairs with i + R/2 (the "neox" order), dimensions from R on stay.
    """
    rotary_dim = rotary_dim or cos_sin.shape[1]
    half = rotary_dim // 2
    chosen = cos_sin[positions.long(), first_column : first_column + rotary_dim].unsqueeze(1)
    cos, sin = chosen[..., :half], chosen[..., half:]
    for x in (q, k):
        a, b = x[..., :half].clone(), x[..., half : 2 * half].clone()
        x[..., :half] = a * cos - b * sin
        x[..., half : 2 * half] = b * cos + a * sin


def activation(
    out: torch.Tensor, x: torch.Tensor, name: str, bias: torch.Tensor | None = None, scales: torch.Tensor | None = None
) -> None:
    """out[T, I] = name(x[T, I] + bias[I]); name: none, relu, gelu (erf), gelu_tanh, silu, relu2 (squared); out may be x."""
    _write(out, _ACTIVATIONS[name](x if bias is None else x + bias), scales)


def gated_activation(
    out: torch.Tensor,
    gate_up: torch.Tensor,
    name: str,
    bias: torch.Tensor | None = None,
    limit: float = 0.0,
    alpha: float = 1.0,
    scales: torch.Tensor | None = None,
) -> None:
    """out[..., I] = name(gate) * up, of gate_up[..., 2 * I] + bias[2 * I]: I gates, then I ups; name as for `activation`;
    [T, 2 * I] or [T, groups, 2 * I]. limit > 0: gate * sigmoid(alpha * gate) * (up + 1), gates at most `limit`, ups within it.
    """
    gate, up = (gate_up if bias is None else gate_up + bias).chunk(2, dim=-1)
    if limit > 0:
        gate = gate.clamp(max=limit)
        _write(out, gate * torch.sigmoid(alpha * gate) * (up.clamp(-limit, limit) + 1), scales)
        return
    _write(out, _ACTIVATIONS[name](gate) * up, scales)


def quantize_rows(out: torch.Tensor, scales: torch.Tensor, x: torch.Tensor) -> None:
    """scales[T, 1] = the largest of |x[T, K]| / 448 (1 for zeros), out[T, K] = x / scales in float8_e4m3fn."""
    largest = x.float().abs().amax(dim=1, keepdim=True)
    scales.copy_(torch.where(largest > 0, largest / E4M3_MAX, 1.0))
    inverse = torch.full((), E4M3_MAX, device=x.device) / largest  # of a plain number, torch would round twice
    out.copy_(_to_e4m3(x.float() * torch.where(largest > 0, inverse, 1.0)))


def _write(out: torch.Tensor, values: torch.Tensor, scales: torch.Tensor | None) -> None:
    if scales is None:
        out.copy_(values)
    else:
        quantize_rows(out, scales, values)


def _to_e4m3(values: torch.Tensor) -> torch.Tensor:
    """To the nearest, even on ties; what is too large becomes the largest, NaN stays one."""
    return values.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def reduce(out: torch.Tensor, parts: list[torch.Tensor], accumulate: bool = False) -> None:
    """out[T, N] (+)= ((parts[0] + parts[1]) + parts[2]) + ..."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    out.copy_(out + total if accumulate else total)


def masked_argmax(
    out: torch.Tensor,
    x: torch.Tensor,
    weight: PackedWeight,
    words: Array,
    mask_of: Array,
    bounds: QuantizedBounds | None = None,
) -> None:
    """out[R] (int64) = argmax of x[R, K] @ weight[N, K].T after restrict_logits; what a mask leaves out may be NaN."""
    logits = torch.empty(x.shape[0], weight.num_rows)
    linear(logits, x, weight)
    restrict_logits(logits, words, mask_of)
    argmax(out, logits)


def restrict_logits(logits: torch.Tensor, words: Array, mask_of: Array) -> None:
    """logits[R, N] become -inf where row mask_of[R] (int32; -1: none) of words[C, ceil(N / 32)] (uint32) has a 0 at the
    output's bit; where a mask has one bit alone, that output's logit becomes 0."""
    for row, at in enumerate(as_tensor(mask_of).tolist()):
        if at < 0:
            continue
        bits = np.unpackbits(np.asarray(words[at]).view(np.uint8), bitorder="little")[: logits.shape[1]]
        allowed = torch.from_numpy(bits).bool()
        logits[row][~allowed] = float("-inf")
        if int(allowed.sum()) == 1:
            logits[row][allowed] = 0.0


def argmax(out: torch.Tensor, x: torch.Tensor) -> None:
    """out[R] int64 = index of the largest logit, the first of equal ones, of each row of x[R, N]; N > 0.

    -1 where no token can be chosen: a logit is NaN or +inf, or all are -inf.
    """
    largest = x.max(dim=-1, keepdim=True).values  # NaN where one is
    out.copy_((x == largest).int().argmax(dim=-1).masked_fill(~largest[:, 0].isfinite(), -1))


def linear_argmax(out: torch.Tensor, x: torch.Tensor, weight: PackedWeight, bounds: QuantizedBounds | None = None) -> int:
    """out[R] int64 = argmax of each row of x[R, K] @ weight[N, K].T; N > 0. Returns how many panels were computed: all."""
    logits = torch.empty(x.shape[0], weight.num_rows)
    linear(logits, x, weight)
    argmax(out, logits)
    return x.shape[0] * -(-weight.num_rows // PANEL_WIDTH)


def sample(
    out: torch.Tensor,
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    draws: torch.Tensor,
) -> None:
    """out[R] int64 = one token of each row of logits[R, N], drawn after temperature, top-k, top-p and min-p, in this order.

    temperature, top_p, min_p float32[R]; top_k int64[R] (0: no limit); draws int64[R] in [0, 2^53). The likeliest tokens are
    kept, the first of equal ones first: top-k many, then as many as reach top_p of their mass (Holtzman et al., 2020), then
    those at least min_p times as likely as the likeliest. The token is that at which the running sum of the kept
    probabilities, in the order of the vocabulary, passes draws * 2^-53 of their mass. A temperature below MIN_TEMPERATURE,
    top_p 0 and top_k 1 give argmax's token; where argmax gives -1, so does this.
    """
    likeliest = torch.empty(logits.shape[0], dtype=torch.int64)
    argmax(likeliest, logits)
    for row in range(logits.shape[0]):
        if likeliest[row] < 0 or temperature[row] < MIN_TEMPERATURE or top_p[row] <= 0.0 or top_k[row] == 1:
            out[row] = likeliest[row]
            continue
        probs = torch.softmax(logits[row].double() / float(temperature[row]), dim=-1)
        values, order = probs.sort(descending=True, stable=True)
        k = int(top_k[row])
        count = min(k, len(values)) if k > 0 else len(values)
        before = values[:count].cumsum(0) - values[:count]
        if float(top_p[row]) < 1.0:
            count = max(1, int((before < float(top_p[row]) * float(values[:count].sum())).sum()))
        count = max(1, int((values[:count] >= float(min_p[row]) * float(values[0])).sum()))
        kept = order[:count].sort().values
        cumulative = probs[kept].cumsum(0)
        target = int(draws[row]) * 2.0**-53 * float(cumulative[-1])
        out[row] = kept[min(int(torch.searchsorted(cumulative, target, right=True)), count - 1)]


def sample_tokens(
    out: torch.Tensor,
    logits: torch.Tensor,
    rows: torch.Tensor,
    temperatures: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    keys: torch.Tensor,
) -> None:
    """`sample` of logits[rows[d]] for each draw d, by the random number of keys[d] (int64: seed, row key, sample, position)."""
    draws = [random_draws.draw(*(int(part) % 2**64 for part in key)) for key in keys.tolist()]
    sample(out, logits[rows.long()], temperatures, top_k.long(), top_p, min_p, torch.tensor(draws, dtype=torch.int64))


def store_kv(
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    slot_ids: torch.Tensor,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> None:
    """Write k, v[T, kv_heads, D] into slots of caches[num_blocks, kv_heads, block_size, D] or, as formats.quantize_slots makes
    them, [num_blocks, kv_heads, block_size, D + 4] (int8).

    slot_ids[T] int64: slot s lies in block s // block_size at offset s % block_size; negative: nowhere. Caches of float8_e4m3fn
    take k / k_scale and v / v_scale.
    """
    written = slot_ids >= 0
    block_size = k_cache.shape[2]
    blocks, offsets = slot_ids[written] // block_size, slot_ids[written] % block_size
    for cache, values, scale in ((k_cache, k[written], k_scale), (v_cache, v[written], v_scale)):
        if cache.dtype == torch.float8_e4m3fn:
            stored = _to_e4m3(values.float() * (1 / torch.tensor(scale)))
            cache.view(torch.uint8)[blocks, :, offsets] = stored.view(torch.uint8)
        else:
            cache[blocks, :, offsets] = quantize_slots(values) if cache.dtype == torch.int8 else values.to(cache.dtype)


def paged_attention(
    out: torch.Tensor,
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    query_start: torch.Tensor,
    scale: float,
    window: int = 0,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    cap: float = 0.0,
    slopes: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
) -> None:
    """Causal attention of each sequence's new tokens over its whole context, found through its block table.

    out, q[T, heads, D]; caches as of store_kv, those of float8_e4m3fn times their scales; block_tables[S, max_blocks] int32;
    context_lens[S] int32 (tokens in the cache, the new ones included); query_start[S + 1] int32 (rows of q that belong to
    sequence s). The last new token of s stands at position context_lens[s] - 1. heads is a multiple of kv_heads. window > 0: a
    token sees itself and the window - 1 tokens before it. Softmax and sums in float32, in float64 where q is (Kwon et al., SOSP
    2023, section 4.1). cap > 0: scores become cap * tanh(score / cap) (Gemma 2); then, slopes[heads]: a head's falls by its
    slope for each token between query and key (ALiBi); sinks[heads]: a score more in each head's softmax, of no value.
    """
    block_size = k_cache.shape[2]
    group = q.shape[1] // k_cache.shape[1]
    for s in range(context_lens.shape[0]):
        first, last, context = int(query_start[s]), int(query_start[s + 1]), int(context_lens[s])
        if first == last:
            continue
        blocks = block_tables[s, : -(-context // block_size)].long()
        keys, values = (
            _slots(cache, blocks, context, factor, q).repeat_interleave(group, dim=1)
            for cache, factor in ((k_cache, k_scale), (v_cache, v_scale))
        )
        scores = torch.einsum("qhd,khd->hqk", q[first:last].to(keys.dtype), keys) * scale
        query_pos = torch.arange(context - (last - first), context).unsqueeze(1)
        key_pos = torch.arange(context).unsqueeze(0)
        if cap > 0:
            scores = cap * torch.tanh(scores / cap)
        if slopes is not None:
            scores = scores + slopes.to(scores.dtype).view(-1, 1, 1) * (key_pos - query_pos)
        hidden = key_pos > query_pos
        if window > 0:
            hidden |= key_pos <= query_pos - window
        scores = scores.masked_fill(hidden, float("-inf"))
        if sinks is not None:
            scores = torch.cat([scores, sinks.to(scores.dtype).view(-1, 1, 1).expand(-1, scores.shape[1], 1)], dim=-1)
        probs = scores.softmax(-1)[..., :context]
        out[first:last] = torch.einsum("hqk,khd->qhd", probs, values)


def _slots(cache: torch.Tensor, blocks: torch.Tensor, context: int, factor: float, like: torch.Tensor) -> torch.Tensor:
    """[context, kv_heads, D]: what the slots of `blocks` stand for."""
    slots = cache[blocks].transpose(1, 2).flatten(0, 1)[:context]
    if slots.dtype == torch.int8:
        return dequantize_slots(slots)
    return slots.double() if like.dtype == torch.float64 else slots.float() * factor


def copy_blocks(target: torch.Tensor, source: torch.Tensor, pairs: torch.Tensor) -> None:
    """Copy whole blocks: pairs[n, 2] int64 are (source block, target block), as if in order; swap_blocks is the same.

    target, source[num_blocks, ...] of one type; source may be target.
    """
    for source_id, target_id in pairs.tolist():
        target[target_id] = source[source_id].clone()
