"""The CPU's arrays as torch's tensors: for the GPU, and for the definitions that kernels are tested against."""

import numpy as np
import torch

from pagecli.core.arrays import Tensor


def as_tensor(array: Tensor) -> torch.Tensor:
    """The same memory; uint16 is bfloat16."""
    if isinstance(array, torch.Tensor):
        return array
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
