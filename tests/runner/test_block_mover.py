"""Moves of blocks in all layers' K and V: copies within the cache, swaps to the swap pool and back, in the order given."""

import numpy as np

from pagecli.core.step_plan import BlockMove, MoveKind
from pagecli.devices.base import KVCache
from pagecli.devices.cpu.device import BlockMover

LAYERS = 2


def make_cache(num_blocks, seed):
    generator = np.random.default_rng(seed)
    return KVCache(
        *([generator.standard_normal((num_blocks, 2, 4, 8), dtype=np.float32) for _ in range(LAYERS)] for _ in range(2))
    )


def planes(cache):
    return [plane.copy() for plane in cache.keys + cache.values]


def test_a_copy_changes_its_target_in_every_layer_and_nothing_else():
    cache = make_cache(4, 0)
    before = planes(cache)
    BlockMover(cache).carry_out([BlockMove(MoveKind.COPY, 1, 3)])
    for now, then in zip(planes(cache), before, strict=True):
        assert np.array_equal(now[3], then[1])
        assert np.array_equal(now[:3], then[:3])


def test_what_is_swapped_out_comes_back_elsewhere_unharmed():
    cache, swap = make_cache(3, 0), make_cache(2, 1)
    before = planes(cache)
    mover = BlockMover(cache, swap)
    mover.carry_out([BlockMove(MoveKind.SWAP_OUT, 0, 1), BlockMove(MoveKind.SWAP_OUT, 1, 0)])
    for plane in cache.keys + cache.values:
        plane.fill(0)
    mover.carry_out([BlockMove(MoveKind.SWAP_IN, 1, 2), BlockMove(MoveKind.SWAP_IN, 0, 0)])
    for now, then in zip(planes(cache), before, strict=True):
        assert np.array_equal(now[2], then[0])
        assert np.array_equal(now[0], then[1])
        assert not now[1].any()
    assert mover.swap_seconds > 0


def test_moves_of_mixed_kinds_keep_their_order():
    cache, swap = make_cache(3, 0), make_cache(1, 1)
    before = planes(cache)
    moves = [
        BlockMove(MoveKind.COPY, 0, 1),
        BlockMove(MoveKind.SWAP_OUT, 1, 0),
        BlockMove(MoveKind.COPY, 2, 1),
        BlockMove(MoveKind.SWAP_IN, 0, 2),
    ]
    BlockMover(cache, swap).carry_out(moves)
    for now, then in zip(planes(cache), before, strict=True):
        assert np.array_equal(now[1], then[2])
        assert np.array_equal(now[2], then[0])


def test_without_moves_nothing_happens():
    cache = make_cache(2, 0)
    before = planes(cache)
    mover = BlockMover(cache)
    mover.carry_out([])
    assert all(np.array_equal(a, b) for a, b in zip(planes(cache), before, strict=True))
    assert mover.swap_seconds == 0.0
