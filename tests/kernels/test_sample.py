"""sample against its definition: which tokens the filters keep, and which of them a draw takes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples, random, seeds, strided

from pagecli.devices.cpu import kernels
from pagecli.devices.reference import operations as reference

TOP = 2**53


def draw_tokens(sample, logits, draws, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """One token a draw; `logits` is a row, or a row for each draw."""
    rows = logits.expand(len(draws), -1) if logits.dim() == 1 else logits
    out = torch.full((len(draws),), -1, dtype=torch.int64)
    settings = [torch.full((len(draws),), value) for value in (float(temperature), top_k, float(top_p), float(min_p))]
    sample(out, rows, *settings, torch.tensor(draws, dtype=torch.int64))
    return out


def kept_tokens(logits, **filters):
    """Every token that some draw takes: the border between two tokens is looked for by bisection."""
    found, stack = set(), [(0, TOP - 1)]
    ends = {}
    while stack:
        low, high = stack.pop()
        for at in (low, high):
            if at not in ends:
                ends[at] = int(draw_tokens(kernels.sample, logits, [at], **filters)[0])
                found.add(ends[at])
        if ends[low] != ends[high] and high - low > 1:
            middle = (low + high) // 2
            stack += [(low, middle), (middle, high)]
    return found


def cumulative_place(logits, token, temperature):
    """Where the token begins and ends in the running sum of the unfiltered probabilities."""
    probs = torch.softmax(logits.double() / temperature, dim=-1)
    end = float(probs[: token + 1].sum())
    return end - float(probs[token]), end


@examples
@given(seed=seeds, cols=st.integers(1, 1300), temperature=st.floats(0.2, 2.0), draw=st.integers(0, TOP - 1))
def test_without_filters_a_draw_falls_into_its_tokens_share(isa, seed, cols, temperature, draw):
    logits = random(seed, cols) * 3
    (token,) = draw_tokens(kernels.sample, logits, [draw], temperature=temperature).tolist()
    begin, end = cumulative_place(logits, token, temperature)
    assert begin - 1e-5 <= draw / TOP <= end + 1e-5


@examples
@given(
    seed=seeds,
    cols=st.integers(1, 700),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 2, 7, 50, 699, 700, 5000]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    coarse=st.booleans(),
)
def test_filters_keep_what_the_definition_keeps(isa, seed, cols, temperature, top_k, top_p, min_p, coarse):
    """The token of every draw is the definition's; within rounding of a border (a filter's, or two tokens'), either side's."""
    logits = random(seed, cols) * 2
    if coarse:  # many equal weights: ties are kept in the order of the vocabulary
        logits = logits.round()
    draws = torch.linspace(0, TOP - 1, 30, dtype=torch.float64).long().tolist()
    ours = draw_tokens(kernels.sample, logits, draws, temperature, top_k, top_p, min_p)
    unexplained = torch.ones(len(draws), dtype=torch.bool)
    for by in (0, -(2**33), 2**33):  # 1e-6
        nudged = [min(TOP - 1, max(0, draw + by)) for draw in draws]
        for p in {top_p, top_p * (1 - 1e-6), min(1.0, top_p * (1 + 1e-6))}:
            for m in {min_p, min_p * (1 - 1e-6)}:
                if bool(unexplained.any()):
                    unexplained &= ours != draw_tokens(reference.sample, logits, nudged, temperature, top_k, p, m)
    assert not bool(unexplained.any())


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 1}, {1}),
        ({"top_p": 0.39}, {1}),
        ({"top_p": 0.41}, {1, 3}),
        ({"top_k": 3, "top_p": 0.77}, {1, 3}),  # of the mass 0.9 that top-k left, 0.693 is reached by the second
        ({"min_p": 0.49}, {1, 3, 4}),
        ({"min_p": 0.51}, {1, 3}),
        ({"top_k": 4, "min_p": 0.3}, {1, 3, 4}),
        ({}, {0, 1, 3, 4}),
    ],
    ids=str,
)
def test_known_distribution(isa, filters, expected):
    logits = torch.tensor([0.1, 0.4, 0.0, 0.3, 0.2]).log()
    assert kept_tokens(logits, **filters) == expected


def test_of_equal_tokens_the_first_are_kept(isa):
    assert kept_tokens(torch.zeros(9), top_k=3) == {0, 1, 2}
    assert kept_tokens(torch.zeros(8), top_p=0.5) == {0, 1, 2, 3}
    assert kept_tokens(torch.zeros(4), min_p=1.0) == {0, 1, 2, 3}


def test_a_forbidden_token_is_never_drawn(isa):
    logits = torch.full((600,), float("-inf"))
    logits[[17, 580]] = 1.0
    for filters in ({}, {"top_k": 5}, {"top_p": 0.99}, {"min_p": 0.001}):
        assert kept_tokens(logits, **filters) == {17, 580}


@pytest.mark.parametrize("places", [[0], [39], list(range(40))])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_is_drawn_from_a_row_that_is_not_finite(isa, places, value):
    logits = random(5, 40)
    logits[places] = value
    masked = torch.full((40,), float("-inf"))
    for filters in ({}, {"top_k": 5}, {"top_k": 1}, {"top_p": 0.5}, {"min_p": 0.1}, {"temperature": 0.0}):
        for sample in (kernels.sample, reference.sample):
            assert draw_tokens(sample, torch.stack([logits, masked]), [TOP // 2] * 2, **filters).tolist() == [-1, -1]


positive = st.floats(0.0, 1e38)


@examples
@given(
    seed=seeds,
    cols=st.integers(1, 300),
    scale=st.sampled_from([1e-6, 1.0, 1e30]),
    temperature=positive | st.sampled_from([0.0, 1e-45, 1e-40, 1e-10, 9e-6, 1e-5, 1e38]),
    top_k=st.sampled_from([0, 1, 3, 2**31 - 1]),
    top_p=st.floats(0.0, 1.0) | st.sampled_from([0.0, 1e-50, 1e-45, 1e-38]),
    min_p=st.floats(0.0, 1.0),
    draw=st.integers(0, TOP - 1),
)
def test_every_parameter_in_its_range_gives_a_token_and_a_tiny_one_the_likeliest(
    isa, seed, cols, scale, temperature, top_k, top_p, min_p, draw
):
    logits = random(seed, cols) * scale
    (token,) = draw_tokens(kernels.sample, logits, [draw], temperature, top_k, top_p, min_p).tolist()
    (expected,) = draw_tokens(reference.sample, logits, [draw], temperature, top_k, top_p, min_p).tolist()
    assert 0 <= token < cols
    if temperature < 1e-5 or top_k == 1 or top_p < 1e-46:
        assert token == expected == int(logits.argmax())


@pytest.mark.usefixtures("restore_threads")
def test_a_row_draws_the_same_in_any_batch_and_with_any_number_of_threads(isa):
    logits = strided(random(3, 50, 5000) * 2)
    draws = torch.randint(0, TOP, (50,), generator=torch.Generator().manual_seed(1)).tolist()
    filters = {"temperature": 0.9, "top_k": 400, "top_p": 0.9}
    kernels.set_num_threads(1)
    alone = [int(draw_tokens(kernels.sample, logits[i : i + 1], [draws[i]], **filters)[0]) for i in range(50)]
    kernels.set_num_threads(3)
    assert draw_tokens(kernels.sample, logits, draws, **filters).tolist() == alone


def test_wrong_shapes_are_refused():
    good = (torch.ones(2), torch.zeros(2, dtype=torch.int64), torch.ones(2), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    out = torch.empty(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="logits: expected rows with at least one value"):
        kernels.sample(out, torch.zeros(2, 0), *good)
    with pytest.raises(ValueError, match="temperature"):
        kernels.sample(out, torch.zeros(2, 5), torch.ones(3), *good[1:])
    with pytest.raises(TypeError, match="top_k"):
        kernels.sample(out, torch.zeros(2, 5), good[0], torch.zeros(2), *good[2:])
