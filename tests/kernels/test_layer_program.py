"""A recorded program does, to the bit, what its operations do one by one, on any number of rows and wherever they lie."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import examples

from pagecli.devices.cpu import kernels

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER = 24, 4, 2, 8, 40
BLOCKS, BLOCK_SIZE, MAX_TOKENS, POSITIONS = 32, 4, 20, 64
NONE = np.zeros(1, np.int32)


@dataclass
class Layer:
    """Every kind of operation that can be recorded, on buffers of its own."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __post_init__(self) -> None:
        sizes = {"qkv": (HEADS + 2 * KV_HEADS) * HEAD_DIM, "out": HIDDEN, "gate_up": 2 * INNER, "down": HIDDEN}
        inner = {"qkv": HIDDEN, "out": HEADS * HEAD_DIM, "gate_up": HIDDEN, "down": INNER}
        self.weights = {name: kernels.pack_weight(self.random(rows, inner[name]), "bfloat16") for name, rows in sizes.items()}
        self.ones, self.bias, self.head_ones = self.random(HIDDEN), self.random(HIDDEN), self.random(HEAD_DIM)
        self.buffers = {name: self.random(MAX_TOKENS, width) for name, width in sizes.items()}
        self.buffers |= {"hidden": self.random(MAX_TOKENS, HIDDEN), "joined": self.random(MAX_TOKENS, HEADS * HEAD_DIM)}
        self.buffers["mlp"] = self.random(MAX_TOKENS, INNER)
        self.k_cache = self.random(BLOCKS, KV_HEADS, HEAD_DIM, BLOCK_SIZE)
        self.v_cache = self.random(BLOCKS, KV_HEADS, BLOCK_SIZE, HEAD_DIM)

    def random(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape, dtype=np.float32)

    def run(self, positions, cos_sin, slot_ids, block_tables, context_lens, query_start, program=None) -> None:
        b = {name: buffer[: len(positions)] for name, buffer in self.buffers.items()}
        heads = b["qkv"].reshape(len(positions), HEADS + 2 * KV_HEADS, HEAD_DIM)
        q, k, v = heads[:, :HEADS], heads[:, HEADS : HEADS + KV_HEADS], heads[:, HEADS + KV_HEADS :]
        kernels.layer_norm(b["down"], b["hidden"], self.ones, self.bias, 1e-5, program=program)
        kernels.linear(b["qkv"], b["down"], self.weights["qkv"], program=program)
        kernels.rms_norm(q, q, self.head_ones, 1e-5, program=program)
        kernels.rotary_embedding(q, k, positions, cos_sin, program=program)
        kernels.store_kv(self.k_cache, self.v_cache, k, v, slot_ids, program=program)
        attended = b["joined"].reshape(q.shape)
        caches = (self.k_cache, self.v_cache, block_tables, context_lens, query_start)
        kernels.paged_attention(attended, q, *caches, 0.3, 5, program=program)
        kernels.linear(b["hidden"], b["joined"], self.weights["out"], self.bias, "none", True, program=program)
        kernels.rms_norm(b["out"], b["hidden"], self.ones, 1e-5, program=program)
        kernels.linear(b["gate_up"], b["out"], self.weights["gate_up"], program=program)
        kernels.gated_activation(b["mlp"], b["gate_up"], "silu", program=program)
        kernels.activation(b["mlp"], b["mlp"], "relu", program=program)
        kernels.linear(b["hidden"], b["mlp"], self.weights["down"], None, "none", True, program=program)

    def recorded(self) -> kernels.LayerProgram:
        program = kernels.LayerProgram(MAX_TOKENS)
        positions, slots = np.zeros(MAX_TOKENS, np.int32), np.zeros(MAX_TOKENS, np.int64)
        cos_sin, starts = self.random(POSITIONS, HEAD_DIM), np.zeros(2, np.int32)
        self.run(positions, cos_sin, slots, NONE.reshape(1, 1), NONE, starts, program)
        return program


