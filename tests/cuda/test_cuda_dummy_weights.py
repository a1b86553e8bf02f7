"""Dummy weights for a GPU are made there: shown with a device that has no memory, which nothing can be copied to from the host
and back, and by their values."""

from types import SimpleNamespace

import pytest
import torch

from pagecli.devices.cuda.model.dummy_weights import CudaDummySource
from pagecli.devices.cuda.model.weights import CudaWeightReader
from pagecli.devices.reference.tensors import as_tensor
from pagecli.model.program import ExpertLinear, Weight
from pagecli.model.weights.dummy import DummySource
from pagecli.model.weights.reader import WeightReader

NAMES, ROWS, COLS = ["a.q_proj.weight", "a.k_proj.weight", "b.fc1.weight"], [96, 32, 2048], 4096


@pytest.mark.parametrize("names", [NAMES[:1], NAMES[:2], NAMES], ids=len)
def test_matrices_are_made_where_they_are_used(names):
    rows = ROWS[: len(names)]
    source = CudaDummySource("meta")
    read = [source.read_tensor(name, (count, COLS)) for name, count in zip(names, rows, strict=True)]
    assert {tensor.device.type for tensor in read} == {"meta"}
    reader = CudaWeightReader(source, torch.bfloat16, SimpleNamespace(place=torch.device("meta")))
    joined = reader.matrix(Weight(tuple(names), tuple(rows), COLS))
    assert (joined.device.type, joined.dtype) == ("meta", torch.bfloat16)
    assert joined.shape == (sum(rows), COLS)


@pytest.mark.cuda
def test_values_are_those_of_the_cpu():
    from gpu_tensors import DEVICE

    on_gpu, on_cpu = CudaDummySource(DEVICE), DummySource()
    for name, shape in (("a.weight", (7, 300)), ("b.weight", (5000, 1000)), ("c.norm.weight", (64,)), ("d.bias", (64,))):
        assert torch.equal(on_gpu.read_tensor(name, shape).cpu(), as_tensor(on_cpu.read(name, shape)))


@pytest.mark.cuda
def test_experts_are_those_of_the_cpu():
    from gpu_tensors import DEVICE

    gpu = SimpleNamespace(place=DEVICE, empty=lambda *shape, dtype: torch.empty(*shape, dtype=dtype, device=DEVICE))
    weight = Weight(("a.{}.gate.weight", "a.{}.up.weight"), (8, 8), 24, experts=3)
    operation = ExpertLinear("out", "x", "ids", weight)
    found = CudaWeightReader(CudaDummySource(DEVICE), torch.float32, gpu).experts_of(operation).weight
    expected = [as_tensor(matrix).float() for matrix in WeightReader(DummySource()).experts(weight)]
    assert torch.equal(found.cpu(), torch.stack(expected))
