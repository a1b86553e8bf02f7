"""What LoRA adapters add to a linear layer's output, for rows of several adapters in one batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, gaps, num_tokens, random, row_sizes, seeds, strided

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import adapters as reference

ranks = st.lists(st.integers(0, 9), min_size=1, max_size=4)  # of each adapter; 0: it does not change this layer


def a_case(seed, tokens, k, n, ranks):
    starts = torch.tensor([0, *np.cumsum(ranks)], dtype=torch.int32)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(-1, len(ranks), (tokens,), generator=generator, dtype=torch.int32)
    return random(seed + 1, int(starts[-1]), k), random(seed + 2, int(starts[-1]), n), starts, ids


@examples
@given(seed=seeds, tokens=num_tokens, k=row_sizes, n=row_sizes, ranks=ranks)
def test_rows_get_their_adapters_update(isa, seed, tokens, k, n, ranks):
    a, b, starts, ids = a_case(seed, tokens, k, n, ranks)
    x, out = strided(random(seed + 3, tokens, k)), strided(random(seed + 4, tokens, n))
    expected = out.double()
    reference.low_rank(expected, x.double(), a.double(), b.double(), starts, ids)
    before = out.clone()
    kernels.low_rank(out, x, a, b, starts, ids)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5 * max(1, k) ** 0.5 * (1 + sum(ranks)))
    assert torch.equal(out[ids < 0], before[ids < 0])
    assert gaps(out).isnan().all()


def test_a_row_is_the_same_alone_and_in_any_batch(isa):
    a, b, starts, ids = a_case(0, 40, 100, 70, [5, 8, 1])
    x, out = random(3, 40, 100), random(4, 40, 70)
    whole = out.clone()
    kernels.low_rank(whole, x, a, b, starts, ids)
    for row in range(40):
        alone = out[row : row + 1].clone()
        kernels.low_rank(alone, x[row : row + 1], a, b, starts, ids[row : row + 1])
        assert torch.equal(alone[0], whole[row])


def test_no_adapter_ids_leave_everything_as_it_was():
    a, b, starts, _ = a_case(0, 3, 8, 8, [2])
    out = random(1, 3, 8)
    before = out.clone()
    kernels.low_rank(out, random(2, 3, 8), a, b, starts, None)
    assert torch.equal(out, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"starts": torch.tensor([0, 3], dtype=torch.int32)}, "starts: expected numbers from 0 to 2"),
        ({"starts": torch.tensor([0, 3, 2], dtype=torch.int32)}, "starts: expected numbers that never fall"),
        ({"ids": torch.tensor([0, 1, -1], dtype=torch.int32)}, r"adapter_ids\[1\]: expected a value in \[-1, 1\), got 1"),
        ({"ids": torch.tensor([0, -2, -1], dtype=torch.int32)}, r"adapter_ids\[1\]: expected a value in \[-1, 1\), got -2"),
        ({"b": torch.zeros(3, 8)}, "b: expected"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    a, b, starts, ids = a_case(0, 3, 8, 8, [2])
    given = {"a": a, "b": b, "starts": starts, "ids": ids} | change
    with pytest.raises(ValueError, match=message):
        kernels.low_rank(random(1, 3, 8), random(2, 3, 8), given["a"], given["b"], given["starts"], given["ids"])
