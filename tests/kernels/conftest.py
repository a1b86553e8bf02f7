"""Kernel tests run once per instruction set this machine has: a test that takes `isa` runs with that set's kernels."""

from collections.abc import Iterator

import pytest

from pagecli.devices.cpu import kernels


@pytest.fixture(params=kernels.supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = kernels.isa_name()
    assert kernels._native.select_isa(request.param)
    yield request.param
    kernels._native.select_isa(before)


@pytest.fixture
def restore_isa() -> Iterator[None]:
    before = kernels.isa_name()
    yield
    kernels._native.select_isa(before)


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = kernels._native.num_threads()
    yield
    kernels.set_num_threads(before)
