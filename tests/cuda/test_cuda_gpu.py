"""The layer over torch.cuda, with torch's parts replaced: what a call's errors become, and captures that fail."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from pagecli.devices.cuda.errors import DeviceLostError, DeviceMemoryError, DeviceRefusedError, device_errors
from pagecli.devices.cuda.gpu import TorchGpu
from pagecli.devices.cuda.steps.graphs import GraphStore
from pagecli.errors import ModelError

INVALIDATED = "CUDA error: operation failed due to a previous error during capture"


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def gpu(monkeypatch) -> TorchGpu:
    """A capture on it ends with an error where its work raised one, or where `gpu.invalidated`."""
    made = SimpleNamespace(invalidated=False, closed=[])

    class Graph:
        def capture_begin(self, **options):
            pass

        def capture_end(self):
            if made.invalidated:
                raise RuntimeError(INVALIDATED)

    for name, value in {
        "Stream": lambda place: None,
        "stream": lambda stream: nullcontext(),
        "graph_pool_handle": lambda: (0, 1),
        "synchronize": lambda place: None,
        "mem_get_info": lambda place: (77, 100),
        "CUDAGraph": Graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *pool: made.closed.append(pool), raising=False)
    gpu = TorchGpu(torch.device("cpu"))
    gpu.made = made
    return gpu


@pytest.mark.parametrize("invalidated", [False, True])
def test_a_capture_that_runs_out_of_memory_says_so(gpu, invalidated):
    gpu.made.invalidated = invalidated
    with pytest.raises(DeviceMemoryError, match="out of GPU memory while capturing a graph"):
        gpu.capture(out_of_memory)
    assert gpu.made.closed == ([(0, (0, 1))] if invalidated else [])  # torch leaves it open where the end fails


@pytest.mark.parametrize("work", [out_of_memory, lambda: None])
def test_after_a_failed_capture_steps_run_without_graphs(gpu, work):
    gpu.made.invalidated = True
    store = GraphStore(gpu, 5)
    assert [store.find((1, 64), work) for _ in range(3)] == [None] * 3
    assert store.max_graphs == 0
    assert gpu.free_bytes() == 77  # the GPU is not lost


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA: launching a kernel failed: invalid configuration argument (cudaErrorInvalidConfiguration)", DeviceRefusedError),
        ("CUDA: launching a kernel failed: invalid argument (cudaErrorInvalidValue)", DeviceRefusedError),
        ("CUDA: launching a kernel failed: too many resources requested for launch (701)", DeviceRefusedError),
        ("CUDA error: no kernel image is available for execution on the device", DeviceRefusedError),
        ("CUDA error: the provided PTX was compiled with an unsupported toolchain.", DeviceRefusedError),
        ("CUDA error: operation not permitted when stream is capturing", DeviceRefusedError),
        ("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx(...)`", DeviceRefusedError),
        (INVALIDATED, DeviceRefusedError),
        ("CUDA: launching a kernel failed: an illegal memory access was encountered (700)", DeviceLostError),
        ("CUDA error: unspecified launch failure", DeviceLostError),
        ("CUDA error: uncorrectable ECC error encountered", DeviceLostError),
        ("CUDA error: device-side assert triggered", DeviceLostError),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`", DeviceLostError),
        ("CUDA error: an illegal instruction was encountered", DeviceLostError),
        ("CUDA error: out of memory", DeviceMemoryError),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", DeviceMemoryError),
        ("mat1 and mat2 shapes cannot be multiplied", None),
    ],
)  # fmt: skip
def test_an_error_is_of_a_kind_by_what_it_leaves(text, kind):
    with pytest.raises(kind or RuntimeError) as raised, device_errors("computing"):
        raise RuntimeError(f"{text}\nSearch for it in the CUDA documentation")
    assert isinstance(raised.value, ModelError) == (kind is not None)
    if kind is not None:
        assert raised.value.exit_code == 4
        assert "\n" not in str(raised.value)
