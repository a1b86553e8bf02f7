"""What LoRA adapters add on a GPU: the kernels against their definition in float64, rows alone and in any batch, rows without
an adapter untouched; and the tiles that rows are grouped into."""

import numpy as np
import pytest
import torch
from gpu_tensors import DEVICE, DTYPES, ULP, assert_near, gaps_are_untouched, poisoned, random, strided
from hypothesis import given
from hypothesis import strategies as st

from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.model.adapters import TILE_ROWS, CudaLowRank, most_tiles, tiles_of
from pagecli.devices.reference import adapters as reference
from pagecli.errors import ModelError
from pagecli.model.program import LowRank

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
RANKS = [5, 0, 1, 70]  # of each adapter: 0 does not change this layer, 70 is more than a block holds at a time


def matrices(ranks, k, n):
    starts = torch.tensor([0, *np.cumsum(ranks)], dtype=torch.int32, device=DEVICE)
    total = int(starts[-1])
    return random(1, total, k, scale=k**-0.5), random(2, total, n, scale=max(1, max(ranks)) ** -0.5), starts


def updated(out, x, given, ids, num_tiles=None):
    """`out` with what the adapters add, in place."""
    a, b, starts = given
    tiles = torch.from_numpy(tiles_of(np.array(ids, np.int32), num_tiles)).to(DEVICE)
    if not len(tiles):  # as of a step in which no row has an adapter
        return out
    inner = poisoned(len(tiles), TILE_ROWS, max(1, int(starts.diff().max())), dtype=torch.float32)
    kernels.low_rank(out, x, a, b, starts, tiles, inner)
    return out


@pytest.mark.cuda
@dtypes
@pytest.mark.parametrize(("k", "n"), [(8, 8), (264, 1032), (1032, 264), (2056, 40)])
def test_rows_get_their_adapters_update(dtype, k, n):
    ids = [int(i) for i in torch.randint(-1, len(RANKS), (37,), generator=torch.Generator().manual_seed(k))]
    given = matrices(RANKS, k, n)
    x, out = strided(random(3, 37, k, dtype=dtype)), strided(random(4, 37, n, dtype=dtype))
    expected, before = out.double(), out.clone()
    reference.low_rank(expected, x.double(), *(m.double() for m in given[:2]), given[2], torch.tensor(ids))
    updated(out, x, given, ids)
    assert_near(out, expected, 2 * ULP[dtype] if dtype != torch.float32 else 1e-5)
    untouched = [row for row, adapter in enumerate(ids) if adapter < 0 or RANKS[adapter] == 0]
    assert torch.equal(out[untouched], before[untouched])
    assert gaps_are_untouched(x)
    assert gaps_are_untouched(out)


@pytest.mark.cuda
@dtypes
def test_a_row_is_the_same_alone_and_in_any_batch(dtype):
    ids = [i % 5 - 1 for i in range(45)]
    given = matrices(RANKS, 520, 264)
    x, out = random(5, 45, 520, dtype=dtype), random(6, 45, 264, dtype=dtype)
    whole = updated(out.clone(), x, given, ids, num_tiles=40)  # more tiles than there are rows for: the rest are empty
    for row in range(0, 45, 3):
        assert torch.equal(updated(out[row : row + 1].clone(), x[row : row + 1], given, ids[row : row + 1])[0], whole[row])
    order = torch.randperm(45, generator=torch.Generator().manual_seed(7))
    mixed = updated(out[order].clone(), x[order], given, [ids[i] for i in order])
    assert torch.equal(mixed, whole[order])


@pytest.mark.cuda
def test_empty_tiles_leave_everything_as_it_was():
    given, x, out = matrices([3], 16, 16), random(8, 2, 16), random(9, 2, 16)
    assert torch.equal(updated(out.clone(), x, given, [-1, -1], num_tiles=3), out)


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 12}, "x's last dimension: expected a multiple of 8"),
        ({"b": (3, 24)}, r"b: expected \[3, 16\], got \[3, 24\]"),
        ({"tiles": (1, 8)}, r"tiles: expected \[tiles, 9\], got \[1, 8\]"),
        ({"inner": (2, 8, 3)}, r"inner: expected \[1, 8, ranks\], got \[2, 8, 3\]"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    k, ints = change.get("k", 16), {"dtype": torch.int32, "device": DEVICE}
    tiles, starts = torch.full(change.get("tiles", (1, 9)), -1, **ints), torch.tensor([0, 3], **ints)
    a, b = random(1, 3, k), random(2, *change.get("b", (3, 16)))
    with pytest.raises(ValueError, match=message):
        kernels.low_rank(random(3, 2, 16), random(4, 2, k), a, b, starts, tiles, random(5, *change.get("inner", (1, 8, 3))))


def test_layers_whose_sizes_the_kernels_do_not_take_are_refused():
    a, b, starts = np.zeros((2, 12), np.float32), np.zeros((2, 16), np.float32), np.array([0, 2], np.int32)
    with pytest.raises(ModelError, match="adapters of a layer of 16 by 12 weights on a GPU, which takes multiples of 8"):
        CudaLowRank(LowRank("out", "x", 0, 16, a, b, starts), DEVICE)


@given(ids=st.lists(st.integers(-1, 5), max_size=60), spare=st.integers(0, 3))
def test_tiles_hold_each_row_with_an_adapter_once(ids, spare):
    array = np.array(ids, np.int32)
    tiles = tiles_of(array)
    assert len(tiles) <= most_tiles(len(ids), 6)
    for _, *rows in tiles.tolist():
        found = [row for row in rows if row >= 0]
        assert rows == found + [-1] * (TILE_ROWS - len(found))
        assert found == sorted(found)
        assert found
    assert (tiles[:, 1:] >= 0).sum() == sum(each >= 0 for each in ids)
    assert reference.adapter_ids_of(torch.from_numpy(tiles), len(ids)).tolist() == ids
    padded = tiles_of(array, len(tiles) + spare)
    assert (padded[: len(tiles)] == tiles).all()
    assert (padded[len(tiles) :] == -1).all()
