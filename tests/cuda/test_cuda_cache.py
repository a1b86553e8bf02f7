"""CUDA kernels that write the paged cache, against their definitions; block copies, in order however they are bundled."""

import pytest
import torch
from gpu_tensors import DEVICE, DTYPES, ULP, as_e4m3, assert_near, int_tensor, poisoned, random

from pagecli.devices.cuda import kernels
from pagecli.devices.reference import operations as reference

pytestmark = pytest.mark.cuda
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@dtypes
@pytest.mark.parametrize(("kv_heads", "head_dim", "block_size"), [(1, 64, 8), (3, 80, 16), (8, 128, 128), (2, 256, 32)])
def test_store_kv(dtype, kv_heads, head_dim, block_size):
    qkv = random(1, 5, 4 * kv_heads, head_dim, dtype=dtype)
    k, v = qkv[:, kv_heads : 2 * kv_heads], qkv[:, 3 * kv_heads :]
    slots = [4 * block_size - 1, 0, -1, block_size, block_size - 1]
    caches = [poisoned(4, kv_heads, block_size, head_dim, dtype=dtype) for _ in range(2)]
    expected = [cache.clone() for cache in caches]
    kernels.store_kv(*caches, k, v, int_tensor(slots, torch.int64))
    reference.store_kv(*expected, k, v, int_tensor(slots, torch.int64))
    for cache, wanted in zip(caches, expected, strict=True):
        assert torch.equal(cache.view(torch.uint8), wanted.view(torch.uint8))


