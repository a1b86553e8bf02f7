"""The format of weights that stay quantized in memory, defined in plain torch (devices/cpu/weights/quantized_weight.py)."""

import numpy as np
import torch

from pagecli.devices.cpu.weights import quantized_weight
from pagecli.devices.cpu.weights.packed_weight import PANEL_WIDTH, PackedWeight
from pagecli.devices.cpu.weights.quantized_weight import HEADER_BYTES, RUN_K, header_of
from pagecli.devices.reference.tensors import as_tensor
from pagecli.model.weights.quantized import QuantizedTensor

# Of 4 bits: k of a run by word, pair and half, as the nibbles of a row lie: nibble n = pair + 4 * half of word i.
_NIBBLES = torch.arange(RUN_K).view(4, 4, 2).transpose(1, 2).flatten()


def pack_quantized(tensor: QuantizedTensor, dtype: str) -> PackedWeight:
    """A matrix that stays quantized and is multiplied as `dtype`, float32 or bfloat16; groups of 32, 64 or 128 columns."""
    num_rows, num_cols = tensor.q.shape
    data, group = quantized_weight.allocate(tensor, dtype), tensor.group
    padding = (0, 0, 0, -num_rows % PANEL_WIDTH)
    parts = [part for part in (tensor.q, tensor.scale, tensor.offset) if part is not None]
    q, *halves = (torch.nn.functional.pad(torch.from_numpy(np.array(part)), padding) for part in parts)
    panels, groups = len(q) // PANEL_WIDTH, num_cols // group
    scales = [each.view(panels, PANEL_WIDTH, groups).transpose(1, 2).contiguous().view(torch.uint8) for each in halves]
    runs = q.view(panels, PANEL_WIDTH, groups, group // RUN_K, RUN_K).permute(0, 2, 3, 4, 1)  # ..., k, row
    if tensor.bits == 4:
        words = runs[..., _NIBBLES, :].reshape(panels, groups, -1, 4, 8, PANEL_WIDTH).int()
        shifts = torch.arange(0, 32, 4, dtype=torch.int32).view(8, 1)
        numbers = (words << shifts).sum(-2, dtype=torch.int32).contiguous()
    else:
        numbers = runs.reshape(panels, groups, -1, RUN_K // 2, 2, PANEL_WIDTH).transpose(-1, -2).contiguous()
    packed = torch.cat([*scales, numbers.view(torch.uint8).reshape(panels, groups, -1)], dim=-1)
    data[HEADER_BYTES:] = packed.flatten().numpy()
    return PackedWeight(data, num_rows, num_cols)


def unpack_quantized(weight: PackedWeight) -> torch.Tensor:
    """weight[N, K], float32."""
    data, header = as_tensor(weight.data), header_of(weight.data)
    panels, groups = -(-weight.num_rows // PANEL_WIDTH), weight.num_cols // header.group
    packed = data[HEADER_BYTES:].view(panels, groups, header.group_bytes())
    num_halves = 1 if header.kind == "none" else 2
    halves = (
        packed[..., : 32 * num_halves].contiguous().view(torch.float16).float().view(panels, groups, num_halves, PANEL_WIDTH)
    )
    scale, offset = halves[:, :, 0], halves[:, :, -1]
    numbers = packed[..., 32 * num_halves :].contiguous()
    if header.bits == 4:
        words = numbers.view(torch.int32).view(panels, groups, -1, 4, 1, PANEL_WIDTH)
        nibbles = words >> torch.arange(0, 32, 4, dtype=torch.int32).view(8, 1) & 15
        runs = torch.empty(panels, groups, header.group // RUN_K, RUN_K, PANEL_WIDTH)
        runs[..., _NIBBLES, :] = data[64:HEADER_BYTES].view(torch.float32)[nibbles].view(runs.shape)
    else:
        runs = numbers.view(torch.int8).float().view(panels, groups, -1, RUN_K // 2, PANEL_WIDTH, 2).transpose(-1, -2)
    matrix = runs.reshape(panels, groups, header.group, PANEL_WIDTH).permute(0, 3, 1, 2).flatten(0, 1)
    scale, offset = (each.permute(0, 2, 1).reshape(-1, groups, 1) for each in (scale, offset))
    low = {"none": torch.zeros(()), "zero": -scale * offset, "low": offset}[header.kind]
    return (scale * matrix + low).flatten(1)[: weight.num_rows].contiguous()
