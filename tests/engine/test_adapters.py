"""LoRA adapters side by side in one batch: each row as from the model that PEFT merges for it, rows without one as if there
were none, whatever runs beside them."""

import pytest
import torch
from test_same_text import make_engine, make_rows
from tiny_adapters import merged_model, save_adapter

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.engine import Engine
from pagecli.errors import ModelError, RowError

NAMES = ("large", "small", None)
PARTS = {
    "llama": (
        {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
        {"r": 3, "target_modules": ["k_proj", "down_proj"], "layers_to_transform": [0, 2]},
    ),
    "opt": ({"r": 8, "target_modules": ["q_proj", "out_proj", "fc2"]}, {"r": 2, "target_modules": ["v_proj"]}),
}


@pytest.fixture(scope="module")
def adapters(tiny_model, tmp_path_factory):
    """adapters(name of a tiny model) -> the engine's setting."""
    root, made = tmp_path_factory.mktemp("adapters"), {}

    def make(name):
        if name not in made:
            pairs = zip(NAMES, PARTS[name], strict=False)
            made[name] = tuple(
                (kind, str(save_adapter(tiny_model(name), root / name / kind, seed, **settings)))
                for seed, (kind, settings) in enumerate(pairs, 1)
            )
        return made[name]

    return make


def run(engine, rows, names):
    for i, (prompt, params) in enumerate(rows):
        engine.add_request(i, prompt, SamplingParams(**{f: getattr(params, f) for f in params.__slots__} | {"lora": names[i]}))
    found = {}
    while len(found) < len(rows):
        found |= {output.request_id: output for output in engine.step()}
    engine.close()
    return [[(o.token_ids, o.logprobs) for o in found[i].sequences] for i in range(len(rows))]


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_greedy_rows_are_those_of_the_merged_models(tiny_model, adapters, name):
    loras = adapters(name)
    generator = torch.Generator().manual_seed(4)
    prompts = [torch.randint(3, 340, (length,), generator=generator).tolist() for length in (5, 5, 5, 20, 33, 18)]
    params = SamplingParams(max_tokens=6, ignore_eos=True, logprobs=0)
    names = [NAMES[i % 3] for i in range(len(prompts))]
    found = run(make_engine(tiny_model(name), loras=loras), [(prompt, params) for prompt in prompts], names)
    for kind in ("large", "small"):
        model = merged_model(tiny_model(name), dict(loras)[kind])
        for prompt, outputs, chosen in zip(prompts, found, names, strict=True):
            if chosen != kind:
                continue
            token_ids, logprobs = outputs[0]
            with torch.inference_mode():
                logits = model(torch.tensor([prompt + token_ids])).logits[0, len(prompt) - 1 : -1]
            assert logits.argmax(-1).tolist() == token_ids
            expected = logits.log_softmax(-1).max(-1).values
            torch.testing.assert_close(torch.tensor([each.logprob for each in logprobs]), expected, rtol=0, atol=1e-4)


REORDERED = {
    "pairs side by side": ("Cohere", {"num_key_value_heads": 2}, ["q_proj", "k_proj", "v_proj", "o_proj"]),
    "heads together": ("GPTNeoX", {}, ["query_key_value", "dense", "dense_4h_to_h"]),
}


@pytest.mark.parametrize("case", REORDERED)
def test_adapters_of_layers_whose_rows_change_their_order_at_load(tmp_path, case):
    import transformers
    from tiny_models import make_tokenizer

    name, changes, modules = REORDERED[case]
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 384}
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**sizes, max_position_embeddings=128, **changes)
    getattr(transformers, f"{name}ForCausalLM")(config).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    adapter = save_adapter(tmp_path / "model", tmp_path / "adapter", r=4, target_modules=modules)
    prompt, params = [7, 300, 41, 9, 120, 55], SamplingParams(max_tokens=6, ignore_eos=True, logprobs=0)
    config = EngineConfig(str(tmp_path / "model"), dtype="float32", kv_memory_bytes=1 << 20, loras=(("large", str(adapter)),))
    (((token_ids, logprobs),),) = run(Engine(config), [(prompt, params)], ["large"])
    with torch.inference_mode():
        logits = merged_model(tmp_path / "model", adapter)(torch.tensor([prompt + token_ids])).logits[0, len(prompt) - 1 : -1]
    assert logits.argmax(-1).tolist() == token_ids
    expected = logits.log_softmax(-1).max(-1).values
    torch.testing.assert_close(torch.tensor([each.logprob for each in logprobs]), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_rows_without_an_adapter_keep_their_bits(tiny_model, adapters, name):
    rows = make_rows(21)
    plain = run(make_engine(tiny_model(name)), rows, [None] * len(rows))
    names = [NAMES[i % 3] for i in range(len(rows))]
    mixed = run(make_engine(tiny_model(name), loras=adapters(name)), rows, names)
    for i, chosen in enumerate(names):
        assert (mixed[i] == plain[i]) == (chosen is None), i


@pytest.fixture(scope="module")
def row_of_each(tiny_model, adapters):
    """(rows, names, what comes out): each prompt with each adapter, so that nothing of one may serve another."""
    rows = [row for row in make_rows(28) for _ in NAMES]
    names = [NAMES[i % 3] for i in range(len(rows))]
    return rows, names, run(make_engine(tiny_model("llama"), loras=adapters("llama")), rows, names)


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        {"max_num_seqs": 8, "max_batch_tokens": 16},
        {"num_slots": 320, "block_size": 8, "max_num_seqs": 16},
        {"num_slots": 320, "block_size": 8, "max_num_seqs": 16, "preemption": "swap", "swap_slots": 512},
        {"prefix_caching": False},
        {"threads": 2},
        {"speculate": 0},
        {"block_size": 1},
    ],
    ids=str,
)
def test_rows_with_adapters_come_out_the_same_whatever_runs_beside_them(tiny_model, adapters, row_of_each, setting):
    rows, names, expected = row_of_each
    assert run(make_engine(tiny_model("llama"), loras=adapters("llama"), **setting), rows, names) == expected


