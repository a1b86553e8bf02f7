"""What measures the machine does the work that it says it does."""

import numpy as np
import pytest
import torch

from pagecli.devices.cpu import kernels


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int8-a16"])
def test_operations_grow_with_the_pieces(isa, dtype):
    one = kernels.peak_operations(dtype, 1)
    assert one >= 10 * 8 * 2 * 100  # sums x lanes x (multiply, add) x rounds, at least
    assert kernels.peak_operations(dtype, 3) == 3 * one


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="dtype: expected float32, bfloat16, int8 or int8-a16, got float64"):
        kernels.peak_operations("float64", 1)
    with pytest.raises(ValueError, match="pieces: expected 1 or more"):
        kernels.peak_operations("float32", 0)


@pytest.mark.parametrize("num_words", [0, 1, 63, 64, 1000, (1 << 20) + 17])
def test_every_word_of_memory_is_read(isa, num_words):
    words = torch.randint(-(2**31), 2**31 - 1, (num_words,), dtype=torch.int32)
    assert kernels.read_memory(words) == int(np.bitwise_xor.reduce(words.numpy().view(np.uint32)))
