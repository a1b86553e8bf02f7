"""A matrix goes to the GPU whole, whatever its shape and type, through pinned memory that is not filled again too early."""

import pytest
import torch
from fake_device import FakeDevice
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.devices.cuda.model import upload

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(scope="module", autouse=True)
def small_pieces():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upload, "PIECE_BYTES", 64)
        yield


@pytest.mark.slow
@settings(deadline=None)  # the first takes seconds, as torch loads what it needs
@given(
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    given=st.sampled_from(DTYPES),
    wanted=st.sampled_from(DTYPES),
    order=st.sampled_from(["lazy", "side first", "compute first", 3, 4]),
    transposed=st.booleans(),
)
def test_every_element_arrives(shape, given, wanted, order, transposed):
    device = FakeDevice(order)
    uploader = upload.Uploader(device)
    matrices = [torch.randn(shape, generator=torch.Generator().manual_seed(i)).to(given) for i in range(2)]
    for matrix in matrices:
        matrix = matrix.transpose(0, -1) if transposed else matrix
        moved = uploader.upload(matrix, wanted)
        assert moved.is_contiguous()
        assert torch.equal(moved, matrix.to(wanted))
    del uploader, moved
    assert device.num_buffers == 0


def test_while_a_piece_goes_over_the_next_is_filled():
    device = FakeDevice()
    upload.Uploader(device).upload(torch.arange(16 * 8.0), torch.float32)
    assert device.calls["pinned"] == 2
    assert device.calls["submit"] == 8
    assert device.calls["wait"] == 8  # six before a piece is filled again, two at the end
