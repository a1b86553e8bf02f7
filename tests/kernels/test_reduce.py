"""reduce: partial sums added in order, whoever computed them; ranks wait for each other, and say who did not come."""

import threading

import numpy as np
import pytest

from pagecli.devices.cpu import kernels


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(("tokens", "width", "num_parts"), [(1, 1, 1), (7, 300, 2), (64, 768, 5), (513, 96, 3)])
def test_sum_in_order_to_the_bit(tokens, width, num_parts, accumulate):
    random = np.random.Generator(np.random.PCG64(tokens))
    parts = [random.standard_normal((tokens, width), dtype=np.float32) for _ in range(num_parts)]
    out = random.standard_normal((tokens, 2 * width), dtype=np.float32)[:, :width]
    expected = parts[0].copy()
    for part in parts[1:]:
        expected += part
    if accumulate:
        expected = expected + out
    kernels.reduce(out, parts, accumulate)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("parts", [[], [np.zeros((2, 3), np.float32)], [np.zeros((2, 4), np.float64)], [None]])
def test_wrong_parts_are_refused(parts):
    with pytest.raises((ValueError, TypeError)):
        kernels.reduce(np.zeros((2, 4), np.float32), parts)


def test_ranks_wait_for_each_other_in_two_buffers_by_turns():
    ranks, rounds, width = 3, 200, 64
    words = np.zeros((ranks + 1, 16), np.int32)
    buffers = np.zeros((2, ranks, 1, width), np.float32)
    wrong = []

    def run(rank):
        meeting, out = kernels.rendezvous(words, rank, 30.0), np.zeros((1, width), np.float32)
        for number in range(rounds):
            parts = buffers[number % 2]
            parts[rank] = number + rank
            kernels.reduce(out, list(parts), False, meeting)
            if not np.all(out == ranks * number + 3):
                wrong.append((rank, number))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_rank_that_does_not_come_is_named_and_release_ends_the_wait():
    words = np.zeros((4, 16), np.int32)
    words[1, 0] = 1
    late = kernels.rendezvous(words, 0, 0.05)
    assert not late.meet()
    assert late.missing == 2
    out = np.full((1, 2), 7, np.float32)
    kernels.reduce(out, [np.zeros((1, 2), np.float32)], False, late)
    assert out.tolist() == [[7, 7]]
    words[:] = 0
    words[3, 0] = 1
    assert not kernels.rendezvous(words, 2, 3600.0).meet()
