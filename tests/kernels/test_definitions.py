"""devices/reference defines every operation of every device, under one name and with the same arguments."""

import ast
import inspect
from pathlib import Path

import pytest
import torch

from pagecli.devices.reference import adapters, experts, formats, fused, logits, operations

DEVICES = Path(operations.__file__).parents[1]
# What measures the machine, packs or plans rather than computes.
NO_OPERATIONS = {
    "cpu/kernels.py": {
        "isa_name",
        "supported_isas",
        "wants_huge_pages",
        "set_num_threads",
        "peak_operations",
        "read_memory",
        "rendezvous",
        "pack_experts",
        "pack_quantized_experts",
        "num_threads",
    },
    "cuda/kernels.py": {"extension", "raw", "block_planes"},
    "cuda/model/attention.py": {
        *("spare_runs", "plan_tables", "plan_on_device", "plan_attention", "attention_shape", "most_partial_bytes"),
    },
}
SAME = {"swap_blocks": "copy_blocks", "exact_linear": "linear"}
# What the CPU takes row by row, and GPUs all rows' one after the other.
SAME_ON = {"cpu/kernels.py": {"apply_penalties": "penalize", "top_logits": "likeliest_logits"}}
# What a GPU takes in place of an argument of the definition, for many rows at once: the argument, and the way back to it.
MADE_OF = {
    "grouped_linear": {"sorted_rows": ("ids", experts.ids_of)},
    "low_rank": {"tiles": ("adapter_ids", adapters.adapter_ids_of)},
}
# Arguments that say how, not what: where to record or to work, and what a GPU takes in place of the definition's.
OTHER = {
    "program",
    "plan",
    "planes",
    "block_bytes",
    "context_lens",
    "query_start",
    "window",
    "target",
    "source",
    "meeting",
    "inner",
    "hands_over",
    "x_is_handed_over",
    "is_gated",
}


def operations_of(file: str) -> dict[str, list[str]]:
    """name -> arguments of the public functions."""
    tree = ast.parse((DEVICES / file).read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return {f.name: [a.arg for a in f.args.args] for f in functions if f.name not in NO_OPERATIONS[file]}


OPERATIONS = [(file, name, arguments) for file in NO_OPERATIONS for name, arguments in operations_of(file).items()]


@pytest.mark.parametrize(("file", "name", "arguments"), OPERATIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_operation_has_a_definition_with_its_arguments(file, name, arguments):
    defined_as = (SAME | SAME_ON.get(file, {})).get(name, name)
    found = next(
        f for module in (operations, fused, experts, adapters, logits, formats) if (f := getattr(module, defined_as, None))
    )
    defined = [a for a in inspect.signature(found).parameters if a not in OTHER]
    given = [MADE_OF.get(name, {}).get(a, (a,))[0] for a in arguments if a not in OTHER]
    required = [name for name, p in inspect.signature(found).parameters.items() if p.default is p.empty and name not in OTHER]
    assert given[: len(required)] == required
    assert set(given) <= set(defined)  # optional ones in any order: they are given by name


@pytest.mark.parametrize("tile_rows", [1, 2, 16])
def test_rows_by_expert_are_the_experts_of_rows(tile_rows):
    """Of what GPUs take in place of ids; order and tiles as they are drawn."""
    ids = torch.tensor([[2, 0], [-1, -1], [0, 2], [3, 2]], dtype=torch.int32)
    order, tiles = experts.sort_experts(ids, 5, tile_rows)
    assert order.tolist() == [1, 4, 0, 5, 7, 6]
    of_three = {1: [[2, 2, 1], [2, 3, 1], [2, 4, 1]], 2: [[2, 2, 2], [2, 4, 1]], 16: [[2, 2, 3]]}[tile_rows]  # rows of expert 2
    of_two = [[0, 0, 1], [0, 1, 1]] if tile_rows == 1 else [[0, 0, 2]]
    assert tiles.tolist() == [*of_two, *of_three, [3, 5, 1]]
    unused = torch.tensor([-7, -7], dtype=torch.int32)  # places of rows without an expert
    padded = torch.cat([tiles, torch.tensor([[-1, 0, 0]], dtype=torch.int32)])
    assert torch.equal(experts.ids_of(torch.cat([order, unused]), padded, 2), ids)


def test_columns_in_the_order_of_products():
    order = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]
    ordered = formats.in_product_order(torch.arange(2 * 32).view(2, 32))
    assert ordered.tolist() == [[first + i for first in (row, row + 16) for i in order] for row in (0, 32)]


def test_rotation_on_the_way_into_the_cache_is_rotation_and_storing():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, heads, 8, generator=generator, dtype=torch.float64) for heads in (4, 2, 2))
    positions, slots = torch.tensor([0, 4, 2], dtype=torch.int32), torch.tensor([5, -1, 0])
    angles = torch.rand(6, 3, generator=generator, dtype=torch.float64)
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=1)
    caches, expected = (tuple(torch.zeros(2, 2, 4, 8, dtype=torch.float64) for _ in range(2)) for _ in range(2))
    rotated_q, rotated_k, before = q.clone(), k.clone(), (q.clone(), k.clone())
    operations.rotary_embedding(rotated_q, rotated_k, positions, cos_sin)
    operations.store_kv(*expected, rotated_k[[0, 2]], v[[0, 2]], slots[[0, 2]])
    fused.rotary_store_kv(*caches, q, k, v, slots, positions, cos_sin)
    assert torch.equal(caches[0], expected[0])
    assert torch.equal(caches[1], expected[1])
    assert torch.equal(q[[0, 2]], rotated_q[[0, 2]])
    assert torch.equal(q[1], before[0][1])  # a row that is written nowhere
    assert torch.equal(k, before[1])