@dtypes
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "rotary_dim"), [(4, 4, 64, 64), (6, 2, 80, 32), (8, 1, 128, 128), (3, 3, 256, 64)]
)
def test_rotary_store_kv(dtype, heads, kv_heads, head_dim, rotary_dim):
    tokens, block_size = 4, 16
    qkv = random(2, tokens, heads + 2 * kv_heads, head_dim, dtype=dtype)
    q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=1)
    k_before, v_before, q_before = k.clone(), v.clone(), q.clone()
    positions, slots = int_tensor([0, 7, 99, 3]), int_tensor([33, 5, 0, -1], torch.int64)
    angles = torch.arange(100).unsqueeze(1) * torch.rand(rotary_dim // 2, generator=torch.Generator().manual_seed(3))
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=1).to(DEVICE)
    caches = [poisoned(3, kv_heads, block_size, head_dim, dtype=dtype) for _ in range(2)]
    kernels.rotary_store_kv(*caches, q, k, v, slots, positions, cos_sin)

    rotated_q, rotated_k = q_before.double(), k_before.double()
    reference.rotary_embedding(rotated_q, rotated_k, positions, cos_sin.double())
    assert_near(q[:3], rotated_q[:3], 2 * ULP[dtype])
    assert torch.equal(q[3], q_before[3])  # a padding row
    assert torch.equal(k, k_before)
    assert torch.equal(v, v_before)
    blocks, offsets = slots[:3] // block_size, slots[:3] % block_size
    assert_near(caches[0][blocks, :, offsets], rotated_k[:3], 2 * ULP[dtype])
    assert torch.equal(caches[1][blocks, :, offsets], v_before[:3])
    caches[0][blocks, :, offsets] = float("nan")
    assert caches[0].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_every_16_bit_float_is_stored_as_torch_rounds_it_to_8_bits(dtype, scale):
    """Infinities and what is too large become +-448, NaN stays one."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).reshape(64, 8, 128).to(DEVICE)
    caches = [torch.zeros(4, 8, 16, 128, dtype=torch.float8_e4m3fn, device=DEVICE) for _ in range(2)]
    slots = torch.arange(64, device=DEVICE)
    kernels.store_kv(*caches, every, every.flip(0), slots, scale, 1.0)
    for cache, values, factor in ((caches[0], every, scale), (caches[1], every.flip(0), 1.0)):
        found = cache.view(torch.uint8).transpose(1, 2).reshape(64, 8, 128)
        wanted = as_e4m3(values, factor).view(torch.uint8)
        assert torch.equal(found[~values.isnan()], wanted[~values.isnan()])
        assert (found[values.isnan()] & 0x7F == 0x7F).all()


@pytest.mark.parametrize(("kv_heads", "head_dim", "rotary_dim"), [(2, 64, 64), (1, 128, 32)])
def test_rotary_store_kv_into_8_bits(kv_heads, head_dim, rotary_dim):
    tokens, heads, dtype = 3, 2 * kv_heads, torch.bfloat16
    q, k, v = random(5, tokens, heads + 2 * kv_heads, head_dim, dtype=dtype).split([heads, kv_heads, kv_heads], dim=1)
    rotated_q, rotated_k = q.double(), k.double()
    angles = torch.rand(9, rotary_dim // 2, generator=torch.Generator().manual_seed(6))
    cos_sin, positions = torch.cat([angles.cos(), angles.sin()], dim=1).to(DEVICE), int_tensor([0, 8, 3])
    reference.rotary_embedding(rotated_q, rotated_k, positions, cos_sin.double())
    caches = [poisoned(1, kv_heads, 16, head_dim, dtype=torch.float32).to(torch.float8_e4m3fn) for _ in range(2)]
    kernels.rotary_store_kv(*caches, q, k, v, int_tensor([7, 0, -1], torch.int64), positions, cos_sin, 0.01, 0.02)
    assert_near(q[:2], rotated_q[:2], 2 * ULP[dtype])
    found = [cache.float()[0].transpose(0, 1)[[7, 0]] for cache in caches]
    assert_near(0.01 * found[0], rotated_k[:2], 2**-4 + 1e-3)  # half a unit in the last of 3 bits, relative to 1 or the value
    assert torch.equal(found[1], as_e4m3(v[:2], 0.02).float())
    assert caches[0].float()[0, :, 1:7].isnan().all()


@dtypes
@pytest.mark.parametrize("is_narrow", [False, True], ids=["cache of the model's type", "cache of e4m3"])
@pytest.mark.parametrize("of_all_heads", [False, True], ids=["by heads", "of all heads"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "rotary_dim"),
    [(4, 2, 64, 64), (6, 2, 80, 32), (40, 8, 128, 128), (3, 3, 256, 64), (5, 1, 16, 0), (70, 2, 128, 0)],
)
def test_norm_rotary_store_kv_has_the_bits_of_its_parts(dtype, is_narrow, of_all_heads, heads, kv_heads, head_dim, rotary_dim):
    """q, and every byte of both caches; neither k nor v, nor a row that is written nowhere, changes."""
    if is_narrow and dtype == torch.float32:
        return
    tokens = random(7, 4, heads + 2 * kv_heads, head_dim, dtype=dtype, scale=3.0)
    apart, together = (tokens.clone().split([heads, kv_heads, kv_heads], dim=1) for _ in range(2))
    slots, cache_type = int_tensor([33, 5, 0, -1], torch.int64), torch.float8_e4m3fn if is_narrow else dtype
    caches = [poisoned(3, kv_heads, 16, head_dim, dtype=torch.float32).to(cache_type) for _ in range(2)]
    expected, scales = [cache.clone() for cache in caches], (0.3, 0.7) if is_narrow else (1.0, 1.0)
    weights = [random(8 + n, n * head_dim if of_all_heads else head_dim) for n in (heads, kv_heads)]
    angles = torch.rand(100, rotary_dim // 2, generator=torch.Generator().manual_seed(9)) * 6
    rotation = (int_tensor([0, 7, 99, 3]), torch.cat([angles.cos(), angles.sin()], dim=1).to(DEVICE)) if rotary_dim else ()

    kernels.norm_rotary_store_kv(*caches, *together, slots, *weights, 1e-6, *rotation, k_scale=scales[0], v_scale=scales[1])
    for x, weight in zip(apart, weights, strict=False):
        rows = x.flatten(1) if of_all_heads else x
        kernels.rms_norm(rows, rows, weight, 1e-6)
    if rotation:
        kernels.rotary_store_kv(*expected, *apart, slots, *rotation, *scales)
    else:
        kernels.store_kv(*expected, *apart[1:], slots, *scales)

    assert torch.equal(together[0][:3], apart[0][:3])
    assert torch.equal(together[0][3], tokens[3, :heads])
    assert torch.equal(torch.cat(together[1:], dim=1), tokens[:, heads:])
    for found, wanted in zip(caches, expected, strict=True):
        assert torch.equal(found.view(torch.uint8), wanted.view(torch.uint8))


def test_weights_of_heads_are_checked():
    q, k, v = random(10, 2, 4, 64).split([2, 1, 1], dim=1)
    caches, slots = [poisoned(1, 1, 16, 64, dtype=torch.float32) for _ in range(2)], int_tensor([0, 1], torch.int64)
    with pytest.raises(ValueError, match=r"k_weight: expected \[64\], got \[128\]"):
        kernels.norm_rotary_store_kv(*caches, q, k, v, slots, random(1, 128), random(2, 128), 1e-6)
    with pytest.raises(ValueError, match=r"q_weight: expected \[128\], got \[32\]"):
        kernels.norm_rotary_store_kv(*caches, q, k, v, slots, random(1, 32), random(2, 64), 1e-6)
    apart = poisoned(2, 4, 128, dtype=torch.float32)[:, :2, :64]
    with pytest.raises(ValueError, match="q: expected heads that lie side by side"):
        kernels.norm_rotary_store_kv(*caches, apart, k, v, slots, random(1, 128), random(2, 64), 1e-6)
    with pytest.raises(TypeError, match="positions: "):
        kernels.norm_rotary_store_kv(*caches, q, k, v, slots, random(1, 64), random(2, 64), 1e-6, cos_sin=random(3, 9, 64))


@pytest.mark.parametrize("copy", [kernels.copy_blocks, kernels.swap_blocks], ids=["copy", "swap"])
@pytest.mark.parametrize("shape", [(2, 8, 64), (1, 16, 80)])
def test_block_copies_act_as_if_in_order(copy, shape):
    """Chains and cycles within one call included, in every plane."""
    generator = torch.Generator().manual_seed(4)
    for num_pairs in (0, 1, 5, 300):
        caches = [random(i, 9, *shape, dtype=torch.bfloat16) for i in range(3)]
        swaps = [random(9 + i, 12, *shape, dtype=torch.bfloat16) for i in range(3)]
        within = copy is kernels.copy_blocks
        targets = caches if within else swaps
        pairs = [
            (int(torch.randint(9, (1,), generator=generator)), int(torch.randint(len(targets[0]), (1,), generator=generator)))
            for _ in range(num_pairs)
        ]
        expected = [cache.clone() for cache in targets]
        for i, wanted in enumerate(expected):
            reference.copy_blocks(
                wanted, wanted if within else caches[i], torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
            )
        planes = kernels.block_planes(targets, caches, DEVICE)
        copy(planes, pairs, caches[0][0].numel() * 2)
        for cache, wanted in zip(targets, expected, strict=True):
            assert torch.equal(cache, wanted)
