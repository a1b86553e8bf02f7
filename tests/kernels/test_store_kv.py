"""store_kv: every k and v in its slot, nothing else touched, bfloat16 rounded as torch rounds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, head_dims, num_tokens, random, seeds

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import formats
from pagecli.devices.reference import operations as reference

FLOATS = [torch.float32, torch.bfloat16]


def empty_cache(num_blocks, kv_heads, block_size, head_dim, dtype):
    if dtype == torch.int8:
        return torch.full((num_blocks, kv_heads, block_size, head_dim + 4), 77, dtype=dtype)
    return torch.full((num_blocks, kv_heads, block_size, head_dim), float("nan"), dtype=dtype)


@examples
@given(
    seed=seeds,
    tokens=num_tokens,
    kv_heads=st.integers(1, 3),
    head_dim=head_dims,
    block_size=st.sampled_from([1, 7, 16]),
    dtype=st.sampled_from([*FLOATS, torch.int8]),
)
def test_store(isa, seed, tokens, kv_heads, head_dim, block_size, dtype):
    num_blocks = tokens // block_size + 2
    slot_ids = torch.randperm(num_blocks * block_size, generator=torch.Generator().manual_seed(seed))[:tokens]
    fused = random(seed, tokens, 3, kv_heads, head_dim)  # q, k, v side by side
    caches = [empty_cache(num_blocks, kv_heads, block_size, head_dim, dtype) for _ in range(4)]
    caches[0] = formats.keys_by_dimension(caches[0])
    kernels.store_kv(caches[0], caches[1], fused[:, 1], fused[:, 2], slot_ids)
    reference.store_kv(caches[2], caches[3], fused[:, 1], fused[:, 2], slot_ids)
    for stored, expected in zip(caches[:2], [formats.keys_by_dimension(caches[2]), caches[3]], strict=True):
        torch.testing.assert_close(stored, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", FLOATS)
def test_special_values_survive(isa, dtype):
    values = torch.tensor(
        [0.0, -0.0, 1e-40, -3e38, 3.4e38, float("inf"), -float("inf"), float("nan"), 1 + 2**-8, 1 + 3 * 2**-8]
    )
    k = values.repeat(4)[None, None]
    caches = [torch.zeros(1, 1, 40, 1, dtype=dtype), torch.zeros(1, 1, 1, 40, dtype=dtype)]
    kernels.store_kv(*caches, k, -k, torch.tensor([0]))
    torch.testing.assert_close(caches[0].flatten(), k.to(dtype).flatten(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(caches[1].flatten(), (-k).to(dtype).flatten(), rtol=0, atol=0, equal_nan=True)


def stored_as_int8(values: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The bytes of values[D] as they are stored, and their scale."""
    bytes_each = len(values) + 4
    caches = [torch.full(shape, 77, dtype=torch.int8) for shape in ((1, 1, bytes_each, 1), (1, 1, 1, bytes_each))]
    kernels.store_kv(*caches, values[None, None], values[None, None].neg(), torch.tensor([0]))
    assert torch.equal(caches[1].flatten()[:-4], -caches[0].flatten()[:-4])
    slot = caches[0].flatten()
    return slot[:-4], float(slot[-4:].clone().view(torch.float32))


def test_int8_takes_the_nearest_step_of_127(isa):
    values = torch.tensor([-254.0, 0.0, -0.0, 0.9, 1.0, 1.1, 3.0, 5.0, 253.0, 1e-40, 254.0, *[2.0] * 22])
    bytes_, scale = stored_as_int8(values)
    assert scale == 2.0
    assert bytes_.tolist() == [-127, 0, 0, 0, 0, 1, 2, 2, 126, 0, 127, *[1] * 22]  # even on ties


@pytest.mark.parametrize("value", [0.0, 1e-38, 3e38, float("inf"), -float("inf"), float("nan")])
def test_int8_of_values_at_the_limits(isa, value):
    values = torch.ones(37) * (0.0 if value == value and abs(value) < 1 else 1.0)
    values[35] = value
    bytes_, scale = stored_as_int8(values)
    if abs(value) <= 3e38:
        assert scale == float(torch.tensor(max(abs(value), float(values[0]))) / 127)
        assert int(bytes_[35]) == (127 if value == 3e38 else 0)
    else:
        assert scale != scale
        assert not bytes_.any()


def test_int8_slots_do_not_depend_on_their_neighbours(isa):
    k = random(1, 9, 2, 80)
    together, alone = ([torch.zeros(9, 2, *slots, dtype=torch.int8) for slots in ((84, 1), (1, 84))] for _ in range(2))
    kernels.store_kv(*together, k, k, torch.arange(9))
    for token in range(9):
        kernels.store_kv(*alone, k[token : token + 1], k[token : token + 1], torch.tensor([token]))
    assert all(map(torch.equal, alone, together))
    for cache in together:
        error = (formats.dequantize_slots(cache.flatten(2)) - k).abs()
        assert (error <= k.abs().amax(-1, keepdim=True) / 254 * 1.0001).all()