@pytest.mark.parametrize("of_all_heads", [False, True])
@pytest.mark.parametrize("is_rotated", [False, True])
def test_norms_on_the_way_into_the_cache_are_norms_rotation_and_storing(of_all_heads, is_rotated):
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(3, heads, 8, generator=generator, dtype=torch.float64) for heads in (4, 2, 2))
    weights = [torch.rand(8 * (heads if of_all_heads else 1), generator=generator, dtype=torch.float64) for heads in (4, 2)]
    positions, slots = torch.tensor([0, 4, 2], dtype=torch.int32), torch.tensor([5, -1, 0])
    angles = torch.rand(6, 3, generator=generator, dtype=torch.float64)
    rotation = positions, torch.cat([angles.cos(), angles.sin()], dim=1)
    caches, expected = (tuple(torch.zeros(2, 2, 4, 8, dtype=torch.float64) for _ in range(2)) for _ in range(2))
    normed, before = [torch.empty_like(x) for x in (q, k)], (q.clone(), k.clone())
    for out, x, weight in zip(normed, (q, k), weights, strict=True):
        operations.rms_norm(out.flatten(1) if of_all_heads else out, x.flatten(1) if of_all_heads else x, weight, 1e-6)
    if is_rotated:
        operations.rotary_embedding(*normed, *rotation)
    operations.store_kv(*expected, normed[1], v, slots)
    fused.norm_rotary_store_kv(*caches, q, k, v, slots, *weights, 1e-6, *(rotation if is_rotated else ()))
    assert torch.equal(caches[0], expected[0])
    assert torch.equal(caches[1], expected[1])
    assert torch.equal(q[[0, 2]], normed[0][[0, 2]])
    assert torch.equal(q[1], before[0][1])  # a row that is written nowhere
    assert torch.equal(k, before[1])


def test_additions_before_norms_and_beside_embeddings():
    generator = torch.Generator().manual_seed(1)
    x, added, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((3, 8), (3, 8), (8,), (8,)))
    for norm, parameters in ((operations.rms_norm, (weight, 1e-5)), (operations.layer_norm, (weight, bias, 1e-5))):
        summed, fused, apart = x.clone(), torch.empty(3, 8), torch.empty(3, 8)
        norm(fused, summed, *parameters, added)
        norm(apart, x + added, *parameters)
        assert torch.equal(fused, apart)
        assert torch.equal(summed, x + added)
    out, ids, positions = torch.empty(3, 8), torch.tensor([2, -1, 0]), torch.tensor([1, 0, 0])
    operations.embedding(out, ids, x, positions, added, 1)
    assert torch.equal(out, torch.stack([x[2] + added[2], torch.zeros(8), x[0] + added[1]]))


def test_rows_in_8_bits_are_the_rounded_rows():
    """Of norms and activations that are given scales."""
    x, weight, bias = (torch.randn(*shape, generator=torch.Generator().manual_seed(3)) for shape in ((3, 16), (16,), (16,)))
    for compute, parameters in (
        (operations.rms_norm, (weight, 1e-5)),
        (operations.layer_norm, (weight, bias, 1e-5)),
        (operations.activation, ("gelu", bias)),
        (operations.gated_activation, ("silu", bias)),
        (operations.gated_activation, ("silu", bias, 7.0)),
    ):
        wide = torch.empty(3, 8 if compute is operations.gated_activation else 16)
        outs = [torch.zeros(wide.shape, dtype=torch.float8_e4m3fn) for _ in range(2)]
        scales = [torch.zeros(3, 1) for _ in range(2)]
        compute(wide, x, *parameters)
        compute(outs[0], x, *parameters, scales=scales[0])
        operations.quantize_rows(outs[1], scales[1], wide)
        assert torch.equal(*scales)
        assert torch.equal(*(out.float() for out in outs))
