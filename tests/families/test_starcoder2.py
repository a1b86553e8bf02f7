"""StarCoder2: an ungated MLP, biases, windows."""

import pytest
from checkpoints import Family, check_family

FAMILIES = [
    Family("Starcoder2", {}, {"no biases": {"use_bias": False}, "window": {"sliding_window": 5}}),
]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_knob_computes_what_transformers_does(family, tmp_path):
    check_family(family, tmp_path)
