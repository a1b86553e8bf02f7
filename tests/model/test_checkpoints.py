"""Checkpoints in the transformers layout: sharded or single, safetensors or pickled, whole or damaged."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from paged_steps import PagedSteps, relative_error

from pagecli.core.arrays import to_float32
from pagecli.devices.base import load_model
from pagecli.errors import ModelError
from pagecli.model.build_program import build
from pagecli.model.registry import resolve_model
from pagecli.model.weights.reader import MappedFile

PROMPT = {0: [5, 9, 200, 31, 7, 7, 300]}


def logits_of(directory, dtype: str = "float32") -> torch.Tensor:
    return PagedSteps(load_model(resolve_model(str(directory)), dtype, 32)).step(PROMPT)[0]


@pytest.fixture
def copy(tiny_model, tmp_path):
    """copy(name) -> a tiny model's directory that the test may damage."""
    return lambda name: shutil.copytree(tiny_model(name), tmp_path / name)


def state_dict(directory) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


@pytest.mark.slow
def test_sharded_safetensors_load_as_the_single_file(tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny_model("qwen2")).save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert resolve_model(str(tmp_path)).weights_path == tmp_path / "model.safetensors.index.json"
    assert torch.equal(logits_of(tmp_path), logits_of(tiny_model("qwen2")))


@pytest.mark.slow
def test_pickled_weights_load_as_safetensors_single_and_sharded(copy):
    directory = copy("opt")
    expected, tensors = logits_of(directory), state_dict(directory)
    (directory / "model.safetensors").unlink()
    torch.save(tensors, directory / "pytorch_model.bin")
    assert resolve_model(str(directory)).kind == "pickle"
    assert torch.equal(logits_of(directory), expected)

    names = list(tensors)
    files = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({name: tensors[name] for name in names if files[name] == file}, directory / file)
    (directory / "pytorch_model.bin").unlink()
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert torch.equal(logits_of(directory), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_stored_in_16_bits_are_widened_exactly(copy, dtype):
    from safetensors.torch import save_file

    directory = copy("llama-tied")
    tensors = {name: tensor.to(dtype) for name, tensor in state_dict(directory).items()}
    save_file(tensors, directory / "model.safetensors")
    narrow = logits_of(directory)
    save_file({name: tensor.float() for name, tensor in tensors.items()}, directory / "model.safetensors")
    assert torch.equal(narrow, logits_of(directory))


def test_tensor_names_without_the_leading_model_are_found(copy):
    """facebook/opt-125m and other old checkpoints were saved from the base model."""
    from safetensors.torch import save_file

    directory = copy("opt-post-norm")
    expected = logits_of(directory)
    save_file({name.removeprefix("model."): t for name, t in state_dict(directory).items()}, directory / "model.safetensors")
    assert torch.equal(logits_of(directory), expected)


def refusal(directory) -> str:
    with pytest.raises(ModelError) as caught:
        logits_of(directory)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(copy, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    directory = copy("opt")
    (directory / "model.safetensors").unlink()
    torch.save({"model.decoder.embed_tokens.weight": Evil()}, directory / "pytorch_model.bin")
    assert "pytorch_model.bin: not a readable PyTorch checkpoint" in refusal(directory)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("keep", [0, 4, 1000, 50_000])
def test_a_truncated_pickle_is_refused(copy, keep):
    directory = copy("opt")
    torch.save(state_dict(directory), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    whole = (directory / "pytorch_model.bin").read_bytes()
    (directory / "pytorch_model.bin").write_bytes(whole[:keep])
    assert "pytorch_model.bin: not a readable PyTorch checkpoint" in refusal(directory)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 50_000, -1])
def test_a_truncated_safetensors_file_is_refused(copy, keep):
    directory = copy("llama")
    whole = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(whole[:keep])
    assert "model.safetensors: not a complete safetensors file" in refusal(directory)


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**40, 99_999_999])
def test_a_header_length_beyond_the_file_is_refused_without_reading_it(copy, length):
    directory = copy("llama")
    (directory / "model.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
    assert "model.safetensors: not a complete safetensors file" in refusal(directory)


def test_a_missing_tensor_is_named(copy):
    from safetensors.torch import save_file

    directory = copy("qwen3")
    tensors = state_dict(directory)
    del tensors["model.layers.1.self_attn.k_norm.weight"]
    save_file(tensors, directory / "model.safetensors")
    assert "no tensor model.layers.1.self_attn.k_norm.weight" in refusal(directory)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(copy):
    directory = copy("qwen3")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"intermediate_size": 192}))
    assert "gate_proj.weight has shape [160, 96], the config asks for [192, 96]" in refusal(directory)


