"""Weights of linear layers and embeddings, packed once at load for the matrix kernels, and all those of a program.

One layout serves every instruction set (N output features, K input features, `weight[N, K]`):

    panel 0 holds rows 0..15, panel 1 rows 16..31, ...; N is padded with zeros to a multiple of 16, K to a multiple of 2
    float32   data[N/16][K  ][16]       one k, 16 rows side by side
    bfloat16  data[N/16][K/2][16][2]    two k of a row side by side: vdpbf16ps and AMX take them so; others shift and mask
    int8      data[N/16][K/64][1088]    bytes for 64 k of 16 rows, multiplied by the normalized Hadamard matrix, K padded to
                                        whole groups: 16 float scales (largest size / 127), q[16][16][4]: four k of a row
    int8-a16  data[N/16][K/64][272]     32-bit words for 64 k of 16 rows: 16 float scales, q[32][16][2]: two k of a row
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from pagecli.core.arrays import Array, Tensor, empty, stored_as
from pagecli.devices.cpu.weights import quantized_weight
from pagecli.model.program import GatedActivation, Linear, Operation, Weight

PANEL_WIDTH = 16
K_MULTIPLE = 2
GROUP_K = 64  # k that share a scale
GROUP_BYTES = 1088  # of 16 rows


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A packed `weight[num_rows, num_cols]`; `data` is flat: float32, bfloat16 or, of groups, int8 or int32, as above; or
    uint8, of a weight that stays quantized (quantized_weight.py)."""

    data: Tensor
    num_rows: int
    num_cols: int

    @property
    def dtype(self) -> str:
        """What the weights are where they are multiplied: float32, bfloat16, int8 or int8-a16."""
        stored = str(self.data.dtype).removeprefix("torch.")
        if stored == "uint8":
            return quantized_weight.header_of(self.data).dtype
        return {"int32": "int8-a16", "uint16": "bfloat16"}.get(stored, stored)

    def panel(self, index: int) -> "PackedWeight":
        """The weight of panel `index`'s rows: a view, or a copy of quantized ones."""
        header = self.data[: quantized_weight.HEADER_BYTES if self.is_quantized else 0]
        panels, num_rows = self.data[len(header) :], min(PANEL_WIDTH, self.num_rows - index * PANEL_WIDTH)
        size = len(panels) // -(-self.num_rows // PANEL_WIDTH)
        panel = panels[index * size : (index + 1) * size]
        return PackedWeight(np.concatenate([header, panel]) if len(header) else panel, num_rows, self.num_cols)

    @property
    def is_quantized(self) -> bool:
        return str(self.data.dtype).removeprefix("torch.") == "uint8"

    @property
    def nbytes(self) -> int:
        return self.data.nbytes


@dataclass(frozen=True, slots=True)
class PackedExperts:
    """The packed weights of `num_experts` linear layers of one shape, one behind the other in `data`; of quantized ones after a
    header that is all of theirs."""

    data: Tensor
    num_experts: int
    num_rows: int
    num_cols: int

    def expert(self, index: int) -> PackedWeight:
        """That of expert `index`: a view, or a copy of quantized ones."""
        part = self.data[self._part(index)]
        data = np.concatenate([self._header, part]) if self.is_quantized else part
        return PackedWeight(data, self.num_rows, self.num_cols)

    def set_quantized(self, index: int, weight: PackedWeight) -> bool:
        """Make `weight` that of expert `index`; False where its header is another."""
        header = weight.data[: len(self._header)]
        if weight.num_rows != self.num_rows or not np.array_equal(header, self._header):
            return False
        np.asarray(self.data)[self._part(index)] = np.asarray(weight.data[len(header) :])
        return True

    @property
    def is_quantized(self) -> bool:
        return str(self.data.dtype).removeprefix("torch.") == "uint8"

    @property
    def _header(self) -> Tensor:
        return self.data[: quantized_weight.HEADER_BYTES if self.is_quantized else 0]

    def _part(self, index: int) -> slice:
        first = len(self._header)
        size = (len(self.data) - first) // self.num_experts
        return slice(first + index * size, first + (index + 1) * size)

    @property
    def nbytes(self) -> int:
        return self.data.nbytes


@dataclass(frozen=True, slots=True)
class GatedLinear(Linear):
    """out[T, N / 2] = activation(the first half of a linear's columns) * the others"""


