"""The definition of every operation, in plain torch: slow, obvious, and what the native kernels are tested against.

Activations are float32. T tokens, M rows, H hidden size, D head size, S sequences of the step.
Operations write into the outputs they are given and return nothing.
"""

import torch

from pagecli.core.sampling_params import MIN_TEMPERATURE
from pagecli.devices.cpu.packed_weight import GROUP_K, GROUP_WORDS, PANEL_WIDTH, PackedWeight, padded_shape
from pagecli.devices.cpu.screen import LIMIT, ZERO, Screen
from pagecli.devices.reference.tensors import as_tensor

_ACTIVATIONS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
}


def pack_weight(weight: torch.Tensor, dtype: str) -> PackedWeight:
    """weight[N, K] (float32, bfloat16 or float16) -> PackedWeight of `dtype` (float32, bfloat16 or int8)."""
    num_rows, num_cols = weight.shape
    if dtype == "int8":
        return _pack_int8(weight)
    rows, cols = padded_shape(num_rows, num_cols)
    padded = torch.zeros(rows, cols, dtype=getattr(torch, dtype))
    padded[:num_rows, :num_cols] = weight.to(padded.dtype)
    group = 1 if dtype == "float32" else 2  # k side by side
    data = padded.view(rows // PANEL_WIDTH, PANEL_WIDTH, cols // group, group).permute(0, 2, 1, 3)
    return PackedWeight(data.reshape(-1).contiguous(), num_rows, num_cols)


def quantize(values: torch.Tensor, limit: int = 127) -> tuple[torch.Tensor, torch.Tensor]:
    """values[R, K] -> q[R, K/64, 64] int16 in [-limit, limit], scale[R, K/64]: each group of 64 k (the last one padded with
    zeros) by its largest size / limit, rounded to the nearest, even on ties."""
    padded = torch.nn.functional.pad(values.float(), (0, -values.shape[1] % GROUP_K))
    groups = padded.view(values.shape[0], padded.shape[1] // GROUP_K, GROUP_K)
    size = groups.abs().amax(-1)
    inverse = torch.where(size > 1e-30, torch.full((), float(limit)) / size, torch.zeros(()))  # limit / size would round twice
    return (groups * inverse.unsqueeze(-1)).round().to(torch.int16), size / limit


def dequantize(q: torch.Tensor, scale: torch.Tensor, num_cols: int) -> torch.Tensor:
    """The values that q and scale stand for, [R, num_cols]."""
    return (q.float() * scale.unsqueeze(-1)).view(q.shape[0], q.shape[1] * GROUP_K)[:, :num_cols]


def _pack_int8(weight: torch.Tensor) -> PackedWeight:
    num_rows, num_cols = weight.shape
    q, scale = quantize(torch.nn.functional.pad(weight.float(), (0, 0, 0, -num_rows % PANEL_WIDTH)))
    panels, groups = q.shape[0] // PANEL_WIDTH, q.shape[1]
    scales = scale.view(torch.int32).view(panels, PANEL_WIDTH, groups).permute(0, 2, 1)
    pairs = q.to(torch.int8).view(panels, PANEL_WIDTH, groups, GROUP_K // 2, 2).permute(0, 2, 3, 1, 4).contiguous()
    words = pairs.view(panels, groups, -1).view(torch.int32)
    return PackedWeight(torch.cat([scales, words], dim=-1).reshape(-1).contiguous(), num_rows, num_cols)


def _unpack_int8(weight: PackedWeight) -> torch.Tensor:
    words = as_tensor(weight.data).view(-(-weight.num_rows // PANEL_WIDTH), -(-weight.num_cols // GROUP_K), GROUP_WORDS)
    scale = words[..., :PANEL_WIDTH].contiguous().view(torch.float32).permute(0, 2, 1)
    pairs = words[..., PANEL_WIDTH:].contiguous().view(torch.int8)
    q = pairs.view(*words.shape[:2], GROUP_K // 2, PANEL_WIDTH, 2).permute(0, 3, 1, 2, 4)
    num_rows, groups = words.shape[0] * PANEL_WIDTH, words.shape[1]
    values = dequantize(q.reshape(num_rows, groups, GROUP_K), scale.reshape(num_rows, groups), weight.num_cols)
    return values[: weight.num_rows].contiguous()


def unpack_weight(weight: PackedWeight) -> torch.Tensor:
    """PackedWeight -> weight[N, K] in its dtype, the inverse of pack_weight; of int8, the float32 values it stands for."""
    if weight.dtype == "int8":
        return _unpack_int8(weight)
    rows, cols = padded_shape(weight.num_rows, weight.num_cols)
    if weight.dtype == "float32":
        panels = as_tensor(weight.data).view(rows // PANEL_WIDTH, cols, PANEL_WIDTH).permute(0, 2, 1)
    else:
        panels = as_tensor(weight.data).view(rows // PANEL_WIDTH, cols // 2, PANEL_WIDTH, 2).permute(0, 2, 1, 3)
    return panels.reshape(rows, cols)[: weight.num_rows, : weight.num_cols].contiguous()


def embedding(out: torch.Tensor, token_ids: torch.Tensor, weight: PackedWeight) -> None:
    """out[T, K] = weight[token_ids[T], :]; token_ids int32, each in [0, N)."""
    out.copy_(unpack_weight(weight)[token_ids.long()])


def linear(
    out: torch.Tensor,
    x: torch.Tensor,
    weight: PackedWeight,
    bias: torch.Tensor | None = None,
    activation: str = "none",
    accumulate: bool = False,
) -> None:
    """out[M, N] (+)= activation(x[M, K] @ weight[N, K].T + bias[N]), accumulated in float32.

    With bfloat16 weights a kernel may round x to bfloat16 first (vdpbf16ps). With int8 weights it quantizes each row of x in
    groups of 64 to 15 bits and sums the products of a group exactly. A row's result depends on that row alone.
    """
    result = x.float() @ unpack_weight(weight).float().T
    if bias is not None:
        result += bias
    result = _ACTIVATIONS[activation](result)
    out.copy_(out + result if accumulate else result)


def rms_norm(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
    """out[..., D] = x / sqrt(mean(x^2) + eps) * weight[D]; x and out [T, D] or [T, heads, D], any stride; out may be x."""
    out.copy_(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight)


def layer_norm(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> None:
    """out[T, H] = (x - mean) / sqrt(var + eps) * weight[H] + bias[H]; out may be x."""
    out.copy_(torch.nn.functional.layer_norm(x, (x.shape[-1],), weight, bias, eps))


def rotary_embedding(q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor) -> None:
    """Rotate q[T, heads, D] and k[T, kv_heads, D] in place by their positions[T] (int32).

    cos_sin[P, R]: R/2 cosines then R/2 sines; dimension i pairs with i + R/2 (the "neox" order), dimensions from R on stay.
    """
    half = cos_sin.shape[1] // 2
    chosen = cos_sin[positions.long()].unsqueeze(1)
    cos, sin = chosen[..., :half], chosen[..., half:]
    for x in (q, k):
        a, b = x[..., :half].clone(), x[..., half : 2 * half].clone()
        x[..., :half] = a * cos - b * sin
        x[..., half : 2 * half] = b * cos + a * sin


def activation(out: torch.Tensor, x: torch.Tensor, name: str) -> None:
    """out[T, I] = name(x[T, I]); name: relu, gelu (erf), gelu_tanh, silu; out may be x."""
    out.copy_(_ACTIVATIONS[name](x))


def gated_activation(out: torch.Tensor, gate_up: torch.Tensor, name: str) -> None:
    """out[T, I] = name(gate_up[T, :I]) * gate_up[T, I:]; name as for `activation`."""
    gate, up = gate_up.chunk(2, dim=-1)
    out.copy_(_ACTIVATIONS[name](gate) * up)


def argmax(out: torch.Tensor, x: torch.Tensor) -> None:
    """out[R] int64 = index of the largest logit, the first of equal ones, of each row of x[R, N]; N > 0.

    -1 where no token can be chosen: a logit is NaN or +inf, or all are -inf.
    """
    largest = x.max(dim=-1, keepdim=True).values  # NaN where one is
    out.copy_((x == largest).int().argmax(dim=-1).masked_fill(~largest[:, 0].isfinite(), -1))


def linear_argmax(out: torch.Tensor, x: torch.Tensor, weight: PackedWeight, screen: Screen | None = None) -> int:
    """out[R] int64 = argmax of each row of x[R, K] @ weight[N, K].T; N > 0. Returns how many panels were computed: all."""
    logits = torch.empty(x.shape[0], weight.num_rows)
    linear(logits, x, weight)
    argmax(out, logits)
    return x.shape[0] * -(-weight.num_rows // PANEL_WIDTH)


def pack_screen(weight: PackedWeight) -> Screen:
    """The screen of finite weight[N, K]: each row by its largest size / 63, rounded to the nearest, even on ties."""
    padding = (0, -weight.num_cols % GROUP_K, 0, -weight.num_rows % PANEL_WIDTH)
    values = torch.nn.functional.pad(unpack_weight(weight).float(), padding)
    size = values.abs().amax(-1, keepdim=True)
    inverse = torch.where(size > 1e-30, torch.full((), float(LIMIT)) / size, torch.zeros(()))
    q, scale = (values * inverse).round(), size / LIMIT
    kept = q.double() * scale.double()
    rows, cols = values.shape
    quads = (q + ZERO).to(torch.uint8).view(rows // PANEL_WIDTH, PANEL_WIDTH, cols // 4, 4).permute(0, 2, 1, 3)
    floats = [scale.flatten(), kept.norm(dim=-1).float(), (values.double() - kept).norm(dim=-1).float()]
    words = [quads.contiguous().view(torch.int32).flatten(), *(each.view(torch.int32) for each in floats)]
    return Screen(torch.cat(words))


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


def quantize_slots(values: torch.Tensor) -> torch.Tensor:
    """values[..., D] -> int8[..., D + 4]: the values over their scale, to the nearest (even on ties), and as four bytes more
    the scale, float32: the largest size / 127. What is not finite makes the scale NaN."""
    values = values.float()
    size = values.abs().amax(-1, keepdim=True)
    inverse = torch.where((size > 1e-30) & size.isfinite(), torch.full((), 127.0) / size, torch.zeros(()))
    scale = torch.where(size.isfinite(), size / 127, torch.full((), float("nan")))
    q = (values * inverse).nan_to_num(0, 0, 0).round().to(torch.int8)
    return torch.cat([q, scale.clone(memory_format=torch.contiguous_format).view(torch.int8)], dim=-1)


def keys_by_dimension(k_cache: torch.Tensor) -> torch.Tensor:
    """k_cache[..., block_size, D] -> [..., D, block_size], as the CPU's kernels keep K. int8[..., block_size, D + 4] ->
    [..., D + 4, block_size]: the last four rows are one run of the block's scales."""
    if k_cache.dtype != torch.int8:
        return k_cache.transpose(-1, -2).contiguous()
    numbers, scales = k_cache[..., :-4].transpose(-1, -2), k_cache[..., -4:]
    return torch.cat([numbers, scales.reshape(*scales.shape[:-2], 4, scales.shape[-2])], dim=-2)


def dequantize_slots(slots: torch.Tensor) -> torch.Tensor:
    """int8[..., D + 4] -> the float32 values[..., D] it stands for."""
    return slots[..., :-4].float() * slots[..., -4:].contiguous().view(torch.float32)


def store_kv(k_cache: torch.Tensor, v_cache: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slot_ids: torch.Tensor) -> None:
    """Write k, v[T, kv_heads, D] into slots of caches[num_blocks, kv_heads, block_size, D] (float32 or bfloat16) or, as
    quantize_slots makes them, [num_blocks, kv_heads, block_size, D + 4] (int8).

    slot_ids[T] int64: slot s lies in block s // block_size at offset s % block_size.
    """
    block_size = k_cache.shape[2]
    blocks, offsets = slot_ids // block_size, slot_ids % block_size
    for cache, values in ((k_cache, k), (v_cache, v)):
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
) -> None:
    """Causal attention of each sequence's new tokens over its whole context, found through its block table.

    out, q[T, heads, D]; caches as of store_kv; block_tables[S, max_blocks] int32; context_lens[S] int32
    (tokens in the cache, the new ones included); query_start[S + 1] int32 (rows of q that belong to sequence s). The last new
    token of s stands at position context_lens[s] - 1. heads is a multiple of kv_heads. window > 0: a token sees itself and the
    window - 1 tokens before it. Softmax and sums in float32 (Kwon et al., SOSP 2023, section 4.1).
    """
    block_size = k_cache.shape[2]
    group = q.shape[1] // k_cache.shape[1]
    for s in range(context_lens.shape[0]):
        first, last, context = int(query_start[s]), int(query_start[s + 1]), int(context_lens[s])
        if first == last:
            continue
        blocks = block_tables[s, : -(-context // block_size)].long()
        slots = (c[blocks].transpose(1, 2).flatten(0, 1)[:context] for c in (k_cache, v_cache))
        keys, values = (
            (dequantize_slots(s) if s.dtype == torch.int8 else s.float()).repeat_interleave(group, dim=1) for s in slots
        )
        scores = torch.einsum("qhd,khd->hqk", q[first:last].float(), keys) * scale
        query_pos = torch.arange(context - (last - first), context).unsqueeze(1)
        key_pos = torch.arange(context).unsqueeze(0)
        hidden = key_pos > query_pos
        if window > 0:
            hidden |= key_pos <= query_pos - window
        probs = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        out[first:last] = torch.einsum("hqk,khd->qhd", probs, values)


def copy_blocks(target: torch.Tensor, source: torch.Tensor, pairs: torch.Tensor) -> None:
    """Copy whole blocks: pairs[n, 2] int64 are (source block, target block), carried out in order.

    target, source[num_blocks, kv_heads, block_size, D] (int8: D + 4) of one type; source may be target.
    """
    for source_id, target_id in pairs.tolist():
        target[target_id] = source[source_id].clone()
