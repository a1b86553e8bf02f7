"""GGUF files: written here with the gguf package as llama.cpp's converter does, read back, damaged, and compared."""

import dataclasses
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from paged_steps import PagedSteps, relative_error

from pagecli.devices.base import load_model
from pagecli.errors import ModelError
from pagecli.model.build_program import build
from pagecli.model.readers.gguf_config import from_gguf_header
from pagecli.model.readers.gguf_header import read_gguf_header
from pagecli.model.registry import resolve_model
from pagecli.model.tokenizer.loading import load_tokenizer

PROMPT = {0: [5, 9, 200, 31, 7, 7, 300]}
# Keys that the reader asks for and the file below lacks.
OTHER_KEYS = ("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "rope.scaling.original_context_length")
OTHER_KEYS += ("rope.dimension_count", "attention.sliding_window", "attention.sliding_window_pattern", "attention.value_length")
OTHER_KEYS += ("expert_count", "expert_used_count")
QUANTIZED = gguf.GGMLQuantizationType.Q8_0


def as_q8_0(name: str, values: np.ndarray) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
    return gguf.quants.quantize(values, QUANTIZED), QUANTIZED


def write_gguf(path: Path, directory: Path, architecture: str, quantize: bool = False, quantized=as_q8_0) -> Path:
    """The tiny model in `directory` as a GGUF file; with `quantize`, each matrix as quantized(name, values), (blocks, type)."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory)
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    _write_tokenizer(writer, directory)
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _frequency_factors(config))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            values = _permuted(values, values.shape[0] // config.head_dim)
        stored, kind = quantized(name, values) if quantize and values.ndim == 2 else (values, None)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_tokenizer(writer: gguf.GGUFWriter, directory: Path) -> None:
    import json

    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    control = {token["content"] for token in tokenizer["added_tokens"]}
    tokens = sorted(vocab, key=vocab.get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in control else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_chat_template((directory / "chat_template.jinja").read_text())


def _permuted(values: np.ndarray, num_heads: int) -> np.ndarray:
    """What llama.cpp's converter does to Q and K of Llama models: halves of each head become pairs side by side."""
    return values.reshape(num_heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _frequency_factors(config) -> np.ndarray:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
    return (plain / ROPE_INIT_FUNCTIONS["llama3"](config)[0]).numpy()


def logits_of(path: Path, prompts=PROMPT) -> torch.Tensor:
    return PagedSteps(load_model(resolve_model(str(path)), "float32", 64)).step(prompts)[0]


@pytest.mark.parametrize(
    ("name", "architecture"), [("llama", "llama"), ("llama-tied", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")]
)
def test_a_gguf_file_computes_what_its_checkpoint_does(tiny_model, tmp_path, name, architecture):
    """Tensor names, the permutation of Q and K, biases, QK norm, rope frequency factors."""
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model(name), architecture)
    source, original = resolve_model(str(path)), resolve_model(str(tiny_model(name)))
    assert source.kind == "gguf"
    assert build(source.config).num_parameters == build(original.config).num_parameters
    assert source.config.eos_token_ids == (2, 1)  # end of text and end of turn
    prompt = {0: list(range(3, 60))}
    assert relative_error(logits_of(path, prompt), logits_of(tiny_model(name), prompt)) <= 1e-5


def test_quantized_tensors_are_dequantized_as_the_gguf_package_does(tiny_model, tmp_path):
    from pagecli.model.weights.gguf_file import GgufSource

    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("qwen2"), "qwen2", quantize=True)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}["blk.1.ffn_up.weight"]
    found = GgufSource(path, resolve_model(str(path)).config).read("model.layers.1.mlp.up_proj.weight", (160, 128))
    assert np.array_equal(found, gguf.quants.dequantize(stored.data, stored.tensor_type))
    assert relative_error(logits_of(path), logits_of(tiny_model("qwen2"))) < 0.05


def test_the_header_reads_as_the_gguf_package_reads_it(tiny_model, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model("qwen3"), "qwen3", quantize=True)
    header, reader = read_gguf_header(path), gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert header.metadata == fields
    assert header.data_start == reader.data_offset
    for tensor in reader.tensors:
        assert header.tensors[tensor.name].shape == tuple(int(size) for size in tensor.shape[::-1])
        assert header.data_start + header.tensors[tensor.name].offset == tensor.data_offset


@pytest.fixture
def small(tiny_model, tmp_path) -> Path:
    return write_gguf(tmp_path / "small.gguf", tiny_model("llama-tied"), "llama")


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(resolve_model(str(path)), "float32", 8)
    assert "\n" not in caught.value.message
    assert str(path) in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("keep", [0, 3, 10, 24, 100, 2000, 0.5, 0.999])
def test_a_file_cut_anywhere_is_refused_in_one_line(small, keep):
    whole = small.read_bytes()
    small.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    assert "GGUF" in refusal(small) or "truncated" in refusal(small) or "cannot be read" in refusal(small)


@pytest.mark.parametrize("offset", [8, 16, 24])  # number of tensors, of metadata entries, length of the first key
def test_hostile_counts_and_lengths_are_refused_without_allocating(small, offset):
    whole = bytearray(small.read_bytes())
    for value in (2**64 - 1, 2**40):
        whole[offset : offset + 8] = value.to_bytes(8, "little")
        small.write_bytes(whole)
        assert "truncated or corrupt GGUF header" in refusal(small)


def test_a_file_that_is_no_gguf_or_of_another_version_is_refused(small):
    whole = small.read_bytes()
    small.write_bytes(b"GGML" + whole[4:])
    assert "not a GGUF file" in refusal(small)
    small.write_bytes(whole[:4] + (1).to_bytes(4, "little") + whole[8:])
    assert "GGUF version 1" in refusal(small)


def test_architectures_that_pagecli_lacks_are_refused(tmp_path):
    for architecture, message in (("grok", "architecture 'grok' with"), ("qwen2", "'qwen2' with experts is not supported")):
        writer = gguf.GGUFWriter(tmp_path / f"{architecture}.gguf", architecture)
        writer.add_expert_count(8)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        assert message in refusal(tmp_path / f"{architecture}.gguf")


def test_a_gguf_header_is_enough_for_dummy_weights(small):
    header = read_gguf_header(small)
    small.write_bytes(small.read_bytes()[: header.data_start])
    source = resolve_model(str(small), "dummy")
    assert (source.kind, source.tokenizer_path) == ("dummy", small)
    assert torch.isfinite(PagedSteps(load_model(source, "bfloat16", 16), torch.bfloat16).step(PROMPT)[0]).all()


SAMPLE_PROMPTS = ["The capital of France is", "def fibonacci(n):\n", "Water boils at 100 degrees Celsius, and it freezes at"]


@pytest.mark.slow
def test_smollm2_computes_what_transformers_does_from_the_same_file(sample_model, transformers_sample_model):
    tokenizer = load_tokenizer(sample_model)
    prompts = {i: tokenizer.encode(text) for i, text in enumerate(SAMPLE_PROMPTS)}
    with torch.inference_mode():
        expected = {i: transformers_sample_model(torch.tensor([tokens])).logits[0] for i, tokens in prompts.items()}
    for dtype, tolerance in (("float32", 1e-4), ("bfloat16", 3e-2)):
        model = load_model(sample_model, dtype, 128)
        found = PagedSteps(model, getattr(torch, dtype), block_size=16).step(prompts)
        for i in prompts:
            assert relative_error(found[i], expected[i]) <= tolerance


@pytest.mark.parametrize(
    "value", ["", "x", "a" * 5000, [], [1, 2], [0.5, 1.5], -1, 2**63, 0.5, float("nan"), float("inf"), True]
)
def test_metadata_of_any_type_is_read_or_refused_in_one_line(tmp_path, tiny_model, value):
    """Every key that the reader asks for, in turn."""
    header = read_gguf_header(write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), "llama"))
    keys = [f"llama.{key}" for key in OTHER_KEYS] + [
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
        *header.metadata,
    ]
    for key in dict.fromkeys(keys):
        for kind in ("none", "yarn"):
            metadata = header.metadata | {"llama.rope.scaling.type": kind, key: value}
            try:
                config = from_gguf_header(dataclasses.replace(header, metadata=metadata))
            except ModelError as error:
                message = error.message
            else:
                message = ""
                assert build(config).num_parameters > 0
                assert config.bos_token_id is None or type(config.bos_token_id) is int
            assert len(message) < 300
