"""What benchmarks/gpu measures does the same as the torch code beside it, shown at small sizes."""

import sys
from pathlib import Path

import pytest
import torch
from gpu_tensors import DEVICE, assert_near

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"))
from kernel_cases import MAKERS, Sizes

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("name", MAKERS)
def test_case_runs_and_agrees_with_torch(name):
    case = MAKERS[name](Sizes(DEVICE, small=True))
    assert case.num_bytes > 0
    for arguments in case.sets:
        copies = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
        expected = case.torchs(*copies) if case.torchs is not None else None
        result = case.ours(*arguments)
        assert torch.isfinite(result.float()).all()
        if expected is not None:
            assert_near(result, expected, 0.03)
