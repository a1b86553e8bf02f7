"""The format of weights that stay quantized in memory, defined in plain torch (devices/cpu/weights/quantized_weight.py)."""

import numpy as np
import torch

from pagecli.devices.cpu.weights import quantized_weight
from pagecli.devices.cpu.weights.packed_weight import PANEL_WIDTH, PackedWeight
from pagecli.devices.cpu.weights.quantized_weight import HEADER_BYTES, PLANES, RUN_K, Header, header_of
from pagecli.devices.reference.tensors import as_tensor
from pagecli.model.weights.quantized import E4M3, QuantizedFormat, QuantizedTensor


def pack_quantized(tensor: QuantizedTensor, dtype: str) -> PackedWeight:
    """A matrix that stays quantized and is multiplied as `dtype`, float32 or bfloat16; groups of 32 to 256 columns."""
    num_rows, num_cols = tensor.shape
    data, header = quantized_weight.allocate(tensor.format, num_rows, num_cols, dtype), Header(dtype, tensor.format)
    panels, runs = -(-num_rows // PANEL_WIDTH), num_cols // RUN_K

    def of_panels(part: np.ndarray) -> torch.Tensor:  # [panels, columns, rows]
        padded = torch.nn.functional.pad(torch.from_numpy(np.array(part)), (0, 0, 0, -num_rows % PANEL_WIDTH))
        return padded.view(panels, PANEL_WIDTH, -1).transpose(1, 2).contiguous()

    arrays = {name: of_panels(part) for name, part in tensor.arrays.items()}
    factors = [
        arrays[name].view(torch.uint8).reshape(panels, runs, -1) for name in ("factor", "offset_factor") if name in arrays
    ]
    numbers = arrays["q"].reshape(panels, runs, RUN_K, PANEL_WIDTH)
    run_bytes = torch.cat([*factors, _packed_numbers(numbers, tensor.format)], dim=-1)
    groups = num_cols // tensor.format.group
    halves = [arrays[name].view(torch.uint8).reshape(panels, groups, -1) for name in ("scale", "offset") if name in arrays]
    packed = torch.cat([*halves, run_bytes.reshape(panels, groups, -1)], dim=-1)
    assert packed.shape[-1] == header.group_bytes
    data[HEADER_BYTES:] = packed.flatten().numpy()
    return PackedWeight(data, num_rows, num_cols)


def _packed_numbers(numbers: torch.Tensor, made_of: QuantizedFormat) -> torch.Tensor:
    """numbers[panels, runs, k, row] -> bytes[panels, runs, ...]."""
    shape, bits = numbers.shape[:2], made_of.bits
    if made_of.float8:
        return numbers.reshape(*shape, -1)
    if bits == 8:
        pairs = numbers.view(torch.uint8).reshape(*shape, RUN_K // 2, 2, PANEL_WIDTH)
        return pairs.transpose(-1, -2).reshape(*shape, -1)
    planes, up = [], 0
    for width in PLANES[bits]:
        plane = numbers.int() >> up & (1 << width) - 1
        pairs = plane.view(*shape, width, 16 // width, 2, PANEL_WIDTH)  # ..., word, pair, half, row
        words = (pairs << _shifts(width)).sum((-2, -3), dtype=torch.int32)
        planes.append(words.contiguous().view(torch.uint8).reshape(*shape, -1))
        up += width
    return torch.cat(planes, dim=-1)


def _shifts(width: int) -> torch.Tensor:
    """[pair of a word, half, 1]: bits."""
    pairs, halves = torch.arange(0, 16, width, dtype=torch.int32), torch.tensor([0, 16], dtype=torch.int32)
    return (pairs.view(-1, 1) + halves).unsqueeze(-1)


def _numbers(packed: torch.Tensor, made_of: QuantizedFormat) -> torch.Tensor:
    """The inverse of _packed_numbers."""
    shape, bits = packed.shape[:2], made_of.bits
    if made_of.float8:
        return packed.view(*shape, RUN_K, PANEL_WIDTH)
    if bits == 8:
        return packed.contiguous().view(torch.int8).view(*shape, RUN_K // 2, PANEL_WIDTH, 2).transpose(-1, -2).flatten(2, 3)
    numbers, first, up = torch.zeros(*shape, RUN_K, PANEL_WIDTH, dtype=torch.int32), 0, 0
    for width in PLANES[bits]:
        last = first + width * PANEL_WIDTH * 4
        words = packed[..., first:last].contiguous().view(torch.int32).view(*shape, width, 1, 1, PANEL_WIDTH)
        plane = words >> _shifts(width) & (1 << width) - 1
        numbers |= plane.reshape(numbers.shape) << up
        first, up = last, up + width
    return numbers


def unpack_quantized(weight: PackedWeight) -> torch.Tensor:
    """weight[N, K], float32: rounded to bfloat16 where it is multiplied as such."""
    data, header = as_tensor(weight.data), header_of(weight.data)
    wanted = header.format
    panels, groups, runs = -(-weight.num_rows // PANEL_WIDTH), weight.num_cols // wanted.group, weight.num_cols // RUN_K
    packed = data[HEADER_BYTES:].view(panels, groups, header.group_bytes)
    halves_bytes, factors_bytes = header.scales_bytes, 16 * header.num_factors * (1 + header.num_offsets)
    of_runs = packed[..., halves_bytes:].reshape(panels, runs, header.run_bytes)
    numbers = _numbers(of_runs[..., factors_bytes:], wanted)
    if wanted.float8:
        values = torch.from_numpy(E4M3)[numbers.int()]
    else:
        values = torch.tensor(wanted.table)[numbers] if wanted.bits == 4 else numbers.float() - wanted.center

    def of_rows(part: torch.Tensor) -> torch.Tensor:  # [panels, columns, rows] -> [N, K]
        repeated = part.float().repeat_interleave(weight.num_cols // part.shape[1], dim=1)
        return repeated.transpose(1, 2).reshape(panels * PANEL_WIDTH, weight.num_cols)

    halves = (
        packed[..., :halves_bytes]
        .contiguous()
        .view(torch.float32 if wanted.wide else torch.float16)
        .view(panels, groups, -1, PANEL_WIDTH)
    )
    scale, offset = of_rows(halves[:, :, 0]), of_rows(halves[:, :, -1])
    if header.num_factors:
        factors = of_runs[..., :factors_bytes].contiguous().view(torch.int8)
        each = factors.view(panels, runs, -1, header.num_factors, PANEL_WIDTH)
        scale = scale * of_rows(each[:, :, 0].reshape(panels, -1, PANEL_WIDTH))
        offset = offset * of_rows(each[:, :, -1].reshape(panels, -1, PANEL_WIDTH))
    low = {"none": torch.zeros(()), "zero": -scale * offset, "low": offset}[wanted.kind]
    matrix = of_rows(values.reshape(panels, -1, PANEL_WIDTH))
    exact = (scale * matrix + low)[: weight.num_rows].contiguous()
    return exact.bfloat16().float() if header.dtype == "bfloat16" else exact
