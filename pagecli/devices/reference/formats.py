"""The kernels' formats of weights, quantized bounds and KV slots, defined in plain torch.

T tokens, N outputs, K inputs, D head size. Layouts: packed_weight.py and quantized_bounds.py of devices/cpu/weights.
"""

import torch

from pagecli.devices.cpu.weights.packed_weight import GROUP_BYTES, GROUP_K, PANEL_WIDTH, PackedWeight, padded_shape
from pagecli.devices.cpu.weights.quantized_bounds import LIMIT, ZERO, QuantizedBounds
from pagecli.devices.reference.quantized import pack_quantized as pack_quantized
from pagecli.devices.reference.quantized import unpack_quantized
from pagecli.devices.reference.tensors import as_tensor


def pack_weight(weight: torch.Tensor, dtype: str) -> PackedWeight:
    """weight[N, K] (float32, bfloat16 or float16) -> PackedWeight of `dtype` (float32, bfloat16, int8 or int8-a16)."""
    num_rows, num_cols = weight.shape
    if dtype in ("int8", "int8-a16"):
        return _pack_groups(weight, rotated=dtype == "int8")
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
    """The values of q and scale, [R, num_cols]."""
    return (q.float() * scale.unsqueeze(-1)).view(q.shape[0], q.shape[1] * GROUP_K)[:, :num_cols]


def rotate(values: torch.Tensor) -> torch.Tensor:
    """values[R, K] -> [R, K padded to a multiple of 64]: each group of 64 multiplied by the Hadamard matrix of order 64, not
    yet normalized (1/8): six stages of sums and differences of a group's halves, laid down alternately, the kernels' order."""
    padded = torch.nn.functional.pad(values.float(), (0, -values.shape[1] % GROUP_K))
    groups = padded.view(values.shape[0], padded.shape[1] // GROUP_K, GROUP_K)
    for _ in range(6):
        first, second = groups[..., : GROUP_K // 2], groups[..., GROUP_K // 2 :]
        groups = torch.stack([first + second, first - second], dim=-1).flatten(-2)
    return groups.flatten(-2)


def quantize_rotated(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """values[R, K] -> q[R, K/64, 64] int16 in [-127, 127], scale[R, K/64], of the values rotated by the normalized matrix."""
    q, scale = quantize(rotate(values))
    return q, scale * 0.125


def dequantize_rotated(q: torch.Tensor, scale: torch.Tensor, num_cols: int) -> torch.Tensor:
    """The values of q and scale, [R, num_cols]: the normalized matrix is its own inverse."""
    return rotate(dequantize(q, scale * 0.125, q.shape[1] * GROUP_K))[:, :num_cols]


def _pack_groups(weight: torch.Tensor, rotated: bool) -> PackedWeight:
    num_rows, num_cols = weight.shape
    padded = torch.nn.functional.pad(weight.float(), (0, 0, 0, -num_rows % PANEL_WIDTH))
    q, scale = quantize_rotated(padded) if rotated else quantize(padded)
    panels, groups, per_lane = q.shape[0] // PANEL_WIDTH, q.shape[1], 4 if rotated else 2
    scales = scale.view(panels, PANEL_WIDTH, groups).permute(0, 2, 1).contiguous().view(torch.int8)
    lanes = q.to(torch.int8).view(panels, PANEL_WIDTH, groups, GROUP_K // per_lane, per_lane).permute(0, 2, 3, 1, 4)
    data = torch.cat([scales, lanes.reshape(panels, groups, -1)], dim=-1).reshape(-1).contiguous()
    return PackedWeight(data if rotated else data.view(torch.int32), num_rows, num_cols)


def groups_of(weight: PackedWeight) -> tuple[torch.Tensor, torch.Tensor]:
    """q[N, K/64, 64] int8 and scale[N, K/64] of an int8 or int8-a16 weight, N padded to whole panels."""
    per_lane = 4 if weight.dtype == "int8" else 2
    panels, groups = -(-weight.num_rows // PANEL_WIDTH), -(-weight.num_cols // GROUP_K)
    data = as_tensor(weight.data).view(torch.int8).view(panels, groups, GROUP_BYTES)
    scale = data[..., : 4 * PANEL_WIDTH].contiguous().view(torch.float32).permute(0, 2, 1)
    lanes = data[..., 4 * PANEL_WIDTH :].reshape(panels, groups, GROUP_K // per_lane, PANEL_WIDTH, per_lane)
    q = lanes.permute(0, 3, 1, 2, 4).reshape(panels * PANEL_WIDTH, groups, GROUP_K)
    return q, scale.reshape(panels * PANEL_WIDTH, groups)


def _unpack_groups(weight: PackedWeight) -> torch.Tensor:
    values = dequantize_rotated if weight.dtype == "int8" else dequantize
    return values(*groups_of(weight), weight.num_cols)[: weight.num_rows].contiguous()


def unpack_weight(weight: PackedWeight) -> torch.Tensor:
    """PackedWeight -> weight[N, K] in its dtype, the inverse of pack_weight; of groups the float32 values they stand for, of a
    quantized one what it is multiplied as."""
    if weight.is_quantized:
        return unpack_quantized(weight)
    if weight.dtype in ("int8", "int8-a16"):
        return _unpack_groups(weight)
    rows, cols = padded_shape(weight.num_rows, weight.num_cols)
    if weight.dtype == "float32":
        panels = as_tensor(weight.data).view(rows // PANEL_WIDTH, cols, PANEL_WIDTH).permute(0, 2, 1)
    else:
        panels = as_tensor(weight.data).view(rows // PANEL_WIDTH, cols // 2, PANEL_WIDTH, 2).permute(0, 2, 1, 3)
    return panels.reshape(rows, cols)[: weight.num_rows, : weight.num_cols].contiguous()


def in_product_order(weight: torch.Tensor) -> torch.Tensor:
    """weight[..., K], each 16 columns in the order of GPU products in 8-bit floats: pairs of the first 8, the last in turn."""
    pairs = weight.unflatten(-1, (-1, 2, 4, 2))  # sixteens, halves, pairs
    return pairs.transpose(-2, -3).flatten(-4)


def pack_bounds(weight: PackedWeight) -> QuantizedBounds:
    """The bounds of finite weight[N, K]: each row by its largest size / 63, rounded to the nearest, even on ties."""
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
    return QuantizedBounds(torch.cat(words))


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
    return slots[..., :-4].float() * slots[..., -4:].clone(memory_format=torch.contiguous_format).view(torch.float32)