@pytest.mark.parametrize("device", ["reference"])
def test_the_reference_computes_the_same_tokens(tiny_model, adapters, device):
    rows = [([5, 6, 7, 8], SamplingParams(max_tokens=5, ignore_eos=True))] * 3
    path, loras = tiny_model("llama"), adapters("llama")
    ours = run(make_engine(path, loras=loras), rows, NAMES)
    assert [row[0][0] for row in run(make_engine(path, loras=loras, device=device), rows, NAMES)] == [row[0][0] for row in ours]


def test_an_unknown_name_is_the_rows_error(tiny_model, adapters):
    engine = make_engine(tiny_model("llama"), loras=adapters("llama"))
    with pytest.raises(RowError, match="lora is 'huge', which no --lora names"):
        engine.add_request(0, [1, 2], SamplingParams(lora="huge"))
    engine.close()


def test_adapters_that_only_merging_can_apply_are_refused(tiny_model, tmp_path):
    adapter = save_adapter(tiny_model("opt"), tmp_path / "fc1", r=2, target_modules=["fc1"])
    with pytest.raises(ModelError, match=r"changes model\.decoder\.layers\.0\.fc1, which is no linear layer") as caught:
        make_engine(tiny_model("opt"), loras=(("fc1", str(adapter)),))
    assert "--merge-lora" in caught.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_two_ranks_compute_adapters_as_two_segments_do(tiny_model, adapters, name):
    """To the bit; greedy text is that of sums in one part."""
    params = SamplingParams(max_tokens=6, ignore_eos=True, logprobs=0)
    rows, names = [([5 + i, 9, 7, 20 + i], params) for i in range(6)], [NAMES[i % 3] for i in range(6)]
    model, loras = tiny_model(name), adapters(name)
    one = run(make_engine(model, loras=loras, sum_segments=2), rows, names)
    assert run(make_engine(model, loras=loras, tensor_parallel_size=2, threads=1), rows, names) == one
    plain = run(make_engine(model, loras=loras), rows, names)
    assert [row[0][0] for row in one] == [row[0][0] for row in plain]
    assert len({tuple(row[0][0]) for row in one}) > 2
