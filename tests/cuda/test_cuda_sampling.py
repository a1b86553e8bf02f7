"""Tokens drawn by the CUDA kernel are those of the definition, with the random numbers the CPU would use."""

import numpy as np
import pytest
import torch
from gpu_tensors import DEVICE, poisoned, random

from pagecli.devices.cuda import kernels
from pagecli.devices.reference import operations as reference

pytestmark = pytest.mark.cuda

FILTERS = [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_p": 0.5},
    {"top_p": 0.95, "top_k": 40},
    {"min_p": 0.05},
    {"top_k": 10**6, "top_p": 0.9, "min_p": 0.01},
    {"temperature": 0.0},
    {"temperature": 0.3, "top_p": 0.99},
    {"temperature": 2.5},
]


def draw(logits: torch.Tensor, rows: list[int], settings: list[dict], keys: list[tuple[int, ...]]) -> list[int]:
    """The kernel's draws: settings[d] and keys[d] from logits[rows[d]]."""

    def column(name: str, default: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([s.get(name, default) for s in settings], dtype=dtype, device=DEVICE)

    out = poisoned(len(rows), dtype=torch.int64)
    kernels.sample_tokens(
        out,
        logits,
        torch.tensor(rows, dtype=torch.int32, device=DEVICE),
        column("temperature", 1.0, torch.float32),
        column("top_k", 0, torch.int32),
        column("top_p", 1.0, torch.float32),
        column("min_p", 0.0, torch.float32),
        torch.tensor(np.array(keys, dtype=np.uint64).view(np.int64), device=DEVICE),
    )
    return out.tolist()


def expected_draws(logits: torch.Tensor, rows: list[int], settings: list[dict], keys: list[tuple[int, ...]]) -> list[int]:
    """What the definition draws, in float64."""
    tokens = torch.empty(len(rows), dtype=torch.int64)
    reference.sample_tokens(
        tokens,
        logits.double().cpu(),
        torch.tensor(rows),
        torch.tensor([s.get("temperature", 1.0) for s in settings]),
        torch.tensor([s.get("top_k", 0) for s in settings]),
        torch.tensor([s.get("top_p", 1.0) for s in settings]),
        torch.tensor([s.get("min_p", 0.0) for s in settings]),
        torch.tensor(np.array(keys, dtype=np.uint64).view(np.int64)),
    )
    return tokens.tolist()


@pytest.mark.parametrize("ties", [False, True], ids=["apart", "ties"])
@pytest.mark.parametrize(("cols", "scale", "more"), [(1, 1.0, 3), (33, 1.0, 3), (1300, 4.0, 3), (1300, 4.0, 4), (6000, 0.1, 0)])
def test_draws_are_the_definitions(cols, scale, more, ties):
    """Logits rounded to 16 bits are full of ties; rows begin at multiples of 16 bytes or anywhere; a bin may hold more than is
    kept of it in shared memory."""
    logits = random(1, 5, cols + more, scale=scale)[:, :cols]
    if ties:
        logits = logits.bfloat16().float()
    settings = FILTERS
    rows = [d % 5 for d in range(len(settings))]
    keys = [(2**63 + d, d % 4, d % 3, d * d) for d in range(len(settings))]
    assert draw(logits, rows, settings, keys) == expected_draws(logits, rows, settings, keys)


def test_forbidden_tokens_and_peaked_rows():
    logits = random(2, 3, 700, scale=2.0)
    logits[0, 5:] = float("-inf")
    logits[1, 123] = 400.0
    logits[2, ::2] = float("-inf")
    settings = [s for s in FILTERS for _ in range(3)]
    rows, keys = [d % 3 for d in range(len(settings))], [(7, d, 0, 3) for d in range(len(settings))]
    tokens = draw(logits, rows, settings, keys)
    assert tokens == expected_draws(logits, rows, settings, keys)
    assert all(token < 5 for token in tokens[0::3])
    assert tokens[1::3] == [123] * len(FILTERS)
    assert all(token % 2 == 1 for token in tokens[2::3])


def test_ties_are_taken_in_the_order_of_ids():
    logits = torch.zeros(1, 100, device=DEVICE)
    settings = [{"top_k": 10}] * 8 + [{"top_p": 0.25}] * 8 + [{"temperature": 0.0}]
    tokens = draw(logits, [0] * 17, settings, [(1, d, 0, 0) for d in range(17)])
    assert len(set(tokens[:8])) > 3
    assert max(tokens[:8]) < 10
    assert max(tokens[8:16]) < 25
    assert tokens[16] == 0


def test_draws_follow_the_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]], device=DEVICE)
    tokens = draw(logits, [0] * 60, [{"min_p": 1e-6}] * 60, [(3, d, 0, 0) for d in range(60)])
    shares = np.bincount(tokens, minlength=4) / 60
    assert np.abs(shares - torch.softmax(logits[0], 0).cpu().numpy()).max() < 0.2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_not_finite_give_no_token_and_spoil_no_other(value):
    """-1 where a logit is NaN or +inf, or all are -inf, by every way of choosing: argmax too."""
    logits = random(4, 4, 700, scale=2.0)
    logits[1, :] = value
    logits[3, 640] = value if value != float("-inf") else float("nan")
    likeliest = poisoned(4, dtype=torch.int64)
    kernels.argmax(likeliest, logits)
    assert [token < 0 for token in likeliest.tolist()] == [False, True, False, True]
    settings = [s for s in FILTERS for _ in range(4)]
    rows, keys = [d % 4 for d in range(len(settings))], [(7, d, 0, 3) for d in range(len(settings))]
    tokens = draw(logits, rows, settings, keys)
    assert tokens == expected_draws(logits, rows, settings, keys)
    assert tokens[1::4] == tokens[3::4] == [-1] * len(FILTERS)


def test_every_parameter_in_its_range_gives_a_token_and_a_tiny_one_the_likeliest():
    """As tests/kernels/test_sample.py asks of the CPU's kernel."""
    logits = random(6, 2, 300)
    likeliest = logits.argmax(-1).tolist()
    tiny = [{"temperature": t} for t in (0.0, 1e-45, 1e-40, 1e-10, 9e-6)] + [{"top_p": 0.0}, {"top_k": 1}]
    tiny += [{"temperature": 1e-40, "top_k": 5, "top_p": 0.5, "min_p": 0.3}, {"temperature": 1.5, "top_p": 1e-45}]
    wide = [{"temperature": t, **s} for t in (1e-5, 1e-4, 1e38) for s in ({}, {"top_k": 3}, {"top_p": 1e-38}, {"min_p": 1.0})]
    for row, scaled in ((0, logits), (1, logits * 1e30)):
        keys = [(1, d, 0, 0) for d in range(len(tiny))]
        assert draw(scaled, [row] * len(tiny), tiny, keys) == [likeliest[row]] * len(tiny)
        tokens = draw(scaled, [row] * len(wide), wide, [(2, d, 0, 0) for d in range(len(wide))])
        assert all(0 <= token < 300 for token in tokens)
