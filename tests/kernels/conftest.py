"""Kernel tests run once per instruction set this machine has: a test that takes `isa` runs with that set's kernels."""

from collections.abc import Iterator

import pytest

from pagecli.kernels import native


@pytest.fixture(params=native.supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.isa_name()
    assert native._native.select_isa(request.param)
    yield request.param
    native._native.select_isa(before)


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = native._native.num_threads()
    yield
    native.set_num_threads(before)
