"""--model-impl transformers: architectures that pagecli does not compute, by transformers' own modules on paged attention."""

import json

import pytest
import torch
from checkpoints import PROMPTS, Family, difference, expected_logprobs
from model.paged_steps import PagedSteps
from tiny_models import make_tokenizer

from pagecli.cli.app import main
from pagecli.core.engine_config import EngineConfig
from pagecli.devices import base
from pagecli.engine.engine import Engine
from pagecli.errors import ModelError, UsageError
from pagecli.model.registry import resolve_engine_model

_DEEPSEEK = {
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12, "n_group": 1,
    "topk_group": 1, "n_routed_experts": 8, "num_experts_per_tok": 2, "num_key_value_heads": 4, "moe_intermediate_size": 24,
}  # fmt: skip
_GLM = {
    "head_dim": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
}
_LINEAR = {f"linear_{name}": size for name, size in {"num_key_heads": 2, "num_value_heads": 4}.items()}
_LINEAR |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
# Other activations, experts chosen by sigmoids in some layers, keys and values of different sizes, caps, windows, sinks.
RUN = [
    Family("Apertus"),
    Family("Glm4Moe", _GLM),
    Family("DeepseekV3", _DEEPSEEK),
    Family("Gemma2", {"head_dim": 16, "sliding_window": 6, "attn_logit_softcapping": 2.0}),
    Family("GptOss", {"num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 5}),
]
# What keeps a state of its own, beside the tokens or an attention of its own.
BY_SEQUENCE = [
    Family("Lfm2", {"layer_types": ["conv", "full_attention"] * 2}),
    Family("Falcon", {"num_key_value_heads": None, "intermediate_size": None}),
    Family("Doge"),
    Family("Bloom", {"num_key_value_heads": None, "intermediate_size": None}),
    Family(
        "Qwen3_5",
        {"layer_types": ["linear_attention", "full_attention"] * 2, "head_dim": 16, **_LINEAR},
        config_class="Qwen3_5TextConfig",
    ),
    Family("Mamba", {"num_attention_heads": 4, "intermediate_size": 128, "state_size": 8}),
]


def loaded(directory, dtype="float32"):
    source = resolve_engine_model(EngineConfig(str(directory), device="transformers"))
    return base.find("transformers").load(source, dtype, 64)


@pytest.mark.slow
@pytest.mark.parametrize("family", [*RUN, *BY_SEQUENCE], ids=lambda family: family.name)
def test_chunks_of_several_sequences_give_what_transformers_computes_of_each(family, tmp_path):
    model = family.make(tmp_path, {})
    expected, run = expected_logprobs(model), loaded(tmp_path)
    assert ("a sequence at a time" in run.notes[0]) == (family in BY_SEQUENCE)
    steps, done, found = PagedSteps(run), dict.fromkeys(PROMPTS, 0), {i: [] for i in PROMPTS}
    for size in (1, 8, 1, 31):
        chunks = {i: tokens[done[i] : done[i] + size] for i, tokens in PROMPTS.items() if done[i] < len(tokens)}
        done = {i: count + len(chunks.get(i, [])) for i, count in done.items()}
        for i, logits in steps.step(chunks).items():
            found[i].append(logits)
    assert difference({i: torch.cat(logits).log_softmax(-1) for i, logits in found.items()}, expected) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("family", [RUN[0], BY_SEQUENCE[0]], ids=lambda family: family.name)
@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_a_job_runs_shares_prefixes_and_says_how_it_is_computed(tmp_path, capfd, family, kv_dtype):
    model = family.make(tmp_path / "model", {"eos_token_id": 511, "vocab_size": 512})
    make_tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"prompt_token_ids": [5, 6, 7, 8] * 12 + [n]} for n in range(6)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        str(tmp_path / "in.jsonl"),
        str(tmp_path / "out.jsonl"),
        "-m",
        str(tmp_path / "model"),
        "--max-tokens",
        "8",
        "--token-ids",
    ]
    with pytest.raises(SystemExit) as ended:
        main(["generate", *words, "--model-impl", "transformers", "--kv-dtype", kv_dtype])
    error = capfd.readouterr().err
    assert ended.value.code == 0, error
    assert "computed by transformers' own modules" in error
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, made in zip(rows, found, strict=True):
        prompt = torch.tensor([row["prompt_token_ids"]])
        with torch.inference_mode():
            expected = model.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :]
        if kv_dtype == "auto" or family in BY_SEQUENCE:  # int8 keys and values are rounded, token ids are not
            assert made["token_ids"] == [token for token in expected.tolist() if token != model.config.eos_token_id]


def test_what_it_does_not_go_with_is_refused_before_loading(tmp_path):
    RUN[0].make(tmp_path, {})
    with pytest.raises(UsageError, match="int8 is not computed by transformers' modules"):
        Engine(EngineConfig(str(tmp_path), device="transformers", dtype="int8"))
    with pytest.raises(ModelError, match=r"Apertus.* is not supported") as refused:
        Engine(EngineConfig(str(tmp_path)))
    assert refused.value.hint is not None
    assert "--model-impl transformers" in refused.value.hint
