"""Speculation by prompt lookup: on by itself where few rows run, the same to the bit, and only where it helps."""

import itertools

import pytest
from test_drafts import all_rows
from test_same_text import SETTINGS, make_engine, outputs

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.cpu import kernels
from pagecli.engine.engine import Engine
from pagecli.engine.generation.prompt_lookup import FIRST_WAIT, MAX_DRAFT, MAX_SEQUENCES, PromptLookup
from pagecli.engine.request import Request
from pagecli.errors import UsageError

LOOP = [5, 6, 7, 8, 9, 10, 11]


def copying_rows():
    """Rows whose output repeats itself or the prompt: a tiny random model falls into loops, each kind of row its own way."""
    more = [{}, {"repetition_penalty": 0.7}, {"temperature": 0.2, "n": 2}, {"logprobs": 3}, {"temperature": 0.3, "top_p": 0.5}]
    more += [{"stop": ("e",)}, {"beam_width": 2}, {"frequency_penalty": -1.0, "temperature": 0.5}, {"min_tokens": 30}]
    return [(LOOP * (3 + i), SamplingParams(max_tokens=60, **params)) for i, params in enumerate(more)]


def one_by_one(engine, rows):
    return [outputs(engine, [row], [i])[0] for i, row in enumerate(rows)]


@pytest.fixture(scope="module")
def path(tiny_model):
    return tiny_model("llama")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["as it is", "no prefix caching", "blocks of 1", "2 threads"])
def test_rows_come_out_the_same_with_and_without(path, name):
    settings = SETTINGS.get(name, {}) | {"num_slots": 4096}  # its blocks are counted in every step
    rows = copying_rows() + all_rows(8)[:16:2]
    engine = make_engine(path, **settings)
    assert one_by_one(engine, rows) == one_by_one(make_engine(path, speculate=0, **settings), rows)
    stats = engine.stats()
    assert stats["num_draft_tokens"] > stats["num_accepted_tokens"] > 60
    assert engine._kv.num_used_blocks == 0


@pytest.mark.slow
@pytest.mark.parametrize("isa", kernels.supported_isas())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_on_every_instruction_set_and_type(path, isa, dtype, kv_dtype):
    before = kernels.isa_name()
    assert kernels._native.select_isa(isa)
    try:
        found = {}
        for speculate in ("auto", 0):
            config = EngineConfig(
                str(path), dtype=dtype, kv_dtype=kv_dtype, threads=1, kv_memory_bytes=1 << 22, speculate=speculate
            )
            engine = Engine(config)
            found[speculate] = one_by_one(engine, copying_rows()[:7])
            if speculate:
                assert engine.stats()["num_accepted_tokens"] > 30
        assert found["auto"] == found[0]
    finally:
        kernels._native.select_isa(before)


def test_only_where_few_sequences_run(path):
    rows = copying_rows()[:5]
    engine = make_engine(path)
    outputs(engine, rows[: MAX_SEQUENCES + 1] * 2)
    few = engine.stats()["num_draft_tokens"]
    engine = make_engine(path, speculate=0)
    outputs(engine, rows)
    assert few < 400
    assert "num_draft_tokens" not in engine.stats()


def test_copies_take_a_fraction_of_the_steps(path):
    """A negative penalty makes a model of any weights repeat itself."""
    steps = {}
    for speculate in ("auto", 4, 0):
        engine = make_engine(path, speculate=speculate)
        outputs(engine, [(LOOP, SamplingParams(max_tokens=100, ignore_eos=True, frequency_penalty=-100.0))])
        steps[speculate] = engine.stats()["num_steps"]
    assert steps["auto"] <= steps[4] < 60
    assert steps[0] == 100


def sequence_of(token_ids):
    return Request(0, list(token_ids), SamplingParams(max_tokens=500), 0).live[0]


def test_a_draft_is_what_followed_the_same_tokens_last():
    lookup = PromptLookup()
    assert lookup.propose(sequence_of([1, 2, 3, 4, 50, 60, 70, 80, 90, 100, 1, 2, 3, 4]), 10) == [50, 60, 70, 80, 90]
    assert lookup.propose(sequence_of([1, 2, 50, 1, 2, 60, 1, 2]), 2) == [60, 1]
    assert lookup.propose(sequence_of([9, 9, 9]), 3) == [9, 9, 9]
    assert lookup.propose(sequence_of([1, 2, 3]), 10) == []
    assert lookup.propose(sequence_of([7]), 10) == []


def test_drafts_grow_while_they_hold_and_stop_where_they_fail():
    lookup, sequence = PromptLookup(), sequence_of(LOOP * 6)
    lengths = []
    for _ in range(4):
        draft = lookup.propose(sequence, 100)
        lookup.record(sequence, len(draft), len(draft))
        sequence.token_ids += draft
        lengths.append(len(draft))
    assert lengths == sorted(lengths)
    assert lengths[-1] == MAX_DRAFT
    tries = []
    for at in range(200):
        if lookup.propose(sequence, 100):
            lookup.record(sequence, 3, 0)
            tries.append(at)
        sequence.token_ids.append(LOOP[sequence.num_tokens % 7])
    gaps = [b - a for a, b in itertools.pairwise(tries)]
    assert gaps[:2] == [1, FIRST_WAIT]
    assert gaps == sorted(gaps)
    assert len(tries) < 8


@pytest.mark.parametrize("value", [-1, 65])
def test_a_length_out_of_range_is_refused(value):
    with pytest.raises(UsageError, match="speculate is"):
        EngineConfig("x", speculate=value)
