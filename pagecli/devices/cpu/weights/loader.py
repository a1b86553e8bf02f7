"""A program's weights as the CPU's kernels take them: matrices packed, vectors in float32."""

import numpy as np

from pagecli.core import arrays
from pagecli.core.arrays import Array
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.weights import quantized_weight
from pagecli.devices.cpu.weights.packed_weight import PackedExperts, PackedWeight
from pagecli.model.program import Program, Weight
from pagecli.model.weights.reader import WeightReader

MOST_SECTIONS = 4  # of a matrix: Q, K and V, or gate and up, quantized in their own ways


class CpuWeights:
    """Packs a program's weights as they are read, as `dtype`: peak memory is what is packed plus the tensor at hand. With
    `keep` those that are quantized in the checkpoint stay so."""

    def __init__(self, program: Program, reader: WeightReader, dtype: str, keep: bool) -> None:
        self.num_bytes = 0
        self._matrices: dict[Weight, list[PackedWeight]] = {}
        self._vectors: dict[Weight, Array] = {}
        self._experts: dict[Weight, PackedExperts] = {}
        for weight in program.weights():
            packed_as = "float32" if weight.exact else dtype
            if weight.columns and weight.experts:
                experts = self._experts[weight] = _pack_experts(weight, reader, packed_as, keep and not weight.exact)
                reader.source.release()
                self.num_bytes += experts.nbytes
            elif weight.experts:
                vectors = self._vectors[weight] = np.stack([arrays.to_float32(vector) for vector in reader.experts(weight)])
                self.num_bytes += vectors.nbytes
            elif weight.columns:
                sections = self._matrices[weight] = _pack(weight, reader, packed_as, keep and not weight.exact)
                reader.source.release()
                self.num_bytes += sum(section.nbytes for section in sections)
            else:  # norms and biases are small and always wanted exactly
                vector = self._vectors[weight] = np.array(arrays.to_float32(reader.read(weight)))
                self.num_bytes += vector.nbytes

    def matrix(self, weight: Weight) -> PackedWeight:
        """A matrix that is one section."""
        (section,) = self._matrices[weight]
        return section

    def sections(self, weight: Weight) -> list[PackedWeight]:
        """The matrix's rows one below the other: as many parts as they have formats."""
        return self._matrices[weight]

    def experts(self, weight: Weight) -> PackedExperts:
        return self._experts[weight]

    def vector(self, weight: Weight) -> Array:
        return self._vectors[weight]


def _pack_experts(weight: Weight, reader: WeightReader, dtype: str, keep: bool) -> PackedExperts:
    quantized = (reader.quantized_expert(weight, expert) for expert in range(weight.experts))
    kept = kernels.pack_quantized_experts(quantized, weight.experts, dtype) if keep else None
    return kernels.pack_experts(reader.experts(weight), weight.experts, dtype) if kept is None else kept


def _pack(weight: Weight, reader: WeightReader, dtype: str, keep: bool) -> list[PackedWeight]:
    quantized = reader.quantized(weight) if keep else None
    sections = [] if quantized is None else quantized.sections()
    most = 1 if weight.whole_columns else MOST_SECTIONS
    if 1 <= len(sections) <= most and all(map(quantized_weight.can_pack, sections)):
        packed = [kernels.pack_quantized(section, dtype) for section in sections]
        kept = [section for section in packed if section is not None]
        if len(kept) == len(packed):
            return kept
    return [kernels.pack_weight(reader.read(weight), dtype)]
