"""The engine with LoRA adapters on a GPU: rows as PEFT's merged models have them, rows without one as if there were none, the
same through preemption, samples, small steps and with graphs or without; and what the plan of memory counts."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from gpu_tensors import EMULATED
from tiny_adapters import merged_model, save_adapter

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine import loaded_model
from pagecli.engine.engine import Engine

pytestmark = pytest.mark.cuda
NAMES = ("large", "small", None)
PARTS = {
    "llama": (
        {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
        {"r": 3, "target_modules": ["k_proj", "down_proj"], "layers_to_transform": [0, 2]},
    ),
    "opt": ({"r": 8, "target_modules": ["q_proj", "out_proj", "fc2"]}, {"r": 2, "target_modules": ["v_proj"]}),
}
BLOCK_BYTES = 2 * 3 * 2 * 32 * 4 * 8  # of the tiny Llama, in float32
SMALL = {"max_num_seqs": 8, "max_batch_tokens": 24, "block_size": 8, "kv_memory_bytes": 2**20}


@pytest.fixture
def emulated_ranks(monkeypatch):
    if EMULATED:
        monkeypatch.setattr("pagecli.distributed.group.MODULE", "emulated_rank")
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


@pytest.fixture(scope="module")
def config(tiny_model, tmp_path_factory):
    """config(name of a tiny model) -> its engine's settings, with two adapters."""
    root, made = tmp_path_factory.mktemp("adapters"), {}

    def make(name, **settings):
        if name not in made:
            pairs = enumerate(zip(NAMES, PARTS[name], strict=False), 1)
            made[name] = tuple(
                (kind, str(save_adapter(tiny_model(name), root / name / kind, seed, **chosen)))
                for seed, (kind, chosen) in pairs
            )
        common = {"device": "cuda", "dtype": "float32", "loras": made[name], "check_integrity": True}
        return EngineConfig(str(tiny_model(name)), **common | SMALL | settings)

    return make


def run(config, rows):
    """The sequences' tokens and log probabilities of each (prompt, name of an adapter, params), and the engine's statistics."""
    engine, found = Engine(config), {}
    for i, (prompt, name, params) in enumerate(rows):
        engine.add_request(i, prompt, dataclasses.replace(params, lora=name))
    while engine.has_unfinished():
        found |= {output.request_id: output.sequences for output in engine.step()}
    engine.close()
    values = [[(s.token_ids, [t.logprob for t in s.logprobs or ()]) for s in found[i]] for i in range(len(rows))]
    return values, engine.stats()


def greedy_rows(count=6):
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 340, (5 + 3 * (i % 4),), generator=generator).tolist() for i in range(count)]
    params = SamplingParams(max_tokens=4, ignore_eos=True, logprobs=0)
    return [(prompt, NAMES[i % 3], params) for i, prompt in enumerate(prompts)]


@pytest.mark.parametrize("name", PARTS)
def test_rows_are_those_of_the_merged_models_and_of_the_cpu(tiny_model, config, name):
    rows, settings = greedy_rows(), config(name)
    found, _ = run(settings, rows)
    for kind, directory in settings.loras:
        model = merged_model(tiny_model(name), directory)
        for (prompt, chosen, _), ((token_ids, logprobs),) in zip(rows, found, strict=True):
            if chosen == kind:
                with torch.inference_mode():
                    logits = model(torch.tensor([prompt + token_ids])).logits[0, len(prompt) - 1 : -1]
                assert logits.argmax(-1).tolist() == token_ids
                assert logprobs == pytest.approx(logits.log_softmax(-1).amax(-1).tolist(), abs=1e-4)
    on_cpu, _ = run(dataclasses.replace(settings, device="cpu"), rows)
    assert [row[0][0] for row in found] == [row[0][0] for row in on_cpu]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_without_an_adapter_keep_their_bits(config, dtype):
    """In the same steps, with other rows' adapters and without any."""
    rows, settings = greedy_rows(), config("llama", dtype=dtype)
    mixed, _ = run(settings, rows)
    plain, _ = run(dataclasses.replace(settings, loras=()), [(prompt, None, params) for prompt, _, params in rows])
    assert [row == other for row, other in zip(mixed, plain, strict=True)] == [name is None for _, name, _ in rows]


@pytest.fixture(scope="module")
def rows_of_a_prefix(config):
    """Rows that share a prompt, so that a prefix is shared with rows of the same adapter only, among others; and what comes of
    them."""
    sampled = SamplingParams(max_tokens=6, temperature=0.8, top_k=20, seed=3, ignore_eos=True, n=2)
    rows = [(list(range(20, 38)), NAMES[i % 3], sampled) for i in range(6)] + greedy_rows(3)
    return rows, run(config("llama"), rows)[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"cuda_graphs": False},
        {"max_num_seqs": 4, "max_batch_tokens": 8},
        {"kv_memory_bytes": 8 * BLOCK_BYTES},
        {"kv_memory_bytes": 8 * BLOCK_BYTES, "preemption": "swap", "swap_memory_bytes": 12 * BLOCK_BYTES},
        {"prefix_caching": False},
    ],
    ids=["without graphs", "small steps", "recomputed", "swapped", "without prefix cache"],
)
def test_text_is_the_same_however_the_steps_are_made_up(config, rows_of_a_prefix, changes):
    rows, expected = rows_of_a_prefix
    found, stats = run(config("llama", **changes), rows)
    assert [[tokens for tokens, _ in row] for row in found] == [[tokens for tokens, _ in row] for row in expected]
    if "kv_memory_bytes" in changes:
        assert stats["num_preemptions"] > 0


def test_graphs_of_steps_with_and_without_adapters_are_two(config):
    """A step in which no row has one repeats what a model without adapters does."""
    engine = Engine(config("llama"))
    for i, name in enumerate((None, "large")):
        for round_ in range(2):
            engine.add_request(2 * i + round_, [5, 6, 7], SamplingParams(max_tokens=4, ignore_eos=True, lora=name))
            while engine.has_unfinished():
                engine.step()
    keys = list(engine._runner.graphs._graphs)
    assert {key[:3] for key in keys if key[3] == 0} & {key[:3] for key in keys if key[3] > 0}


def test_the_weights_of_the_plan_count_the_adapters(config):
    settings = config("llama")
    with_adapters = loaded_model.load(settings).model
    plain = loaded_model.load(dataclasses.replace(settings, loras=())).model
    elements = sum(a.size + b.size for a, b in ((op.a, op.b) for op in low_ranks(with_adapters)))
    assert with_adapters.num_adapters == 2
    assert 0 <= with_adapters.weight_bytes - plain.weight_bytes - 4 * elements < 4 * 3 * 100


@pytest.mark.slow
@pytest.mark.usefixtures("emulated_ranks")
def test_two_ranks_compute_adapters_as_two_segments_do(config):
    """The same tokens, and log probabilities, which ranks find on the host, to float32's precision; greedy text is that of sums
    in one part."""
    rows, settings = greedy_rows(6), config("llama")
    one, _ = run(dataclasses.replace(settings, sum_segments=2), rows)
    two, _ = run(dataclasses.replace(settings, tensor_parallel_size=2), rows)
    for (ranks,), (segments,) in zip(two, one, strict=True):
        assert ranks[0] == segments[0]
        assert ranks[1] == pytest.approx(segments[1], abs=1e-6)
    plain, _ = run(settings, rows)
    assert [row[0][0] for row in one] == [row[0][0] for row in plain]


def low_ranks(model):
    from pagecli.model.program import LowRank

    return [operation for operation in model.program.operations() if isinstance(operation, LowRank)]
