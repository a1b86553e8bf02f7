"""Each kernel at the sizes of real models: how to call it, its torch equivalent, and the bytes and operations it cannot avoid.

`small` gives the same cases at sizes for a test: there the two must agree.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as functional
from adapter_case import low_rank_case
from measured_case import BF16, E4M3, ELEMENT, FLOAT32, Case, Sizes

from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.model import prompt_attention
from pagecli.devices.cuda.model.attention import attention_shape, paged_attention, plan_attention
from pagecli.devices.cuda.model.linear import float8_linear
from pagecli.devices.cuda.model.mixture import rows_of_tile


def norm_case(s: Sizes) -> Case:
    tokens, dim = s.of(4096, 5), s.of(5120, 64)
    num_bytes = 4 * tokens * dim * ELEMENT  # x and added read, x and out written

    def make() -> tuple:
        return (
            s.random(tokens, dim),
            s.random(tokens, dim),
            s.random(dim, dtype=torch.float32),
            torch.empty(tokens, dim, dtype=BF16, device=s.device),
        )

    def ours(x, added, weight, out):
        kernels.rms_norm(out, x, weight, 1e-5, added)
        return out

    def torchs(x, added, weight, out):
        return functional.rms_norm(x.add(added), (dim,), weight.to(BF16), 1e-5)

    name = f"residual + RMSNorm [{tokens}, {dim}]"
    return Case(name, num_bytes, 0, s.sets(make, num_bytes), ours, torchs, "add, rms_norm")


def gated_case(s: Sizes) -> Case:
    tokens, dim = s.of(4096, 3), s.of(13824, 64)
    num_bytes = 3 * tokens * dim * ELEMENT

    def make() -> tuple:
        return s.random(tokens, 2 * dim), torch.empty(tokens, dim, dtype=BF16, device=s.device)

    def ours(gate_up, out):
        kernels.gated_activation(out, gate_up, "silu")
        return out

    def torchs(gate_up, out):
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.silu(gate) * up

    return Case(f"SiLU gate [{tokens}, {dim}]", num_bytes, 0, s.sets(make, num_bytes), ours, torchs, "silu, multiply")


def bias_relu_case(s: Sizes) -> Case:
    tokens, dim = s.of(4096, 3), s.of(20480, 64)
    num_bytes = 2 * tokens * dim * ELEMENT

    def make() -> tuple:
        return s.random(tokens, dim), s.random(dim, dtype=torch.float32), torch.empty(tokens, dim, dtype=BF16, device=s.device)

    def ours(x, bias, out):
        kernels.activation(out, x, "relu", bias)
        return out

    def torchs(x, bias, out):
        return torch.relu(x + bias.to(BF16))

    return Case(f"bias + ReLU [{tokens}, {dim}]", num_bytes, 0, s.sets(make, num_bytes), ours, torchs, "add, relu")


def rotary_case(s: Sizes, normed: bool = False) -> Case:
    tokens, heads, kv_heads, dim, block = s.of(4096, 3), s.of(32, 2), s.of(8, 1), s.of(128, 32), 16
    num_bytes = tokens * (2 * heads + 4 * kv_heads) * dim * ELEMENT  # q both ways, k and v read and written
    num_blocks = -(-tokens // block)
    norms = (torch.ones(dim, device=s.device), torch.ones(dim, device=s.device), 1e-6)

    def make() -> tuple:
        caches = [torch.zeros(num_blocks, kv_heads, block, dim, dtype=BF16, device=s.device) for _ in range(2)]
        order = torch.randperm(num_blocks * block, device=s.device)[:tokens]
        qkv = s.random(tokens, heads + 2 * kv_heads, dim)
        angles = torch.rand(tokens, dim // 2, device=s.device)
        positions = torch.arange(tokens, dtype=torch.int32, device=s.device)
        return qkv, *caches, order, positions, torch.cat([angles.cos(), angles.sin()], dim=1)

    def ours(qkv, k_cache, v_cache, slots, positions, cos_sin):
        q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=1)
        if normed:
            kernels.norm_rotary_store_kv(k_cache, v_cache, q, k, v, slots, *norms, positions, cos_sin)
        else:
            kernels.rotary_store_kv(k_cache, v_cache, q, k, v, slots, positions, cos_sin)
        return k_cache

    name = f"{'norm + ' if normed else ''}rotary + KV write [{tokens}, {heads}+2*{kv_heads}, {dim}]"
    return Case(name, num_bytes, 0, s.sets(make, num_bytes), ours, None, "-")


def decode_case(
    s: Sizes, batch: int, context: int, heads: int, kv_heads: int, head_dim: int, cache: torch.dtype = BF16
) -> Case:
    batch, context, block = s.of(batch, 2), s.of(context, 40), 16
    blocks_each = -(-context // block)
    num_bytes = batch * (2 * context * kv_heads * cache.itemsize + 2 * heads * ELEMENT) * head_dim
    num_operations = 4 * batch * context * heads * head_dim
    shape = attention_shape(heads, kv_heads, head_dim, BF16)
    starts, lens = np.arange(batch + 1, dtype=np.int32), np.full(batch, context, dtype=np.int32)
    plan = plan_attention(lens, starts, shape, s.device)

    def make() -> tuple:
        caches = [s.random(batch * blocks_each, kv_heads, block, head_dim).to(cache) for _ in range(2)]
        tables = torch.randperm(batch * blocks_each, device=s.device).int().view(batch, blocks_each)
        q = s.random(batch, heads, head_dim)
        return q, *caches, tables, torch.empty_like(q)

    def ours(q, k_cache, v_cache, tables, out):
        paged_attention(out, q, k_cache, v_cache, tables, plan, head_dim**-0.5)
        return out

    def torchs(q, k_cache, v_cache, tables, out):
        """Over the blocks as they lie, a contiguous cache: what paging costs is the difference."""
        k, v = (c.view(batch, blocks_each, kv_heads, block, head_dim).transpose(1, 2).flatten(2, 3) for c in (k_cache, v_cache))
        return functional.scaled_dot_product_attention(q.unsqueeze(2), k, v, enable_gqa=heads != kv_heads).squeeze(2)

    name = f"decode, {batch} x {context} tokens, {heads}/{kv_heads} heads of {head_dim}"
    if cache != BF16:
        return Case(f"{name}, e4m3 cache", num_bytes, num_operations, s.sets(make, num_bytes), ours, None, "-")
    return Case(name, num_bytes, num_operations, s.sets(make, num_bytes), ours, None if s.small else torchs, "SDPA, contiguous")


def prefill_case(
    s: Sizes, batch: int, new: int, cached: int, heads: int, kv_heads: int, head_dim: int, beside_varlen: bool = False
) -> Case:
    """Beside torch's SDPA, or its varlen_attn, which runs on GPUs only."""
    batch, new, cached, block = s.of(batch, 2), s.of(new, 20), s.of(cached, 0), 16
    context = new + cached
    blocks_each = -(-context // block)
    pairs = batch * (new * cached + new * (new + 1) // 2)  # of a query and a key it sees
    num_bytes = batch * (2 * context * kv_heads + 2 * new * heads) * head_dim * ELEMENT
    shape = attention_shape(heads, kv_heads, head_dim, BF16)
    starts, lens = np.arange(0, batch * new + 1, new, dtype=np.int32), np.full(batch, context, dtype=np.int32)
    plan = plan_attention(lens, starts, shape, s.device)

    def make() -> tuple:
        tables = torch.arange(batch * blocks_each, dtype=torch.int32, device=s.device).view(batch, blocks_each)
        k, v = (s.random(batch, kv_heads, blocks_each * block, head_dim) for _ in range(2))
        caches = [x.unflatten(2, (blocks_each, block)).transpose(1, 2).flatten(0, 1).contiguous() for x in (k, v)]
        q = s.random(batch * new, heads, head_dim)
        if beside_varlen:
            k, v = (x[:, :, :context].transpose(1, 2).flatten(0, 1).contiguous() for x in (k, v))
        return q, *caches, tables, torch.empty_like(q), k, v

    first_rows = torch.from_numpy(starts).to(s.device)

    def varlens(q, k_cache, v_cache, tables, out, k, v):
        return prompt_attention.varlen(q, k, v, first_rows, new, head_dim**-0.5, 0)

    def ours(q, k_cache, v_cache, tables, out, k, v):
        paged_attention(out, q, k_cache, v_cache, tables, plan, head_dim**-0.5)
        return out

    def torchs(q, k_cache, v_cache, tables, out, k, v):
        rows = q.view(batch, new, heads, head_dim).transpose(1, 2)
        k, v = k[:, :, :context], v[:, :, :context]
        result = functional.scaled_dot_product_attention(rows, k, v, is_causal=True, enable_gqa=heads != kv_heads)
        return result.transpose(1, 2).flatten(0, 1)

    name = f"prefill, {batch} x {new} new behind {cached}, {heads}/{kv_heads} heads of {head_dim}"
    operations = 4 * pairs * heads * head_dim
    beside, beside_name = (torchs if cached == 0 else None), "SDPA, causal"
    if beside_varlen:
        name, beside, beside_name = f"{name}, varlen", varlens if s.device.type == "cuda" else None, "varlen_attn"
    return Case(name, num_bytes, operations, s.sets(make, num_bytes), ours, beside, beside_name)


def quantize_case(s: Sizes) -> Case:
    tokens, dim = s.of(4096, 3), s.of(5120, 64)
    num_bytes = tokens * dim * (ELEMENT + 1)

    def make() -> tuple:
        return (
            s.random(tokens, dim),
            torch.empty(tokens, dim, dtype=E4M3, device=s.device),
            torch.empty(tokens, 1, dtype=torch.float32, device=s.device),
        )

    def ours(x, out, scales):
        kernels.quantize_rows(out, scales, x)
        return out.float() * scales if s.small else out

    def torchs(x, out, scales):
        share = torch.full((), 448.0, device=x.device) / x.abs().amax(1, keepdim=True).float()  # rounded once, as ours
        narrow = (x * share).to(E4M3)
        return narrow.float() / share if s.small else narrow

    name = f"rows in e4m3 [{tokens}, {dim}]"
    return Case(name, num_bytes, 0, s.sets(make, num_bytes), ours, torchs, "abs, amax, multiply, to")


def float8_linear_case(s: Sizes) -> Case:
    """Gate and up projection of Llama-3-8B, a decode of 64 sequences, the rounding of its rows included."""
    tokens, rows, cols = s.of(64, 3), s.of(28672, 32), s.of(4096, 64)
    num_bytes = rows * cols + tokens * (cols + rows) * ELEMENT

    def make() -> tuple:
        weight = s.random(rows, cols)
        return s.random(tokens, cols), weight, float8_linear(weight, None)

    def ours(x, weight, layer):
        return layer(x)

    def torchs(x, weight, layer):
        return functional.linear(x, weight)

    name = f"linear in e4m3 [{tokens}, {cols}] x [{cols}, {rows}]"
    operations = 2 * tokens * rows * cols
    return Case(name, num_bytes, operations, s.sets(make, num_bytes), ours, None if s.small else torchs, "linear, bfloat16")


def argmax_case(s: Sizes) -> Case:
    rows, vocab = s.of(400, 3), s.of(128256, 100)
    num_bytes = rows * vocab * FLOAT32

    def make() -> tuple:
        return s.random(rows, vocab).float(), torch.empty(rows, dtype=torch.int64, device=s.device)

    def ours(x, out):
        kernels.argmax(out, x)
        return out

    return Case(f"argmax [{rows}, {vocab}]", num_bytes, 0, s.sets(make, num_bytes), ours, lambda x, out: x.argmax(-1), "argmax")


def sample_case(s: Sizes) -> Case:
    rows, vocab = s.of(400, 2), s.of(128256, 100)
    num_bytes = rows * vocab * FLOAT32

    def make() -> tuple:
        def full(value: float, dtype: torch.dtype) -> torch.Tensor:
            return torch.full((rows,), value, dtype=dtype, device=s.device)

        out, order = (
            torch.empty(rows, dtype=torch.int64, device=s.device),
            torch.arange(rows, dtype=torch.int32, device=s.device),
        )
        keys = torch.arange(4 * rows, device=s.device).view(rows, 4)
        filters = full(1.0, torch.float32), full(50, torch.int32), full(0.9, torch.float32), full(0.0, torch.float32)
        return out, s.random(rows, vocab).float(), order, *filters, keys

    def ours(out, *rest):
        kernels.sample_tokens(out, *rest)
        return out

    def torchs(out, logits, *rest):
        values, ids = logits.float().topk(min(50, vocab), dim=-1)
        return ids.gather(1, torch.softmax(values, -1).multinomial(1)).squeeze(1)

    name = f"sampling, top-k 50, top-p 0.9 [{rows}, {vocab}]"
    return Case(name, num_bytes, 0, s.sets(make, num_bytes), ours, None if s.small else torchs, "topk, softmax, multinomial")


def copy_case(s: Sizes) -> Case:
    planes, blocks, elements = s.of(80, 2), s.of(256, 4), s.of(8 * 16 * 128, 64)
    pairs = [(i, blocks + i) for i in range(blocks)]
    num_bytes = 2 * planes * blocks * elements * ELEMENT
    caches = [s.random(2 * blocks, 1, 1, elements) for _ in range(planes)]
    table = kernels.block_planes(caches, caches, s.device)

    def ours():
        kernels.copy_blocks(table, pairs, elements * ELEMENT)
        return torch.stack([cache[blocks:] for cache in caches]) if s.small else caches[0]

    def torchs():
        for cache in caches:
            cache[blocks:] = cache[:blocks]
        return torch.stack([cache[blocks:] for cache in caches]) if s.small else caches[0]

    name = f"copy_blocks, {blocks} blocks in {planes} planes"
    return Case(name, num_bytes, 0, [()], ours, torchs, "slice copies")


def experts_case(s: Sizes, tokens: int) -> Case:
    """Gate and up of Qwen3-30B-A3B's experts, 8 of 128 for a token, chosen alike; beside torch's product of sorted rows."""
    tokens, experts, chosen, rows, cols = s.of(tokens, 20), s.of(128, 5), s.of(8, 2), s.of(1536, 48), s.of(2048, 72)
    order = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(0)).argsort(-1)[:, :chosen].int().contiguous()
    num_read = order.unique().numel()
    num_bytes = (num_read * rows * cols + tokens * (cols + chosen * rows)) * ELEMENT
    ids = order.to(s.device)
    tile_rows = rows_of_tile(ids.numel(), experts, BF16)
    by_expert = ids.flatten().argsort(stable=True)
    offsets = torch.bincount(ids.flatten().long(), minlength=experts).cumsum(0).int()

    def make() -> tuple:
        weight, out = s.random(experts, rows, cols), torch.empty(tokens, chosen, rows, dtype=BF16, device=s.device)
        return s.random(tokens, cols), weight * cols**-0.5, out

    def ours(x, weight, out):
        kernels.grouped_linear(out, x, kernels.sort_experts(ids, experts, tile_rows), weight)
        return out

    def torchs(x, weight, out):
        found = functional.grouped_mm(x[by_expert // chosen], weight.transpose(1, 2), offs=offsets)
        return torch.empty_like(found).index_copy_(0, by_expert, found).view_as(out) if s.small else found

    name = f"experts [{tokens} x {chosen}, {cols}] x {num_read} of {experts} [{cols}, {rows}], sorting included"
    operations = 2 * tokens * chosen * rows * cols
    return Case(name, num_bytes, operations, s.sets(make, num_bytes), ours, torchs, "gather, grouped_mm; sorted")


def router_case(s: Sizes) -> Case:
    """Router of Qwen3-30B-A3B, its float32 product included."""
    tokens, experts, chosen, cols = s.of(256, 3), s.of(128, 8), s.of(8, 2), s.of(2048, 64)
    num_bytes = experts * cols * FLOAT32 + tokens * cols * ELEMENT + tokens * (experts + 2 * chosen) * FLOAT32
    token_ids = torch.zeros(tokens, dtype=torch.int32, device=s.device)

    def make() -> tuple:
        logits, shares = (torch.empty(tokens, n, dtype=torch.float32, device=s.device) for n in (experts, chosen))
        ids = torch.empty(tokens, chosen, dtype=torch.int32, device=s.device)
        return s.random(tokens, cols), s.random(experts, cols, dtype=torch.float32), logits, ids, shares

    def ours(x, weight, logits, ids, shares):
        kernels.exact_linear(logits, x, weight)
        kernels.router(ids, shares, logits, True, token_ids)
        return shares

    def torchs(x, weight, logits, ids, shares):
        return functional.linear(x.float(), weight).topk(chosen, dim=-1).values.softmax(-1)

    name, operations = f"router [{tokens}, {cols}] x [{cols}, {experts}], {chosen} chosen", 2 * tokens * experts * cols
    return Case(name, num_bytes, operations, s.sets(make, num_bytes), ours, torchs, "linear in float32, topk, softmax")


MAKERS: dict[str, Callable[[Sizes], Case]] = {
    "rms_norm": norm_case,
    "gated_activation": gated_case,
    "bias_relu": bias_relu_case,
    "rotary_store_kv": rotary_case,
    "norm_rotary_store_kv": lambda s: rotary_case(s, normed=True),
    "decode-opt-13b": lambda s: decode_case(s, 64, 1000, s.of(40, 2), s.of(40, 2), s.of(128, 64)),
    "decode-llama-3-8b": lambda s: decode_case(s, 256, 1000, s.of(32, 4), s.of(8, 1), s.of(128, 64)),
    "decode-opt-13b-e4m3": lambda s: decode_case(s, 64, 1000, s.of(40, 2), s.of(40, 2), s.of(128, 64), E4M3),
    "decode-llama-3-8b-e4m3": lambda s: decode_case(s, 256, 1000, s.of(32, 4), s.of(8, 1), s.of(128, 64), E4M3),
    "decode-one-long": lambda s: decode_case(s, 1, 100_000, s.of(32, 4), s.of(8, 1), s.of(128, 64)),
    "prefill-opt-13b": lambda s: prefill_case(s, 8, 1024, 0, s.of(40, 2), s.of(40, 2), s.of(128, 64)),
    "prefill-llama-3-8b": lambda s: prefill_case(s, 4, 2048, 0, s.of(32, 4), s.of(8, 1), s.of(128, 64)),
    "prefill-llama-3-8b-varlen": lambda s: prefill_case(s, 4, 2048, 0, s.of(32, 4), s.of(8, 1), s.of(128, 64), True),
    "prefill-behind-prefix": lambda s: prefill_case(s, 8, 512, 2048, s.of(32, 4), s.of(8, 1), s.of(128, 64)),
    "quantize_rows": quantize_case,
    "float8_linear": float8_linear_case,
    "router": router_case,
    "experts-one": lambda s: experts_case(s, 1),
    "experts-decode": lambda s: experts_case(s, 256),
    "experts-prefill": lambda s: experts_case(s, 8192),
    "low_rank": low_rank_case,
    "argmax": argmax_case,
    "sample_tokens": sample_case,
    "copy_blocks": copy_case,
}