def test_tensors_of_another_architecture_are_noticed(copy):
    """A Qwen2 checkpoint called Llama would load without its QKV biases and write nonsense."""
    directory = copy("qwen2")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    assert "_proj.bias does not belong to the architecture" in refusal(directory)


def test_an_index_must_name_files_beside_it(copy):
    directory = copy("opt")
    shutil.move(directory / "model.safetensors", directory.parent / "model.safetensors")
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "../model.safetensors"}}))
    assert "not next to it" in refusal(directory)
    index.write_text(json.dumps({"weight_map": {"model.decoder.embed_tokens.weight": "gone.safetensors"}}))
    assert "gone.safetensors: not a complete safetensors file" in refusal(directory)
    index.write_text("[]")
    assert "not the index of a sharded checkpoint" in refusal(directory)


@pytest.mark.slow
def test_dummy_weights_need_only_a_config_and_differ_from_layer_to_layer(tiny_model, tmp_path):

    from pagecli.model.weights.dummy import DummySource

    shutil.copy(tiny_model("llama") / "config.json", tmp_path)
    source = resolve_model(str(tmp_path), "dummy")
    assert (source.kind, source.tokenizer_path) == ("dummy", None)
    first, again = load_model(source, "float32", 32), load_model(source, "float32", 32)
    assert torch.equal(PagedSteps(first).step(PROMPT)[0], PagedSteps(again).step(PROMPT)[0])
    assert torch.isfinite(PagedSteps(first).step(PROMPT)[0]).all()
    weights = DummySource()
    layers = [weights.read(f"model.layers.{i}.mlp.up_proj.weight", (160, 96)) for i in range(3)]
    assert not np.array_equal(layers[0], layers[1])
    assert not np.array_equal(layers[1], layers[2])
    large = to_float32(weights.read("model.embed_tokens.weight", (90_000, 96)))
    assert float(large.std()) == pytest.approx(0.02, rel=0.01)
    assert len(np.unique(large[:, :4], axis=0)) > 80_000


def test_packed_weights_take_the_memory_the_config_says(tiny_model):
    """Widths here are multiples of a panel, so packing pads nothing: what is counted is what the parameters take."""
    source = resolve_model(str(tiny_model("qwen2")))
    assert load_model(source, "float32", 8).weight_bytes == build(source.config).num_parameters * 4


def test_pages_of_the_file_leave_memory_once_they_are_packed(tmp_path):
    path = tmp_path / "weights"
    values = np.arange(2_000_000, dtype=np.int32)
    path.write_bytes(values.tobytes())
    mapped = MappedFile(path)
    view = mapped.view(0, 8_000_000).view(np.int32)
    assert np.array_equal(view, values)
    assert resident_bytes(path) > 7_000_000
    mapped.release()
    assert resident_bytes(path) < 100_000
    assert np.array_equal(view, values)  # read again from the file


def resident_bytes(path) -> int:
    """Resident memory of this process's mappings of `path`."""
    resident, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.split()[0].endswith(":"):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            resident += int(line.split()[1]) * 1024
    return resident


def test_relative_error_sees_a_difference():
    assert relative_error(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.1])) > 0.09


@pytest.mark.parametrize("padding", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_header_of_any_length_puts_the_weights_where_it_likes(copy, padding, dtype):
    """The format asks for no alignment: tensors may begin at any byte."""
    from safetensors.torch import load_file, save_file

    directory = copy("llama")
    path = directory / "model.safetensors"
    save_file({name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(path).items()}, path)
    expected = logits_of(directory)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    path.write_bytes(
        (length + padding).to_bytes(8, "little") + content[8 : 8 + length] + b" " * padding + content[8 + length :]
    )
    assert torch.equal(logits_of(directory), expected)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ],
)
def test_a_pipe_among_a_models_files_is_refused_at_once(copy, name):
    directory = copy("llama")
    (directory / name).unlink(missing_ok=True)
    os.mkfifo(directory / name)
    for path in (directory, directory / name):
        with pytest.raises(ModelError, match=f"{name}: a pipe or a device, not a file"):
            resolve_model(str(path))


def test_a_pipe_that_is_no_part_of_the_model_does_not_matter(copy):
    directory = copy("llama")
    os.mkfifo(directory / "rows.jsonl")
    assert resolve_model(str(directory)).kind == "safetensors"