def a_step(contexts: list[tuple[int, int]], seed: int = 0) -> dict:
    """The step of sequences with (tokens in the cache before, new tokens)."""
    rng = np.random.default_rng(seed)
    width = max((-(-(old + new) // BLOCK_SIZE) for old, new in contexts), default=0)
    tables = rng.permutation(BLOCKS)[: len(contexts) * (width + 1)].astype(np.int32).reshape(len(contexts), width + 1)
    positions = np.concatenate([NONE[:0], *(np.arange(old, old + new, dtype=np.int32) for old, new in contexts)])
    rows = np.repeat(np.arange(len(contexts)), [new for _, new in contexts])
    return {
        "positions": positions,
        "cos_sin": rng.standard_normal((POSITIONS, HEAD_DIM), dtype=np.float32),
        "slot_ids": tables[rows, positions // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE + positions % BLOCK_SIZE,
        "block_tables": tables,
        "context_lens": np.array([old + new for old, new in contexts], np.int32),
        "query_start": np.cumsum([0] + [new for _, new in contexts], dtype=np.int32),
    }


def everything(layer: Layer) -> dict[str, np.ndarray]:
    return layer.buffers | {"k_cache": layer.k_cache, "v_cache": layer.v_cache}


sequences = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), min_size=1, max_size=3)


@examples
@given(steps=st.lists(sequences, min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_a_program_does_what_its_operations_do(isa, steps, seed):
    one_by_one, as_program = Layer(), Layer()
    program = as_program.recorded()
    for i, contexts in enumerate(steps):
        step = a_step(contexts, seed + i)
        one_by_one.run(**step)
        program.run(**step)
    for (name, expected), found in zip(everything(one_by_one).items(), everything(as_program).values(), strict=True):
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_recording_runs_nothing_and_running_reads_the_step_it_is_given():
    layer, untouched = Layer(), Layer()
    program = layer.recorded()
    assert len(program) == 12
    for name, before in everything(untouched).items():
        np.testing.assert_array_equal(everything(layer)[name], before)
    program.run(**a_step([(3, 2)]))
    assert not np.array_equal(layer.buffers["hidden"][:2], untouched.buffers["hidden"][:2])
    np.testing.assert_array_equal(layer.buffers["hidden"][2:], untouched.buffers["hidden"][2:])


def changed(**changes: np.ndarray | None) -> Callable[[Layer], None]:
    return lambda layer: layer.recorded().run(**(a_step([(3, 2), (0, 1)]) | changes))


def record_other_rows(layer: Layer) -> None:
    kernels.activation(layer.buffers["mlp"][:3], layer.buffers["mlp"][:3], "relu", kernels.LayerProgram(4))


REFUSED = {
    "positions: expected at most 20 tokens, got 21": lambda layer: layer.recorded().run(**a_step([(0, 21)])),
    "positions[2]: expected 0 <= value < 64, got 64": changed(positions=np.array([3, 4, 64], np.int32)),
    "slot_ids: expected [3], got [2]": changed(slot_ids=np.zeros(2, np.int64)),
    "slot_ids[1]: expected 0 <= value < 128, got 128": changed(slot_ids=np.array([0, 128, 0])),
    "cos_sin: expected [positions, 8], got [64, 6]": changed(cos_sin=np.ones((64, 6), np.float32)),
    "block_tables[0, 1]: expected a block below 32, got 32": changed(block_tables=np.array([[0, 32, 0]] * 2, np.int32)),
    "context_lens: expected [2], got [1]": changed(context_lens=np.ones(1, np.int32)),
    "query_start[2]: expected 2 to 3, got 4": changed(query_start=np.array([0, 2, 4], np.int32)),
    "recording: expected an operation on 4 tokens, got 3": record_other_rows,
    "max_tokens: expected 1 or more, got 0": lambda layer: kernels.LayerProgram(0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses_in_one_line(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        REFUSED[message](Layer())


def test_operations_run_beside_a_recording_that_has_not_ended():
    """Recording is asked for operation by operation: nothing else of the process is recorded or held up."""
    layer, program = Layer(), kernels.LayerProgram(MAX_TOKENS)
    kernels.activation(layer.buffers["mlp"], layer.buffers["mlp"], "relu", program)
    assert (layer.buffers["mlp"] < 0).any()
    kernels.activation(layer.buffers["mlp"], layer.buffers["mlp"], "relu")
    assert (layer.buffers["mlp"] >= 0).all()
    assert len(program) == 1


def test_what_a_step_is_given_must_be_arrays():
    with pytest.raises(TypeError, match="cos_sin"):
        changed(cos_sin=None)(Layer())
