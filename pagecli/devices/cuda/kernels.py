"""The operations as CUDA kernels: `reference` says what each means, `_cuda` checks its arguments and queues the work.

Tensors lie on the GPU, activations in the model's own type (bfloat16, float16; float32 for checking), sums in float32. Nothing
here waits for the GPU, so slots, blocks and token ids are trusted. Environment: PAGECLI_CUDA_MODULE loads the extension from
another file, such as the emulated one of the tests, whose "GPU" tensors lie on the CPU.
"""

import functools
import importlib.util
import os
from dataclasses import dataclass
from types import ModuleType

import torch

from pagecli.errors import ModelError, UsageError


@functools.cache
def extension() -> ModuleType:
    """The extension module. Raises ModelError where pagecli was built without CUDA."""
    path = os.environ.get("PAGECLI_CUDA_MODULE")
    if not path:
        try:
            from pagecli.devices.cuda import _cuda  # type: ignore[attr-defined]
        except ImportError as error:
            raise ModelError("this pagecli was built without CUDA kernels", "install it where nvcc is found") from error
        return _cuda
    spec = importlib.util.spec_from_file_location("pagecli.devices.cuda._cuda", path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise UsageError(f"PAGECLI_CUDA_MODULE: {path} is not an extension module", "unset it to use the installed one")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def raw(tensor: torch.Tensor) -> torch.Tensor:
    """As the extension takes it: float8_e4m3fn as bytes, as not every torch has a DLPack code for it."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor


def rms_norm(
    out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    added: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
) -> None:
    """x += added, where given; out[..., D] = x / sqrt(mean(x^2) + eps) * weight[D] (float32); x [T, D] or [T, heads, D].

    Here and below: with scales[T, 1], out is `quantize_rows` of what it would be without, with the same bits; x of 16 bits.
    """
    extension().rms_norm(raw(out), x, weight, eps, added, scales)


def layer_norm(
    out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    added: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
) -> None:
    """x += added, where given; out[T, H] = (x - mean) / sqrt(var + eps) * weight[H] + bias[H] (both float32)."""
    extension().layer_norm(raw(out), x, weight, bias, eps, added, scales)


def activation(
    out: torch.Tensor,
    x: torch.Tensor,
    name: str,
    bias: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
) -> None:
    """out[T, I] = name(x[T, I] + bias[I]), bias float32; name: none, relu, gelu (erf), gelu_tanh, silu, relu2; out may be x."""
    extension().bias_activation(raw(out), x, name, bias, scales)


def gated_activation(
    out: torch.Tensor,
    gate_up: torch.Tensor,
    name: str,
    bias: torch.Tensor | None = None,
    limit: float = 0.0,
    alpha: float = 1.0,
    scales: torch.Tensor | None = None,
) -> None:
    """out[T, I] = name(gate) * up of gate_up[T, 2 * I] + bias[2 * I], bias float32; limit > 0: gate * sigmoid(alpha * gate) *
    (up + 1), gates at most `limit`, ups within it."""
    extension().gated_activation(raw(out), gate_up, name, bias, limit, alpha, scales)


def exact_linear(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """out[T, N] = x[T, K] @ weight[N, K].T + bias[N], all but x float32; K % 8 == 0. The same bits in any batch."""
    extension().exact_linear(out, x, weight, bias)


def router(ids: torch.Tensor, weights: torch.Tensor, logits: torch.Tensor, normalize: bool, token_ids: torch.Tensor) -> None:
    """ids[T, C] (int32) = the experts of the C largest of logits[T, E], of equal ones the first; weights[T, C] =
    softmax(logits)[ids], divided by their sum where `normalize`; both -1 where token_ids[T] (int32) is negative.

    E up to 512, C up to 32; logits and weights float32. A row with a NaN has weights of NaN.
    """
    extension().router(ids, weights, logits, normalize, token_ids)


@dataclass(frozen=True, slots=True)
class SortedRows:
    """The rows (token, choice) of a step by expert, on the device: the plan of `grouped_linear`."""

    order: torch.Tensor  # [T * C] int32: rows, first those of the first expert; negative experts' rows have no place
    tiles: torch.Tensor  # [tiles, 3] int32: expert (-1: no tile), where in `order` the tile begins, its rows
    tile_rows: int


def sort_experts(ids: torch.Tensor, num_experts: int, tile_rows: int) -> SortedRows:
    """Of ids[T, C] (int32, contiguous), in tiles of up to `tile_rows` rows: 16 or 64."""
    module, rows = extension(), ids.numel()
    order = torch.empty(rows, dtype=torch.int32, device=ids.device)
    num_tiles = module.most_expert_tiles(rows, num_experts, tile_rows)
    tiles = torch.empty(num_tiles, 3, dtype=torch.int32, device=ids.device)
    module.sort_experts(order, tiles, ids, num_experts, tile_rows)
    return SortedRows(order, tiles, tile_rows)


def grouped_linear(
    out: torch.Tensor,
    x: torch.Tensor,
    sorted_rows: SortedRows,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
) -> None:
    """out[T, C, N] = x[T, K], or x[T, C, K], @ weight[expert, N, K].T + bias[expert, N] (float32), where there is an expert.

    N % 8 == K % 8 == 0; float32 by tiles of 16 rows alone. The same bits in any batch and by either size of tile. With
    scales[experts, N] (float32) weight is `in_product_order`, times them; x is bfloat16 then, and K % 16 == 0.
    """
    plan = sorted_rows.order, sorted_rows.tiles, sorted_rows.tile_rows
    extension().grouped_linear(out, x, raw(weight), scales, bias, *plan)


def in_product_order(weight: torch.Tensor) -> torch.Tensor:
    """weight[..., K] of float8_e4m3fn with each 16 columns in the order in which tensor cores take them."""
    order = torch.tensor([0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15], device=weight.device)
    sixteens = raw(weight).view(*weight.shape[:-1], -1, 16)
    return sixteens.index_select(-1, order).view(weight.shape).view(weight.dtype)


def combine_experts(
    out: torch.Tensor,
    x: torch.Tensor,
    weights: torch.Tensor,
    shared: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
) -> None:
    """out[T, N] = weights[T, 0] * x[T, 0, N] + weights[T, 1] * x[T, 1, N] + ... in this order, of weights (float32) of 0 or
    more, and last shared[T, N], times sigmoid(gate[T, 1]) (float32) where that is given. N % 8 == 0."""
    extension().combine_experts(out, x, weights, shared, gate)


def low_rank(
    out: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    starts: torch.Tensor,
    tiles: torch.Tensor,
    inner: torch.Tensor,
) -> None:
    """out[t, N] += (x[t, K] @ a[r].T) @ b[r] of the ranks r = starts[i]:starts[i + 1] of its adapter i, for the tiles' rows t.

    a[R, K] and b[R, N] float32, N and K multiples of 8; tiles[n, 1 + 8] int32: an adapter, then rows that it changes, -1 for
    none behind them (adapter -1: an empty tile); inner[n, 8, most ranks of an adapter] float32 is overwritten.
    """
    extension().low_rank(out, x, a, b, starts, tiles, inner)


def quantize_rows(out: torch.Tensor, scales: torch.Tensor, x: torch.Tensor) -> None:
    """scales[T, 1] = the largest of |x[T, K]| / 448 (1 for zeros), out[T, K] = x / scales in float8_e4m3fn; K % 16 == 0."""
    extension().quantize_rows(raw(out), scales, x)


def embedding(
    out: torch.Tensor,
    token_ids: torch.Tensor,
    weight: torch.Tensor,
    positions: torch.Tensor | None = None,
    positions_weight: torch.Tensor | None = None,
    position_offset: int = 0,
) -> None:
    """out[T, H] = weight[token_ids[T]] (+ positions_weight[positions[T] + position_offset]); ids int32, negative: zeros."""
    extension().embedding(out, token_ids, weight, positions, positions_weight, position_offset)


def argmax(out: torch.Tensor, x: torch.Tensor) -> None:
    """out[R] int64 = index of the largest value, the first of equal ones, of each row of x[R, N]; -1 as in `reference`."""
    extension().argmax(out, x)


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
    """out[d] int64 = a token drawn from logits[rows[d], vocab], as devices/cpu/sampler.py draws it, for each draw d.

    rows and top_k (0: all) int32; temperatures (0: the likeliest), top_p (1: all) and min_p (0: all) float32; keys[d] int64:
    seed, row key, sample, position of the output token, which alone decide the random number.
    """
    extension().sample_tokens(out, logits, rows, temperatures, top_k, top_p, min_p, keys)


def log_normalizers(out: torch.Tensor, logits: torch.Tensor, rows: torch.Tensor, subtract: bool = False) -> None:
    """out[n, 2] = largest, log(sum exp(x - largest)) of x = logits[rows[n], vocab]; subtract: x becomes x - largest - log sum.

    Here and below rows is int32, logits float32.
    """
    extension().log_normalizers(out, logits, rows, subtract)


def top_logits(
    ids: torch.Tensor, values: torch.Tensor, logits: torch.Tensor, rows: torch.Tensor, offsets: torch.Tensor
) -> None:
    """ids, values[offsets[i]:offsets[i + 1]] (int32, float32) = where the largest of logits[rows[i], vocab] stand and what they
    are, the first of equal ones, in the order of ids; offsets[n + 1] int32, of each row at most vocab; NaN counts as -inf."""
    extension().top_logits(ids, values, logits, rows, offsets)


def apply_penalties(
    logits: torch.Tensor,
    rows: torch.Tensor,
    penalties: torch.Tensor,
    offsets: torch.Tensor,
    ids: torch.Tensor,
    counts: torch.Tensor,
    before: torch.Tensor,
    token_ids: torch.Tensor,
    last_tokens: torch.Tensor,
) -> None:
    """Repetition, presence and frequency (penalties[n, 3] float32) on the tokens that each row's sequence knows.

    They are ids[offsets[i]:offsets[i + 1]] (int32, each once), counts many times in its output, but the last entry's: that is
    token_ids[last_tokens[i]], its id is set (-1 where it is one of the others, whose count takes the last's). before[entries]
    = the logits before. Tokens that are none (negative) are left out.
    """
    extension().apply_penalties(logits, rows, penalties, offsets, ids, counts, before, token_ids, last_tokens)


def mask_logits(logits: torch.Tensor, rows: torch.Tensor, masks: torch.Tensor) -> None:
    """logits[rows[i], t] = -inf where bit t % 32 of masks[i, t // 32] is 0; masks[n, ceil(vocab / 32)] int32."""
    extension().mask_logits(logits, rows, masks)


def forbid_tokens(logits: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> None:
    """logits[rows[i], ids[i]] = -inf for each i; ids int32."""
    extension().forbid_tokens(logits, rows, ids)


def token_logprobs(
    out: torch.Tensor,
    tokens: torch.Tensor,
    logits: torch.Tensor,
    normalizers: torch.Tensor,
    wanted: torch.Tensor,
    ids: torch.Tensor,
    before: torch.Tensor,
) -> None:
    """out[i] = log probability of tokens[wanted[i, 0]] (int64; NaN where negative) under the logits before any penalty.

    wanted[n, 5] int32: the token, its row of logits, of normalizers (of `log_normalizers`), and from where to where in ids and
    before (of `apply_penalties`) its row's entries are.
    """
    extension().token_logprobs(out, tokens, logits, normalizers, wanted, ids, before)


def store_kv(
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    slot_ids: torch.Tensor,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> None:
    """Write k, v[T, kv_heads, D] into the slots slot_ids[T] (int64; negative: nowhere) of the caches.

    Caches of float8_e4m3fn take k / k_scale and v / v_scale, what is beyond +-448 as +-448; k and v then have 16 bits.
    """
    extension().store_kv(raw(k_cache), raw(v_cache), k, v, slot_ids, k_scale, v_scale)


def rotary_store_kv(
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    slot_ids: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> None:
    """rotary_embedding and store_kv in one: q is rotated in place, k only on its way into the cache."""
    caches = raw(k_cache), raw(v_cache)
    extension().rotary_store_kv(*caches, q, k, v, slot_ids, positions, cos_sin, k_scale, v_scale)


def norm_rotary_store_kv(
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    slot_ids: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    eps: float,
    positions: torch.Tensor | None = None,
    cos_sin: torch.Tensor | None = None,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> None:
    """rms_norm of q and k, by weights of a head or of all heads together, then rotary_store_kv (store_kv without cos_sin) in
    one, with the same bits: q changes in place, k only on its way into the cache. Heads of up to 256."""
    caches, rotary = (raw(k_cache), raw(v_cache)), (positions, cos_sin)
    extension().norm_rotary_store_kv(*caches, q, k, v, slot_ids, q_weight, k_weight, eps, *rotary, k_scale, v_scale)


def block_planes(targets: list[torch.Tensor], sources: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    """What copy_blocks and swap_blocks take as `planes`: [n, 2] int64, addresses of targets[i] and sources[i].

    The tensors, [num_blocks, kv_heads, block_size, head_dim] each, must outlive it; host memory must be pinned.
    """
    pairs = [(target.data_ptr(), source.data_ptr()) for target, source in zip(targets, sources, strict=True)]
    return torch.tensor(pairs, dtype=torch.int64).reshape(len(pairs), 2).to(device)


def copy_blocks(planes: torch.Tensor, pairs: list[tuple[int, int]], block_bytes: int) -> None:
    """Copy blocks (source, target) in every plane, as if in order; `block_bytes` is a block's size in one plane."""
    extension().copy_blocks(planes, pairs, block_bytes)


def swap_blocks(planes: torch.Tensor, pairs: list[tuple[int, int]], block_bytes: int) -> None:
    """copy_blocks with few threads, for copies over the bus that run beside other work, on a stream of their own."""
    extension().swap_blocks(planes, pairs, block_bytes)