class CpuWeights:
    """A program's weights as the CPU's kernels take them: matrices packed, vectors in float32."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._matrices: dict[Weight, list[PackedWeight]] = {}
        self._vectors: dict[Weight, Array] = {}
        self._experts: dict[Weight, PackedExperts] = {}

    def add_matrix(self, weight: Weight, sections: list[PackedWeight]) -> None:
        """`sections`: the matrix's rows one below the other, as many parts as they have formats."""
        self._matrices[weight] = sections
        self.num_bytes += sum(section.nbytes for section in sections)

    def add_vector(self, weight: Weight, vector: Array) -> None:
        self._vectors[weight] = vector
        self.num_bytes += vector.nbytes

    def add_experts(self, weight: Weight, experts: PackedExperts) -> None:
        self._experts[weight] = experts
        self.num_bytes += experts.nbytes

    def matrix(self, weight: Weight) -> PackedWeight:
        """A matrix that is one section."""
        (section,) = self._matrices[weight]
        return section

    def sections(self, weight: Weight) -> list[PackedWeight]:
        return self._matrices[weight]

    def experts(self, weight: Weight) -> PackedExperts:
        return self._experts[weight]

    def vector(self, weight: Weight) -> Array:
        return self._vectors[weight]

    def gated(self, product: Operation, operation: Operation) -> GatedLinear | None:
        """A bfloat16 product and the gated activation of what it makes as one, if that is what they are."""
        match product, operation:
            case Linear() as one, GatedActivation(out, x, name, 1, 0.0) if (
                x == one.out and self._hands_over(one.weight, 4) == "bfloat16"
            ):
                return GatedLinear(out, one.x, one.weight, one.bias, name)
        return None

    def handed_over(self, operations: Iterable[tuple[Operation, str]]) -> set[str]:
        """Values that only products write and read, of one type, which hand them over (kernels.linear). `operations`: each with
        the value that its output is added to, "" where it is stored."""
        written, read = set[tuple[str, str]](), set[tuple[str, str]]()  # (value, type; "" where no product does it)
        for operation, added_to in operations:
            if isinstance(operation, Linear) and (dtype := self._hands_over(operation.weight)):
                read.add((operation.x, dtype))
                written.add((added_to, "") if added_to else (operation.out, dtype))
            else:
                written.update((str(getattr(operation, field.name)), "") for field in fields(operation))
        return {name for name, _ in written & read} - {name for name, _ in written ^ read}

    def _hands_over(self, weight: Weight, panels: int = 2) -> str:
        """The type of the weight where its product may hand over, "" where not; `panels`: of whole so many."""
        first, *others = self.sections(weight)
        is_plain = not (others or weight.whole_columns or first.is_quantized or first.num_rows % (panels * PANEL_WIDTH))
        return first.dtype if is_plain and first.dtype in ("float32", "bfloat16") else ""


def padded_shape(num_rows: int, num_cols: int) -> tuple[int, int]:
    """(num_rows, num_cols) rounded up to whole panels and whole k pairs."""
    return -(-num_rows // PANEL_WIDTH) * PANEL_WIDTH, -(-num_cols // K_MULTIPLE) * K_MULTIPLE


def allocate(num_rows: int, num_cols: int, dtype: str, huge_pages: bool = False) -> PackedWeight:
    """Room for weight[num_rows, num_cols] packed as `dtype`, not filled."""
    return PackedWeight(_room(1, num_rows, num_cols, dtype, huge_pages), num_rows, num_cols)


def allocate_experts(num_experts: int, num_rows: int, num_cols: int, dtype: str, huge_pages: bool = False) -> PackedExperts:
    """Room for num_experts weights[num_rows, num_cols] packed as `dtype`, not filled."""
    return PackedExperts(_room(num_experts, num_rows, num_cols, dtype, huge_pages), num_experts, num_rows, num_cols)


def like_quantized(weight: PackedWeight, num_experts: int) -> PackedExperts:
    """Room for num_experts weights in the format of a quantized one: its header is written, the rest not filled."""
    header = quantized_weight.HEADER_BYTES
    data = empty((header + num_experts * (len(weight.data) - header),), np.uint8)
    data[:header] = weight.data[:header]
    return PackedExperts(data, num_experts, weight.num_rows, weight.num_cols)


def _room(count: int, num_rows: int, num_cols: int, dtype: str, huge_pages: bool) -> Array:
    rows, cols = padded_shape(num_rows, num_cols)
    if dtype in ("int8", "int8-a16"):
        num_bytes = count * (rows // PANEL_WIDTH) * -(-num_cols // GROUP_K) * GROUP_BYTES
        data = empty((num_bytes,), np.int8, huge_pages)
        return data if dtype == "int8" else data.view(np.int32)
    return empty((count * rows * cols,), stored_as(dtype), huge_pages)
