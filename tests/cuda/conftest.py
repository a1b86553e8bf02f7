"""Tests marked `cuda` run the kernels on a GPU where there is one, or, started by test_cuda_emulated.py, on the emulator."""

import importlib.util
import os
import zlib

import pytest

EMULATED = bool(os.environ.get("PAGECLI_CUDA_EMULATED"))


@pytest.fixture(scope="session", autouse=EMULATED)
def emulated_device() -> None:
    """--device cuda is the host, computing with the emulated kernels."""
    import host_gpu

    host_gpu.register()


def why_not_here() -> str | None:
    """Why tests marked `cuda` cannot run in this process; None if they can."""
    if EMULATED:
        return None
    if not os.environ.get("PAGECLI_CUDA_MODULE") and importlib.util.find_spec("pagecli.devices.cuda._cuda") is None:
        return "pagecli was built without CUDA kernels (the emulated run does test them)"
    import torch

    return None if torch.cuda.is_available() else "needs a GPU (the emulated run tests the same on the CPU)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("cuda")]
    reason = why_not_here() if marked else None
    if reason is not None:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=EMULATED)
def thread_order(request: pytest.FixtureRequest) -> None:
    """On the emulator, a test takes the threads in one of three orders, always the same for that test."""
    if EMULATED:
        from pagecli.devices.cuda import kernels

        number = zlib.crc32(request.node.nodeid.encode())
        kernels.extension().set_thread_order(("forward", "backward", "shuffled")[number % 3], number)
