"""Mixtures of experts on the GPU's kernels, through the whole engine: what transformers says, with steps launched ahead and
without, from graphs and not; and in fewer bits nearly what 32 say."""

import pytest
import tiny_mixtures
import torch
from gpu_tensors import DEVICE, EMULATED
from model.paged_steps import PagedSteps, relative_error
from nightly import NIGHTLY
from test_cuda_models import most_of_values

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.base import KVCache, load_model
from pagecli.devices.cuda.steps.runner import CudaRunner
from pagecli.devices.memory import gpu_activation_bytes
from pagecli.engine.engine import Engine
from pagecli.model.registry import resolve_model

pytestmark = pytest.mark.cuda
NUM_TOKENS = 6
PROMPTS = {0: [5, 6, 7, 8, 9, 10, 11, 12, 13], 1: [20], 2: list(range(30, 60)), 3: [5, 6, 7, 8, 50, 51], 4: [99, 98]}
SETTINGS = {"dtype": "float32", "max_num_seqs": 8, "max_batch_tokens": 24, "kv_memory_bytes": 2**20, "max_model_len": 64}

WAYS = [(pipelined, graphs) for pipelined in (True, False) for graphs in (True, False)]
OFTEN = tiny_mixtures.NAMES if NIGHTLY else ("Qwen2Moe", "GptOss")  # in all ways; the others in the usual one


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """name -> (directory, model of transformers); each is made once."""
    made = {}

    def find(name):
        if name not in made:
            directory = tmp_path_factory.mktemp(name)
            made[name] = directory, tiny_mixtures.make(name, directory)
        return made[name]

    return find


def run(engine, prompts=PROMPTS):
    """request -> (token ids, the likeliest tokens and log probabilities at each)."""
    for i, prompt in prompts.items():
        engine.add_request(i, prompt, SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True, logprobs=2))
    found = {}
    while engine.has_unfinished():
        for output in engine.step():
            assert output.error is None
            (sequence,) = output.sequences
            found[output.request_id] = (sequence.token_ids, [each.top for each in sequence.logprobs])
    return found


def start(directory, graphs):
    return Engine(EngineConfig(str(directory), device="cuda", check_integrity=True, cuda_graphs=graphs, **SETTINGS))


@pytest.fixture(scope="module")
def expected(family):
    """name -> request -> (what transformers continues it with, its log probabilities there); each is computed once."""
    known = {}

    def find(name):
        if name not in known:
            _, model = family(name)
            known[name] = {i: continued(model, prompt) for i, prompt in PROMPTS.items()}
        return known[name]

    return find


def continued(model, prompt):
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(NUM_TOKENS):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        logprobs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    return tokens[len(prompt) :], logprobs[len(prompt) - 1 : -1]


@pytest.mark.parametrize(
    ("name", "pipelined", "graphs"),
    [(name, *way) for name in tiny_mixtures.NAMES for way in (WAYS if name in OFTEN else WAYS[:1])],
)
def test_tokens_and_log_probabilities_equal_transformers(family, expected, monkeypatch, name, pipelined, graphs):
    if not pipelined:
        monkeypatch.setattr(CudaRunner, "can_pipeline", lambda self, plan: False)
    directory, _ = family(name)
    found = run(start(directory, graphs))
    for i, (tokens, logprobs) in expected(name).items():
        assert found[i][0] == tokens
        for tops, row in zip(found[i][1], logprobs, strict=True):
            values, ids = row.topk(2)
            assert [token for token, _ in tops] == ids.tolist()
            assert [value for _, value in tops] == pytest.approx(values.tolist(), abs=2e-5)


@pytest.mark.parametrize("name", tiny_mixtures.NAMES)
def test_a_row_alone_says_what_transformers_does_too(family, expected, name):
    engine = start(family(name)[0], graphs=False)
    for i in (0, 2):
        assert run(engine, {i: PROMPTS[i]})[i][0] == expected(name)[i][0]


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.005), ("fp8", 0.3)])
@pytest.mark.parametrize("name", ["Mixtral", "Qwen2Moe", "GptOss"])
def test_logits_in_fewer_bits_are_near(family, name, dtype, tolerance):
    """Rounding may choose another expert where two are nearly alike, so of half the logits."""
    source = resolve_model(str(family(name)[0]))
    found = {}
    for each in ("float32", dtype):
        with torch.inference_mode():
            model = load_model(source, each, 64, "cuda")
            steps = PagedSteps(model, model.dtype)
            steps.kv = KVCache(*([v.to(DEVICE, copy=True) for v in steps.kv.values] for _ in range(2)))
            rows = steps.step(dict(list(PROMPTS.items())[:3])) | steps.step({3: PROMPTS[3], 1: [7], 2: [8]})
            found[each] = torch.cat([logits.cpu() for logits in rows.values()])
    errors = [relative_error(a, b) for a, b in zip(found[dtype], found["float32"], strict=True)]
    assert sorted(errors)[len(errors) // 2] <= tolerance


def test_gpt_oss_as_it_is_published_is_dequantized_at_load(tmp_path):
    quantized, checkpoints = (tiny_mixtures.of_families(name) for name in ("test_quantized_mixtures", "checkpoints"))
    expected = checkpoints.expected_logprobs(quantized.as_published(tmp_path))
    with torch.inference_mode():
        found = checkpoints.found_logprobs(resolve_model(str(tmp_path)), "cuda")
    assert checkpoints.difference(found, expected) <= 2e-5


@pytest.mark.skipif(not EMULATED, reason="looks at tensors of the host")
@pytest.mark.parametrize("name", tiny_mixtures.NAMES)
def test_the_most_that_values_take_is_what_the_plan_says(family, name):
    source = resolve_model(str(family(name)[0]))
    planned = gpu_activation_bytes(source.config, 32, 4)  # of what sorts a router's rows, the most that there may be
    assert 0.95 * planned <= most_of_values(source) <= planned
