"""Every fuzz target on its seeds, on pieces of them, and on a few inputs of hypothesis: the campaign in small."""

import random
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import seeds_of
from targets import TARGETS

QUICK = sorted(set(TARGETS) - {"safetensors_header"})  # which imports torch


def failure(name: str, data: bytes) -> str:
    """What the target found wrong, with the input; "": nothing."""
    try:
        TARGETS[name](data)
    except Exception:
        return f"{data!r}\n{traceback.format_exc()}"
    return ""


@pytest.mark.parametrize("name", QUICK)
def test_seeds_and_their_mutations(name):
    chance = random.Random(name)
    for seed in seeds_of(name):
        assert failure(name, seed) == ""
        for _ in range(20):
            data = bytearray(seed)
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            assert failure(name, bytes(data[: chance.randint(1, len(data))] if chance.random() < 0.3 else data)) == ""


@pytest.mark.parametrize("name", QUICK)
@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=80))
def test_any_bytes(name, data):
    assert failure(name, data) == ""


@pytest.mark.slow
def test_safetensors_headers():
    assert seeds_of("safetensors_header")
    test_seeds_and_their_mutations("safetensors_header")
