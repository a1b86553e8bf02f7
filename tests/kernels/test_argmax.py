"""argmax against its definition: any row size, equal values, strided rows, logits that are not finite, bad shapes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, random, seeds, strided

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import operations as reference


@examples
@given(seed=seeds, rows=st.integers(0, 9), cols=st.integers(1, 3000), coarse=st.booleans())
def test_argmax_is_the_first_largest(isa, seed, rows, cols, coarse):
    x = random(seed, rows, cols)
    x = strided((x * 2).round() if coarse else x)  # coarse: many equal values
    out, expected = torch.full((rows,), -1), torch.empty(rows, dtype=torch.int64)
    kernels.argmax(out, x)
    reference.argmax(expected, x)
    assert out.tolist() == expected.tolist()


def test_masked_values_are_never_the_largest_and_a_row_of_them_has_none(isa):
    x = torch.full((2, 2500), float("-inf"))
    x[0, 2400] = -1e30
    out = torch.empty(2, dtype=torch.int64)
    kernels.argmax(out, x)
    assert out.tolist() == [2400, -1]


@pytest.mark.parametrize("places", [[0], [1, 16, 17], [1023, 1024, 2999], list(range(0, 3000, 7)), list(range(3000))])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-nan")])
def test_a_row_with_a_value_that_is_not_finite_has_no_largest(isa, places, value):
    x = random(3, 4, 3000)
    x[1:3, places] = value
    x[2] = x[2].masked_fill(x[2].isfinite(), float("-inf"))
    out, expected = torch.empty(4, dtype=torch.int64), torch.empty(4, dtype=torch.int64)
    kernels.argmax(out, x)
    reference.argmax(expected, x)
    assert out.tolist() == expected.tolist()
    assert [token < 0 for token in out.tolist()] == [False, True, True, False]


def test_a_wrong_output_is_refused():
    with pytest.raises(ValueError, match=r"out: expected \[3\]"):
        kernels.argmax(torch.empty(2, dtype=torch.int64), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="at least one value"):
        kernels.argmax(torch.empty(2, dtype=torch.int64), torch.zeros(2, 0))
