"""pack_weight and embedding against their definitions, bit for bit."""

import mmap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, gaps, num_tokens, random, row_sizes, seeds, strided

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import formats
from pagecli.devices.reference import operations as reference
from pagecli.devices.reference.tensors import as_tensor

dtypes = st.sampled_from(["float32", "bfloat16", "int8", "int8-a16"])
source_dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])

# Ties to even, denormals, the largest finite values, infinities: what rounding to bfloat16 gets wrong first.
EDGES = [0.0, -0.0, 1.00390625, 1.01171875, 1e-40, -6e-8, 65504.0, 3.4e38, float("inf"), float("-inf"), 1.0 + 2**-8 + 2**-20]


def bits(array) -> torch.Tensor:
    tensor = as_tensor(array)
    return tensor.view(torch.int16 if tensor.dtype == torch.bfloat16 else torch.int32)


@examples
@given(seed=seeds, rows=row_sizes, cols=row_sizes, source=source_dtypes, dtype=dtypes)
def test_pack_weight(isa, seed, rows, cols, source, dtype):
    weight = strided(random(seed, rows, cols).to(source))
    packed, expected = kernels.pack_weight(weight, dtype), formats.pack_weight(weight, dtype)
    assert torch.equal(bits(packed.data), bits(expected.data))
    if not dtype.startswith("int8"):
        assert torch.equal(formats.unpack_weight(packed), weight.to(getattr(torch, dtype)))


@pytest.mark.slow
@examples
@given(seed=seeds, rows=row_sizes, cols=row_sizes, scale=st.sampled_from([1e-20, 1.0, 1e20]))
def test_int8_keeps_every_weight_within_half_a_step_of_its_group(isa, seed, rows, cols, scale):
    weight = random(seed, rows, cols) * scale
    off = (formats.unpack_weight(kernels.pack_weight(weight, "int8-a16")) - weight).abs()
    groups = torch.nn.functional.pad(weight.abs(), (0, -cols % 64)).view(rows, -1, 64)
    step = (groups.amax(-1, keepdim=True) / 127).expand_as(groups).reshape(rows, -1)[:, :cols]
    assert (off <= 0.5001 * step).all()
    rotated = formats.rotate(weight).view(rows, -1, 64) / 8
    step = rotated.abs().amax(-1) / 127  # rotated back, half a step of 64 numbers is as long: 4 steps
    off = torch.nn.functional.pad(formats.unpack_weight(kernels.pack_weight(weight, "int8")) - weight, (0, -cols % 64))
    assert (off.view(rows, -1, 64).norm(dim=-1) <= 4.001 * step).all()


@pytest.mark.parametrize("dtype", ["int8", "int8-a16"])
def test_int8_of_zeros_and_of_what_is_not_finite(isa, dtype):
    weight = torch.zeros(3, 130)
    weight[1, 5], weight[2, 129] = float("inf"), float("nan")
    values = formats.unpack_weight(kernels.pack_weight(weight, dtype))
    assert (values[0] == 0).all()
    assert values[1, :64].isnan().all()
    assert (values[1, 64:] == 0).all()
    assert values[2, 128:].isnan().all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int8-a16"])
@pytest.mark.parametrize("cols", [63, 64, 65, 127, 129, 191])
def test_padding_is_zero_whatever_was_packed_before(isa, cols, dtype):
    weight = random(0, 21, cols)
    assert torch.equal(bits(kernels.pack_weight(weight, dtype).data), bits(formats.pack_weight(weight, dtype).data))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.float16])
def test_pack_weight_rounds_as_torch_does(isa, source, dtype):
    weight = torch.tensor(EDGES * 7).view(11, 7).to(source)
    assert torch.equal(bits(kernels.pack_weight(weight, dtype).data), bits(formats.pack_weight(weight, dtype).data))
    not_numbers = kernels.pack_weight(torch.full((3, 5), float("nan"), dtype=source), dtype)
    assert formats.unpack_weight(not_numbers).isnan().all()


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_pack_weight_reads_a_read_only_mapped_file(isa, tmp_path):
    weight = random(0, 40, 30)
    path = tmp_path / "weight.bin"
    path.write_bytes(weight.numpy().tobytes())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = torch.frombuffer(mapped, dtype=torch.float32).view(40, 30)
        packed = kernels.pack_weight(view, "float32")
        del view
    assert torch.equal(formats.unpack_weight(packed), weight)


@examples
@given(seed=seeds, tokens=num_tokens, rows=row_sizes, cols=row_sizes, dtype=dtypes)
def test_embedding(isa, seed, tokens, rows, cols, dtype):
    weight = kernels.pack_weight(random(seed, rows, cols), dtype)
    ids = torch.randint(0, rows, (tokens,), dtype=torch.int32, generator=torch.Generator().manual_seed(seed))
    out, expected = strided(torch.full((tokens, cols), float("nan"))), torch.empty(tokens, cols)
    kernels.embedding(out, ids, weight)
    reference.embedding(expected, ids, weight)
    assert torch.equal(out, expected)
    assert gaps(out).isnan().all()
