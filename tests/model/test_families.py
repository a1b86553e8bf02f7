"""An architecture is a description: one registered from outside the package runs; every tensor is accounted for."""

import dataclasses
import json

import pytest
import torch
from paged_steps import PagedSteps, relative_error
from safetensors.torch import save_file
from tiny_models import TINY_MODELS, make_tokenizer

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.base import KVCache, load_model
from pagecli.devices.reference.model import ReferenceModel
from pagecli.engine.engine import Engine
from pagecli.errors import ModelError
from pagecli.model import families
from pagecli.model.build_program import build
from pagecli.model.decoder import MLP, Attention, Decoder, Embedding, Key, LearnedPositions, Norm
from pagecli.model.program import Add, Linear
from pagecli.model.program import Attention as AttentionOperation
from pagecli.model.program import Norm as NormOperation
from pagecli.model.registry import open_weights, resolve_model
from pagecli.model.weights.reader import WeightReader

PROMPTS = {0: [5, 6, 7, 8, 9, 10, 11, 12, 13], 1: [20], 2: [30 + i for i in range(25)]}

# One tensor for Q, K and V and for gate and up; LayerNorms without biases, attention and MLP side by side, learned positions
# from row 3 on beside a projected embedding: what no known family has.
MADE_UP = Decoder(
    architectures=("MadeUpForCausalLM",),
    embedding=Embedding(
        name="words", size=Key("word_size"), project_in="widen", project_out="narrow", positions=LearnedPositions("places", 3)
    ),
    layer="blocks",
    attention=Attention(norm="norm", qkv=("mix.qkv",), out="mix.out", qkv_bias=Key("biases", False), rotary=None),
    mlp=MLP(up=("think.both",), down="think.down", activation=Key("nonlinearity", "gelu")),
    norm=Norm(kind="layer", eps=Key("epsilon", 1e-5)),
    order=Key("side_by_side", True, values=((True, "parallel"), (False, "pre"))),
    final_norm="last_norm",
    head="unembed",
)
CONFIG = {
    "architectures": ["MadeUpForCausalLM"], "vocab_size": 384, "hidden_size": 64, "word_size": 48, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128, "biases": True,
}  # fmt: skip


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A checkpoint of the made-up architecture, which is known while the test runs."""
    monkeypatch.setattr(families, "_registered", [])
    families.register(MADE_UP)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    program, generator, tensors = build(resolve_model(str(tmp_path), "dummy").config), torch.Generator().manual_seed(0), {}
    for weight in program.weights():
        for name, shape in zip(weight.names, weight.shapes, strict=True):
            values = torch.randn(shape, generator=generator) * (shape[1] ** -0.5 if len(shape) == 2 else 0.1)
            tensors[name] = values + 1 if "norm" in name else values
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def reference_logits(directory, prompts, dtype=torch.float64):
    """Logits of the reference, in steps that mix prompts, chunks and single tokens."""
    source = resolve_model(str(directory))
    return in_steps(ReferenceModel(build(source.config), WeightReader(open_weights(source)), dtype), prompts, dtype)


def in_steps(model, prompts, dtype=torch.float32):
    steps, found, done = PagedSteps(model, dtype), {i: [] for i in prompts}, dict.fromkeys(prompts, 0)
    if isinstance(model, ReferenceModel):  # its keys lie as its values do
        steps.kv = KVCache([values.clone() for values in steps.kv.values], steps.kv.values)
    for size in (1, 8, 16):
        chunks = {i: tokens[done[i] : done[i] + size] for i, tokens in prompts.items() if done[i] < len(tokens)}
        done = {i: count + len(chunks.get(i, [])) for i, count in done.items()}
        for i, logits in steps.step(chunks).items():
            found[i].append(logits)
    return {i: torch.cat(logits) for i, logits in found.items()}


def by_hand(directory, tokens):
    """The made-up architecture as its authors would write it, for one sequence."""
    from safetensors.torch import load_file

    w = {name: tensor.double() for name, tensor in load_file(directory / "model.safetensors").items()}

    def norm(x, name):
        return torch.nn.functional.layer_norm(x, (64,), w[f"{name}.weight"], None, 1e-5)

    x = w["words.weight"][tokens] @ w["widen.weight"].T + w["places.weight"][3 : 3 + len(tokens)]
    for block in ("blocks.0", "blocks.1"):
        normed = norm(x, f"{block}.norm")
        qkv = normed @ w[f"{block}.mix.qkv.weight"].T + w[f"{block}.mix.qkv.bias"]
        q, k, v = (part.view(1, len(tokens), 2, 32).transpose(1, 2) for part in qkv.split(64, dim=1))
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(-1, 64)
        gate, up = (normed @ w[f"{block}.think.both.weight"].T).chunk(2, dim=1)
        x = x + attended @ w[f"{block}.mix.out.weight"].T
        x = x + (torch.nn.functional.gelu(gate) * up) @ w[f"{block}.think.down.weight"].T
    return norm(x, "last_norm") @ w["narrow.weight"].T @ w["unembed.weight"].T


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-2), ("int8", 5e-2)])
def test_a_family_from_outside_runs_on_the_cpu_and_in_the_reference(made_up, dtype, tolerance):
    expected = {i: by_hand(made_up, tokens) for i, tokens in PROMPTS.items()}
    reference = reference_logits(made_up, PROMPTS)
    found = in_steps(load_model(resolve_model(str(made_up)), dtype, 64), PROMPTS)
    for i in PROMPTS:
        assert relative_error(reference[i], expected[i]) <= 1e-6
        assert relative_error(found[i].double(), expected[i]) <= tolerance


def test_what_it_says_in_its_config_counts(made_up):
    config = resolve_model(str(made_up)).config
    assert (config.order, config.qkv_bias, config.embedding_size, config.activation) == ("parallel", True, 48, "gelu")
    (made_up / "config.json").write_text(json.dumps(CONFIG | {"side_by_side": False}))
    with pytest.raises(ModelError, match=r"no tensor blocks\.0\.post_attention_layernorm\.weight"):
        load_model(resolve_model(str(made_up)), "float32", 8)
    (made_up / "config.json").write_text(json.dumps({k: v for k, v in CONFIG.items() if k != "word_size"}))
    with pytest.raises(ModelError, match="word_size is None"):
        resolve_model(str(made_up))


@pytest.mark.parametrize("name", ["words.bias", "blocks.1.extra.weight", "rotary.weight"])
def test_a_tensor_that_the_program_does_not_read_is_refused_wherever_it_is(made_up, name):
    from safetensors.torch import load_file

    tensors = load_file(made_up / "model.safetensors")
    save_file(tensors | {"blocks.2.mix.out.weight": torch.zeros(2)}, made_up / "model.safetensors")  # a layer beyond the last
    load_model(resolve_model(str(made_up)), "float32", 8)
    save_file(tensors | {name: torch.zeros(2)}, made_up / "model.safetensors")
    with pytest.raises(ModelError, match=f"tensor {name} does not belong to the architecture"):
        load_model(resolve_model(str(made_up)), "float32", 8)


@pytest.mark.parametrize("name", TINY_MODELS)
def test_the_reference_computes_what_transformers_does(tiny_model, name):
    from transformers import AutoModelForCausalLM

    directory = tiny_model(name)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64, attn_implementation="eager")
    found = reference_logits(directory, PROMPTS)
    with torch.inference_mode():
        for i, tokens in PROMPTS.items():
            assert relative_error(found[i], model(torch.tensor([tokens])).logits[0]) <= 1e-6


def test_a_program_reads_like_the_model():
    program = build(resolve_model("qwen3-0.6b", "dummy").config)
    lines = str(program).splitlines()
    assert lines[0] == "hidden = Embedding(ids=token_ids) model.embed_tokens.weight [151936, 1024]"
    assert lines[1] == "layers N = 0 to 27:"
    assert "    q = Norm(x=q, kind=rms, eps=1e-06) model.layers.N.self_attn.q_norm.weight [128]" in lines
    assert lines[-1] == "Head(x=normed) model.embed_tokens.weight [151936, 1024]"
    assert len(lines) == 3 + 2 + 14


def test_layers_that_differ_are_shown_apart():
    config = dataclasses.replace(resolve_model("llama-2-7b", "dummy").config, layer_windows=(0,) * 30 + (8, 8))
    assert [line for line in str(build(config)).splitlines() if line.startswith("layer")] == [
        "layers N = 0 to 29:",
        "layers N = 30 to 31:",
    ]


def test_every_weight_says_how_ranks_share_it():
    """Rows of what attention and MLP read, columns of what they write; the rest each rank has whole."""
    layer = build(resolve_model("qwen2.5-7b", "dummy").config).layers[0]
    linears = {operation.out: operation for operation in layer if isinstance(operation, Linear)}
    assert {out: linear.weight.split for out, linear in linears.items()} == {
        "qkv": "rows",
        "attention_out": "columns",
        "gate_up": "rows",
        "mlp_out": "columns",
    }
    assert linears["qkv"].bias.split == "rows"
    assert all(operation.weight.split is None for operation in layer if isinstance(operation, NormOperation))
    assert sum(isinstance(operation, (AttentionOperation, Add)) for operation in layer) == 3


def test_an_engine_runs_on_the_reference_as_on_the_cpu(made_up):
    """Chunks, blocks shared by samples, swapping: through the same seam, the same tokens."""
    make_tokenizer().save_pretrained(made_up)

    def tokens(device):
        config = EngineConfig(
            str(made_up), device=device, dtype="float32", block_size=4, max_num_seqs=6, max_batch_tokens=8,
            kv_memory_bytes=14 * 4 * 2 * 2 * 64 * 4, preemption="swap", swap_memory_bytes=1 << 20, check_integrity=True,
        )  # fmt: skip
        engine, found = Engine(config), {}
        for i, prompt in PROMPTS.items():
            engine.add_request(i, prompt, SamplingParams(max_tokens=12, ignore_eos=True, temperature=0.8, n=2, seed=i))
        while engine.has_unfinished():
            found |= {output.request_id: [s.token_ids for s in output.sequences] for output in engine.step()}
        assert engine.stats()["num_swapped_blocks"] > 0
        return found

    assert tokens("reference") == tokens("cpu")
