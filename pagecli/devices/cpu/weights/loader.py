"""A program's weights as the CPU's kernels take them: matrices packed, vectors in float32."""

import numpy as np

from pagecli.core import arrays
from pagecli.core.arrays import Array
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.weights.packed_weight import PackedExperts, PackedWeight
from pagecli.model.program import Program, Weight
from pagecli.model.weights.reader import WeightReader


class CpuWeights:
    """Packs a program's weights as they are read, as `dtype`: peak memory is what is packed plus the tensor at hand."""

    def __init__(self, program: Program, reader: WeightReader, dtype: str) -> None:
        self.num_bytes = 0
        self._matrices: dict[Weight, PackedWeight] = {}
        self._vectors: dict[Weight, Array] = {}
        self._experts: dict[Weight, PackedExperts] = {}
        for weight in program.weights():
            packed_as = "float32" if weight.exact else dtype
            if weight.columns and weight.experts:
                experts = self._experts[weight] = kernels.pack_experts(reader.experts(weight), weight.experts, packed_as)
                reader.source.release()
                self.num_bytes += experts.nbytes
            elif weight.experts:
                vectors = self._vectors[weight] = np.stack([arrays.to_float32(vector) for vector in reader.experts(weight)])
                self.num_bytes += vectors.nbytes
            elif weight.columns:
                packed = self._matrices[weight] = kernels.pack_weight(reader.read(weight), packed_as)
                reader.source.release()
                self.num_bytes += packed.nbytes
            else:  # norms and biases are small and always wanted exactly
                vector = self._vectors[weight] = np.array(arrays.to_float32(reader.read(weight)))
                self.num_bytes += vector.nbytes

    def matrix(self, weight: Weight) -> PackedWeight:
        return self._matrices[weight]

    def experts(self, weight: Weight) -> PackedExperts:
        return self._experts[weight]

    def vector(self, weight: Weight) -> Array:
        return self._vectors[weight]
