"""What a choice of tokens may need beside the draw: log probabilities, the largest logits, penalties, masks. Each kernel gives
what its definition gives."""

import numpy as np
import pytest
import torch
from gpu_tensors import DEVICE, int_tensor, poisoned, random

from pagecli.devices.cuda import kernels
from pagecli.devices.reference import logits as reference

pytestmark = pytest.mark.cuda
INFINITY = float("inf")
shapes = pytest.mark.parametrize(("cols", "more"), [(1, 0), (33, 3), (700, 0), (5003, 5)])


def rows_of(cols: int, more: int, seed: int = 1) -> torch.Tensor:
    """logits[5, cols], rows apart in memory."""
    return random(seed, 5, cols + more, scale=3.0)[:, :cols]


def both(function: str, *arguments: object) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(the kernel's, the definition's) of each tensor among the arguments, after the call."""
    ours, theirs = ([a.clone() if isinstance(a, torch.Tensor) else a for a in arguments] for _ in range(2))
    theirs = [a.cpu() if isinstance(a, torch.Tensor) else a for a in theirs]
    getattr(kernels, function)(*ours)
    getattr(reference, function)(*theirs)
    return [(a.cpu(), b) for a, b in zip(ours, theirs, strict=True) if isinstance(a, torch.Tensor)]


def same(first: torch.Tensor, second: torch.Tensor, tolerance: float = 0.0) -> bool:
    return torch.allclose(first, second, rtol=tolerance, atol=tolerance, equal_nan=True)


@shapes
@pytest.mark.parametrize("subtract", [False, True])
def test_normalizers_make_log_probabilities(cols, more, subtract):
    logits, rows = rows_of(cols, more), int_tensor([3, 0, 4])
    (out, expected), (ours, theirs), _ = both("log_normalizers", poisoned(3, 2, dtype=torch.float32), logits, rows, subtract)
    assert same(out, expected, 3e-7)
    assert same(ours, theirs, 2e-6)
    assert torch.equal(ours[1], logits[1].cpu())
    wanted = logits.double().cpu().log_softmax(-1)[[3, 0, 4]]
    found = ours[[3, 0, 4]] if subtract else ours[[3, 0, 4]] - out[:, :1] - out[:, 1:]
    assert torch.allclose(found.double(), wanted, atol=3e-6)


@pytest.mark.parametrize("value", [float("nan"), INFINITY, -INFINITY])
def test_log_probabilities_of_rows_that_are_not_finite_are_nan(value):
    logits = rows_of(100, 0)
    logits[2, :] = value if value < 0 else logits[2]
    logits[2, 77] = value
    out = poisoned(1, 2, dtype=torch.float32)
    kernels.log_normalizers(out, logits, int_tensor([2]), True)
    assert logits[2].isnan().all()
    assert logits[1].isfinite().all()


@shapes
@pytest.mark.parametrize("coarse", [False, True], ids=["apart", "ties"])
def test_the_largest_logits_the_first_of_equal_ones(cols, more, coarse):
    logits = rows_of(cols, more, seed=2)
    if coarse:
        logits = logits.round()
    logits[1, ::2] = -INFINITY
    logits[3, cols // 2] = float("nan")
    counts = [min(cols, count) for count in (1, 100, 0, 7, cols)]
    offsets = int_tensor(np.cumsum([0, *counts]).tolist())
    ids, values = poisoned(sum(counts), dtype=torch.int32), poisoned(sum(counts), dtype=torch.float32)
    (ids, expected), (values, expected_values), *_ = both(
        "top_logits", ids, values, logits, int_tensor([0, 1, 2, 3, 4]), offsets
    )
    assert torch.equal(ids, expected)
    assert torch.equal(values, expected_values)


def penalty_case(cols: int, seed: int, known: list[list[int]], num_prompts: list[int]) -> list[torch.Tensor]:
    """Arguments of apply_penalties behind the logits for sequences of these tokens."""
    offsets, ids, counts = [0], [], []
    for tokens, num_prompt in zip(known, num_prompts, strict=True):
        for token in sorted(set(tokens[:-1])):
            ids.append(token)
            counts.append(tokens[num_prompt:-1].count(token))
        ids.append(-7)
        counts.append(int(len(tokens) > num_prompt))
        offsets.append(len(ids))
    return [int_tensor(offsets), int_tensor(ids), int_tensor(counts), poisoned(len(ids), dtype=torch.float32)]


PENALTIES = [(1.3, 0.5, 0.25), (1.0, -0.5, 0.0), (0.7, 0.0, 1.5), (2.0, 0.0, 0.0)]


def test_penalties_are_the_definitions_and_its_last_token_comes_from_the_step():
    generator = torch.Generator().manual_seed(3)
    known = [torch.randint(0, 40, (n,), generator=generator).tolist() for n in (1, 2, 30, 400)]
    known[1] = [5, 5]  # the last one is known already
    num_prompts, rows = [1, 1, 10, 400], int_tensor([4, 0, 2, 1])
    last_tokens = int_tensor([0, 2, 3, 5])
    step = int_tensor([known[0][-1], 39, known[1][-1], known[2][-1], 38, known[3][-1]])
    logits, penalties = rows_of(50, 1, seed=4), torch.tensor(PENALTIES, device=DEVICE)
    found = both("apply_penalties", logits, rows, penalties, *penalty_case(50, 3, known, num_prompts), step, last_tokens)
    assert all(same(ours, theirs) for ours, theirs in found)
    adjusted = found[0][0]
    for i, row in enumerate(rows.tolist()):
        expected = logits[row].double().cpu()
        repetition, presence, frequency = PENALTIES[i]
        seen = torch.tensor(sorted(set(known[i])))
        expected[seen] = torch.where(expected[seen] > 0, expected[seen] / repetition, expected[seen] * repetition)
        output = torch.bincount(torch.tensor(known[i][num_prompts[i] :], dtype=torch.int64), minlength=50)
        expected -= presence * (output > 0) + frequency * output
        assert torch.allclose(adjusted[row].double(), expected, atol=1e-5)
    assert torch.equal(adjusted[3], logits[3].cpu())


def test_a_last_token_that_is_none_is_left_out():
    logits = rows_of(50, 0)
    case = penalty_case(50, 3, [[7, 9, 9]], [1])
    tables = (int_tensor([0]), torch.tensor([[2.0, 1.0, 1.0]], device=DEVICE), *case, int_tensor([-1]), int_tensor([0]))
    found = both("apply_penalties", logits, *tables)
    assert all(same(ours, theirs) for ours, theirs in found)


@shapes
def test_masks_and_single_tokens_are_forbidden(cols, more):
    logits, rows = rows_of(cols, more, seed=5), int_tensor([4, 0, 1])
    generator = np.random.default_rng(6)
    masks = torch.from_numpy(generator.integers(0, 2**32, (3, -(-cols // 32)), dtype=np.uint32).view(np.int32)).to(DEVICE)
    masks[1] = -1
    masks[2] = 0
    (ours, theirs), *_ = both("mask_logits", logits, rows, masks)
    assert torch.equal(ours, theirs)
    assert ours[1].isneginf().all()
    assert torch.equal(ours[[0, 2, 3]], logits[[0, 2, 3]].cpu())
    (ours, theirs), *_ = both("forbid_tokens", logits, int_tensor([2, 1, 3]), int_tensor([0, cols - 1, cols // 2]))
    assert torch.equal(ours, theirs)
    assert int(ours.isneginf().sum()) == len({(2, 0), (1, cols - 1), (3, cols // 2)})


def test_chosen_tokens_have_the_log_probability_before_penalties():
    logits, rows = rows_of(60, 4, seed=7), int_tensor([0, 2])
    expected = logits.double().cpu().log_softmax(-1)
    normalizers = poisoned(2, 2, dtype=torch.float32)
    kernels.log_normalizers(normalizers, logits, rows)
    offsets, ids, counts, before = penalty_case(60, 3, [[1, 2, 3, 4, 3, 8]], [2])
    table = torch.tensor([[1.8, 0.3, 0.2]], device=DEVICE)
    kernels.apply_penalties(logits, int_tensor([2]), table, offsets, ids, counts, before, int_tensor([8]), int_tensor([0]))
    tokens = int_tensor([5, 3, -1, 8, 11], torch.int64)
    end = int(offsets[1])
    wanted = int_tensor([[0, 0, 0, 0, 0], [1, 2, 1, 0, end], [2, 2, 1, 0, end], [3, 2, 1, 0, end], [4, 2, 1, 0, end]])
    out = poisoned(5, dtype=torch.float32)
    (found, defined), *_ = both("token_logprobs", out, tokens, logits, normalizers, wanted, ids, before)
    assert same(found, defined)
    assert found[2].isnan()
    for i, (row, token) in enumerate(((0, 5), (2, 3), (2, 0), (2, 8), (2, 11))):
        assert i == 2 or abs(float(found[i]) - float(expected[row, token])) < 3e-6


def test_arguments_are_checked_by_name():
    logits = rows_of(64, 0)
    with pytest.raises(ValueError, match=r"masks: expected \[1, 2\], got \[1, 3\]"):
        kernels.mask_logits(logits, int_tensor([0]), int_tensor([[1, 2, 3]]))
    with pytest.raises(TypeError, match="logits: expected float32, got bfloat16"):
        kernels.forbid_tokens(logits.bfloat16(), int_tensor([0]), int_tensor([0]))
    with pytest.raises(ValueError, match=r"offsets: expected \[3\], got \[2\]"):
        kernels.top_logits(int_tensor([1]), poisoned(1, dtype=torch.float32), logits, int_tensor([0, 1]), int_tensor([0, 1]))
