"""Which values the products of a model hand over as the next product multiplies them, and that logits keep their bits."""

import numpy as np
import pytest
import torch
from paged_steps import PagedSteps
from test_logits import KV_DTYPE, random_prompts

from pagecli.devices.base import load_model
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.model import with_adds
from pagecli.devices.cpu.weights.packed_weight import CpuWeights, GatedLinear
from pagecli.model.program import GatedActivation, Linear, LowRank, Norm, Weight
from pagecli.model.registry import resolve_model

SIZE = 64


def weight(name, rows=SIZE, columns=SIZE, **settings):
    return Weight((name,), (rows,), columns, **settings)


def handed_over(up, down, *others, up_types=("bfloat16",), down_type="bfloat16", added_to=""):
    """What a program hands over of: a product `up` of "normed" into "inner", one `down` of "inner", other operations."""
    weights = CpuWeights()
    for each, dtypes in ((up, up_types), (down, (down_type,))):
        shape = each.num_rows // len(dtypes), each.columns
        weights.add_matrix(each, [kernels.pack_weight(np.ones(shape, np.float32), dtype) for dtype in dtypes])
    between = [(Linear("inner", "normed", up), ""), (Linear("mlp_out", "inner", down), added_to)]
    return weights.handed_over([*between, *((other, "") for other in others)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("added_to", ["", "hidden"])
def test_products_of_one_type_hand_over(dtype, added_to):
    assert handed_over(weight("up"), weight("down"), up_types=(dtype,), down_type=dtype, added_to=added_to) == {"inner"}


NOTHING = np.zeros((1, SIZE), np.float32)


@pytest.mark.parametrize(
    "reader",
    [Norm("other", "inner", "rms", 1e-5, None), LowRank("mlp_out", "inner", 0, SIZE, NOTHING, NOTHING, np.zeros(2, np.int32))],
    ids=["a norm", "an adapter"],
)
def test_what_anything_else_reads_stays_rows(reader):
    assert handed_over(weight("up"), weight("down"), reader) == set()


def test_what_anything_else_writes_stays_rows():
    assert handed_over(weight("up"), weight("down"), Norm("inner", "hidden", "rms", 1e-5, None)) == set()


@pytest.mark.parametrize(
    ("up", "down", "up_types", "down_type"),
    [
        (weight("up"), weight("down"), ("int8",), "int8"),
        (weight("up"), weight("down"), ("int8-a16",), "int8-a16"),
        (weight("up"), weight("down"), ("float32",), "bfloat16"),
        (weight("up"), weight("down"), ("bfloat16", "bfloat16"), "bfloat16"),
        (weight("up", rows=48), weight("down", columns=48), ("bfloat16",), "bfloat16"),
        (weight("up"), weight("down", whole_columns=2 * SIZE), ("bfloat16",), "bfloat16"),
    ],
    ids=["int8", "int8-a16", "two types", "two sections", "48 columns", "some columns of a rank"],
)
def test_products_that_do_not_match_hand_over_nothing(up, down, up_types, down_type):
    assert handed_over(up, down, up_types=up_types, down_type=down_type) == set()


def test_a_bfloat16_product_is_one_with_its_gated_activation():
    weights, up = CpuWeights(), weight("gate_up", rows=2 * SIZE)
    weights.add_matrix(up, [kernels.pack_weight(np.ones((2 * SIZE, SIZE), np.float32), "bfloat16")])
    product = Linear("gate_up", "normed", up)
    gated = GatedActivation("inner", "gate_up", "silu")
    assert with_adds([product, gated], weights.gated) == [(GatedLinear("inner", "normed", up, None, "silu"), "")]
    adapter = LowRank("gate_up", "normed", 0, SIZE, NOTHING, NOTHING, NOTHING[0])
    for others in (
        [GatedActivation("inner", "gate_up", "silu", 2)],
        [GatedActivation("inner", "gate_up", "silu", 1, 7.0)],
        [GatedActivation("inner", "another", "silu")],
        [adapter, gated],
    ):
        assert with_adds([product, *others], weights.gated) == [(each, "") for each in (product, *others)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["opt", "llama"])
def test_logits_have_the_bits_of_values_in_rows(tiny_model, name, dtype, monkeypatch):
    directory, logits = str(tiny_model(name)), []
    for hands_over in (True, False):
        if not hands_over:
            monkeypatch.setattr(CpuWeights, "handed_over", lambda *_: set())
            monkeypatch.setattr(CpuWeights, "gated", lambda *_: None)
        model = load_model(resolve_model(directory), dtype, max_batch_tokens=256)
        gates = (kernels.isa_name(), dtype) == ("amx", "bfloat16")
        assert model._handed_over == ({"inner"} if hands_over and (name == "opt" or gates) else set())
        steps = PagedSteps(model, KV_DTYPE[dtype])
        chunks = [random_prompts([1, 7, 33, 70]), random_prompts([1, 1, 2, 1])]
        logits.append(torch.cat([part for step in chunks for part in steps.step(step).values()]))
    assert torch.equal(*logits)
