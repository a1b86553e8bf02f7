"""CUDA attention against its definition: decodes, prefill chunks behind cached prefixes and mixtures of them; every head size,
grouping, block size and window; caches whose unused slots hold NaN."""

import numpy as np
import pytest
import torch
from gpu_tensors import DEVICE, as_e4m3, assert_near, int_tensor, poisoned, random

from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.model.attention import AttentionShape, paged_attention, plan_attention
from pagecli.devices.reference import operations as reference

pytestmark = pytest.mark.cuda
# Weights are rounded to the type before they meet V; results are means of values of about 1.
TOLERANCE = {torch.bfloat16: 0.02, torch.float16: 0.003, torch.float32: 1e-5}
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def attend_both(
    chunks: list[tuple[int, int]],
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    dtype: torch.dtype,
    window: int = 0,
    decode_slots: int = 12,
    padded_rows: int | None = None,
    query_scale: float = 1.0,
    cache_scales: tuple[float, float] | None = None,
    sinks: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(the kernels' result, the definition's) for chunks (tokens cached before, new tokens), one for each sequence.

    cache_scales: caches of e4m3 with these scales, which the definition reads too.
    """
    contexts, lengths = [c + n for c, n in chunks], [n for _, n in chunks]
    blocks_each = [-(-context // block_size) for context in contexts]
    shape = (sum(blocks_each) + 1, kv_heads, block_size, head_dim)
    k_cache, v_cache = (poisoned(*shape, dtype=dtype if cache_scales is None else FP32) for _ in range(2))
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(1)).tolist()
    tables = [[order.pop() for _ in range(blocks)] for blocks in blocks_each]
    width = max(blocks_each) + 1
    block_tables = int_tensor([table + [-1] * (width - len(table)) for table in tables])
    for s, context in enumerate(contexts):
        positions = torch.arange(context, device=DEVICE)
        slots = block_tables[s].long()[positions // block_size] * block_size + positions % block_size
        k, v = (random(2 * s + i, context, kv_heads, head_dim, dtype=k_cache.dtype) for i in range(2))
        reference.store_kv(k_cache, v_cache, k, v, slots)
    q = random(99, sum(lengths), heads, head_dim, dtype=dtype, scale=query_scale)
    query_start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    context_lens = np.array(contexts, dtype=np.int32)
    model = AttentionShape(heads, kv_heads, head_dim, dtype, decode_slots)
    plan = plan_attention(context_lens, query_start, model, DEVICE, window, padded_rows)
    plan.partial_out.fill_(float("nan"))
    plan.partial_stats.fill_(float("nan"))
    out = poisoned(*q.shape, dtype=dtype)
    scales = cache_scales or (1.0, 1.0)
    caches = (
        [k_cache, v_cache] if cache_scales is None else [as_e4m3(c, s) for c, s in zip((k_cache, v_cache), scales, strict=True)]
    )
    paged_attention(out, q, *caches, block_tables, plan, head_dim**-0.5, *scales, sinks)
    expected = poisoned(*q.shape, dtype=FP32).cpu()
    cached = [cache.float().cpu() * scale for cache, scale in zip(caches, scales, strict=True)]
    step = block_tables.cpu(), torch.from_numpy(context_lens), torch.from_numpy(query_start)
    added = None if sinks is None else sinks.cpu()
    reference.paged_attention(expected, q.float().cpu(), *cached, *step, head_dim**-0.5, window, sinks=added)
    return out, expected


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "block_size", "dtype"),
    [
        (2, 2, 64, 16, BF16),
        (3, 3, 128, 8, FP16),
        (2, 2, 256, 32, BF16),
        (2, 2, 80, 16, BF16),  # padded to 128
        (4, 2, 128, 128, BF16),  # groups of two share a kernel made for four
        (6, 2, 64, 16, FP16),
        (4, 1, 64, 16, BF16),  # from here on: tensor cores
        (8, 2, 128, 16, BF16),
        (7, 1, 96, 8, FP16),
        (18, 1, 64, 64, BF16),  # two chunks of 16 heads
        (5, 1, 256, 16, BF16),
        (4, 2, 64, 16, FP32),
        (3, 3, 128, 16, FP32),
        (2, 1, 256, 8, FP32),
    ],
    ids=str,
)
def test_decode(heads, kv_heads, head_dim, block_size, dtype):
    """One-token contexts, contexts that fill blocks and tiles exactly, long ones cut into runs."""
    chunks = [(0, 1), (15, 1), (63, 1), (64, 1), (300, 1)]
    out, expected = attend_both(chunks, heads, kv_heads, head_dim, block_size, dtype, decode_slots=48)
    assert_near(out, expected, TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "block_size", "dtype"),
    [(2, 2, 64, 16, BF16), (6, 2, 128, 8, FP16), (4, 4, 80, 32, BF16), (4, 1, 256, 16, BF16), (2, 1, 64, 128, FP32)],
    ids=str,
)
def test_prefill_behind_any_prefix_beside_decodes(heads, kv_heads, head_dim, block_size, dtype):
    chunks = [(0, 33), (70, 5), (9, 1), (0, 2), (5, 0), (64, 64), (0, 1)]
    out, expected = attend_both(chunks, heads, kv_heads, head_dim, block_size, dtype)
    assert_near(out, expected, TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "block_size", "dtype"),
    [
        (2, 2, 64, 16, BF16),
        (3, 3, 128, 8, FP16),
        (1, 1, 256, 32, BF16),
        (2, 2, 80, 16, FP16),
        (6, 2, 128, 128, BF16),  # groups of three: two chunks of two heads
        (4, 2, 256, 16, FP16),
        (4, 1, 64, 16, BF16),  # tensor cores
        (8, 2, 128, 16, FP16),
        (7, 1, 96, 8, BF16),
        (18, 1, 64, 64, BF16),
        (5, 1, 256, 16, BF16),
    ],
    ids=str,
)
def test_a_cache_of_8_bit_floats(heads, kv_heads, head_dim, block_size, dtype):
    """Decodes, short and cut into runs, beside prefills behind prefixes."""
    chunks = [(0, 1), (63, 1), (300, 1), (0, 33), (70, 5)]
    out, expected = attend_both(chunks, heads, kv_heads, head_dim, block_size, dtype, decode_slots=48, cache_scales=(0.03, 0.5))
    assert_near(out, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
@pytest.mark.parametrize("group", [1, 2, 4])
def test_every_8_bit_float_is_read_as_itself(group, dtype):
    """With one key, its value is the result: by decode's kernels and, as the second row of two, by prefill's."""
    head_dim, block_size = 256, 8
    codes = torch.arange(256, dtype=torch.uint8).roll(37)
    codes[(codes & 0x7F) == 0x7F] = 0  # NaN
    k_cache, v_cache = (torch.zeros(1, 1, block_size, head_dim, dtype=torch.uint8) for _ in range(2))
    v_cache[0, 0, :2] = codes
    caches = [cache.to(DEVICE).view(torch.float8_e4m3fn) for cache in (k_cache, v_cache)]
    for new in (1, 2):
        q, out = random(5, new, group, head_dim, dtype=dtype), poisoned(new, group, head_dim, dtype=dtype)
        shape = AttentionShape(group, 1, head_dim, dtype, 12)
        plan = plan_attention(np.array([new], dtype=np.int32), np.array([0, new], dtype=np.int32), shape, DEVICE)
        paged_attention(out, q, *caches, int_tensor([[0]]), plan, 1.0, 1.0, 2.0)
        assert torch.equal(out.float(), (2 * codes.to(DEVICE).view(torch.float8_e4m3fn).float()).expand(new, group, -1))


@pytest.mark.parametrize("window", [1, 20, 64, 500])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 1)])
def test_sliding_window(window, heads, kv_heads):
    out, expected = attend_both([(150, 1), (0, 90), (100, 30), (0, 1)], heads, kv_heads, 64, 16, BF16, window)
    assert_near(out, expected, TOLERANCE[BF16])


@pytest.mark.parametrize("window", [0, 20])
@pytest.mark.parametrize(("heads", "kv_heads", "dtype"), [(3, 3, BF16), (8, 2, BF16), (18, 1, FP16), (4, 2, FP32)], ids=str)
def test_sinks(heads, kv_heads, dtype, window):
    """In decodes, cut into runs or not, and prefills; sinks far below all scores, among them, and far above."""
    sinks = torch.linspace(-100.0, 3.0, heads, device=DEVICE)
    chunks = [(300, 1), (0, 1), (0, 90), (64, 30)]
    out, expected = attend_both(chunks, heads, kv_heads, 64, 16, dtype, window, decode_slots=48, sinks=sinks)
    assert_near(out, expected, TOLERANCE[dtype])

    def of_last_head(sinks):
        few = [(300, 1), (0, 1), (0, 5), (64, 3)]
        return attend_both(few, heads, kv_heads, 64, 16, dtype, window, decode_slots=48, sinks=sinks)[0][:, -1]

    assert (of_last_head(sinks).abs().amax(-1) < of_last_head(None).abs().amax(-1)).all()
    sinks[-1] = 1e4
    assert not of_last_head(sinks).any()


@pytest.mark.parametrize("scales", [(0.03, 0.5)])
def test_sinks_over_a_cache_of_8_bit_floats(scales):
    chunks, sinks = [(63, 1), (300, 1), (0, 33)], torch.linspace(-2.0, 3.0, 4, device=DEVICE)
    out, expected = attend_both(chunks, 4, 1, 64, 16, BF16, decode_slots=48, cache_scales=scales, sinks=sinks)
    assert_near(out, expected, TOLERANCE[BF16])


@pytest.mark.parametrize(("heads", "kv_heads", "dtype"), [(1, 1, BF16), (4, 1, FP16), (1, 1, FP32)], ids=str)
def test_long_context_cut_into_many_runs(heads, kv_heads, dtype):
    out, expected = attend_both([(2999, 1), (1024, 1)], heads, kv_heads, 64, 16, dtype, decode_slots=120, query_scale=8.0)
    assert_near(out, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("heads", [1, 4])
def test_a_plan_of_fixed_shape_is_padded(heads):
    out, expected = attend_both([(40, 1), (700, 1)], heads, 1, 64, 16, BF16, padded_rows=9)
    assert_near(out, expected, TOLERANCE[BF16])


def test_an_infinite_value_hides_only_rows_that_see_it():
    """A later position's overflow must not reach the rows before it, in whichever tile it lies."""
    for at in (40, 70):
        caches = [random(i, 6, 1, 16, 64, dtype=BF16) for i in range(2)]
        caches[1][at // 16, 0, at % 16] = float("inf")
        q, out = random(3, 90, 1, 64, dtype=BF16), poisoned(90, 1, 64, dtype=BF16)
        shape = AttentionShape(1, 1, 64, BF16, 12)
        plan = plan_attention(np.array([90], dtype=np.int32), np.array([0, 90], dtype=np.int32), shape, DEVICE)
        paged_attention(out, q, *caches, int_tensor([[0, 1, 2, 3, 4, 5]]), plan, 0.125)
        assert out[at:].isinf().any(-1).all()
        assert out[: at // 64 * 64].isfinite().all()  # tiles of keys that no row of theirs may see are not read


def test_runs_are_chosen_for_the_machine():
    """The worked examples of attention_plan.h, and limits that must hold."""
    choose = kernels.extension().choose_run_length
    assert choose(np.full(64, 1000, dtype=np.int32), 40, 396, 10**6) >= 1000  # already enough work for every multiprocessor
    assert choose(np.array([8192], dtype=np.int32), 8, 396, 10**6) == 128
    assert choose(np.array([8192], dtype=np.int32), 8, 396, 1) >= 8192  # one run is all there is room for
    assert choose(np.array([], dtype=np.int32), 8, 396, 10) >= 1


def test_runs_cover_every_key_once():
    generator = np.random.default_rng(5)
    for _ in range(50):
        rows = [(s, 10 * s, int(f), int(f + n)) for s, (f, n) in enumerate(generator.integers(1, 400, (7, 2)))]
        runs, merges = np.empty((200, 5), dtype=np.int32), np.empty((7, 3), dtype=np.int32)
        length = int(generator.integers(16, 200))
        num_partials = kernels.extension().cut_into_runs(np.array(rows, dtype=np.int32), length, runs, merges)
        used = runs[runs[:, 0] >= 0]
        assert sorted(used[used[:, 4] >= 0, 4]) == list(range(num_partials))
        for s, row, first, end in rows:
            mine = used[used[:, 0] == s]
            assert (mine[:, 1] == row).all()
            assert [k for _, _, f, e, _ in mine for k in range(f, e)] == list(range(first, end))
        for row, first, count in merges[merges[:, 0] >= 0]:
            assert count > 1
            assert (used[(used[:, 4] >= first) & (used[:, 4] < first + count), 1] == row).all()
    assert kernels.extension().cut_into_runs(np.array(rows, dtype=np.int32), 16, runs[:3], merges) == -1


def test_bad_shapes_are_refused():
    caches = [random(i, 2, 1, 12, 64, dtype=BF16) for i in range(2)]
    q = random(3, 1, 1, 64, dtype=BF16)
    shape = AttentionShape(1, 1, 64, BF16, 12)
    plan = plan_attention(np.array([3], dtype=np.int32), np.array([0, 1], dtype=np.int32), shape, DEVICE)
    with pytest.raises(ValueError, match="block_size: expected a power of two, got 12"):
        paged_attention(q.clone(), q, *caches, int_tensor([[0, 1]]), plan, 1.0)
    with pytest.raises(ValueError, match=r"k_scale and v_scale: .* 1 where the cache is not e4m3, got 0.5"):
        paged_attention(q.clone(), q, *caches, int_tensor([[0, 1]]), plan, 1.0, 0.5)
    narrow = [torch.zeros(2, 1, 16, 72, dtype=torch.float8_e4m3fn, device=DEVICE) for _ in range(2)]
    wide = random(3, 1, 1, 72, dtype=BF16)
    with pytest.raises(ValueError, match="head_dim: expected a multiple of 16"):
        paged_attention(wide.clone(), wide, *narrow, int_tensor([[0, 1]]), plan, 1.0)
