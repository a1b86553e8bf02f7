"""Directories that are not one plain checkpoint: adapters, GGUF files, parts of one, a hub repository that is not supported."""

import json
import shutil

import gguf
import pytest
import torch
from paged_steps import PagedSteps
from test_gguf import PROMPT, write_gguf

from pagecli.devices.base import load_model
from pagecli.errors import ModelError
from pagecli.jobs.journal import job_identity
from pagecli.model import hub
from pagecli.model.registry import resolve_model


def refused(path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        resolve_model(str(path))
    assert "\n" not in caught.value.message
    return caught.value


def logits_of(path) -> torch.Tensor:
    return PagedSteps(load_model(resolve_model(str(path)), "float32", 32)).step(PROMPT)[0]


@pytest.fixture
def gguf_file(tiny_model, tmp_path):
    return write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), "llama")


def test_an_adapter_alone_names_its_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "meta-llama/Llama-3.2-1B"}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    error = refused(tmp_path)
    assert "adapter (PEFT) of 'meta-llama/Llama-3.2-1B', not a model" in error.message
    assert "merge" in error.hint


def test_an_adapter_beside_a_model_is_not_left_out_silently(tiny_model, tmp_path):
    directory = shutil.copytree(tiny_model("llama"), tmp_path / "both")
    (directory / "adapter_config.json").write_text("{}")
    error = refused(directory)
    assert "adapter_config.json beside a model" in error.message
    assert "--merge-lora" in error.hint
    assert resolve_model(str(directory), "dummy").kind == "dummy"


def test_a_directory_of_one_gguf_model_is_that_model_and_of_two_asks_which(gguf_file):
    shutil.copy(gguf_file, gguf_file.with_name("mmproj-tiny.gguf"))  # llama.cpp's image encoder: no model of text
    source = resolve_model(str(gguf_file.parent))
    assert (source.kind, source.weights_path, source.tokenizer_path) == ("gguf", gguf_file, gguf_file)
    shutil.copy(gguf_file, gguf_file.with_name("other.gguf"))
    error = refused(gguf_file.parent)
    assert "2 GGUF models: other.gguf, tiny.gguf" in error.message
    assert "other.gguf" in error.hint


def split(path, directory):
    """The file as three, as llama-gguf-split does: the metadata in the first, a third of the tensors in each."""
    reader, directory = gguf.GGUFReader(path), directory / "parts"
    directory.mkdir()
    for number in range(3):
        writer = gguf.GGUFWriter(directory / f"tiny-{number + 1:05d}-of-00003.gguf", "llama")
        for field in reader.fields.values() if number == 0 else ():
            if not field.name.startswith(("GGUF.", "general.architecture")):
                sub_type = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), field.types[0], sub_type)
        for tensor in reader.tensors[number::3]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return sorted(directory.iterdir())


def test_parts_of_a_gguf_model_are_one_model_whichever_is_named(gguf_file, tmp_path):
    parts, expected = split(gguf_file, tmp_path), logits_of(gguf_file)
    for path in (parts[0], parts[2], parts[0].parent):
        assert torch.equal(logits_of(path), expected)
    source = resolve_model(str(parts[1]))
    assert source.config == resolve_model(str(gguf_file)).config
    assert (source.weights_path, source.tokenizer_path) == (parts[0], parts[0])
    assert job_identity.weights_paths(source) == parts
    parts[1].unlink()
    error = refused(parts[0])
    assert "tiny-00002-of-00003.gguf, a part of the same model, is not beside it (1 of 3 missing)" in error.message


def test_a_hub_repository_that_is_not_supported_is_refused_before_its_weights_come(tmp_path, monkeypatch):
    asked = []

    def download(hub_id, with_weights):
        asked.append(with_weights)
        return tmp_path

    monkeypatch.setattr(hub, "download", download)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["T5ForConditionalGeneration"]}))
    assert "'T5ForConditionalGeneration' is not supported" in refused("someone/t5").message
    assert asked == [False]


def test_a_head_that_differs_from_the_embeddings_it_is_tied_to_is_kept_and_said(tiny_model, tmp_path):
    """As transformers does from 5.8 on; the same numbers once more are no other head."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    directory = shutil.copytree(tiny_model("llama-tied"), tmp_path / "own-head")
    tensors = load_file(directory / "model.safetensors")
    embeddings = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": embeddings.clone()}, directory / "model.safetensors")
    same = load_model(resolve_model(str(directory)), "float32", 32)
    assert same.config.tie_embeddings
    assert same.notes == ()
    save_file(tensors | {"lm_head.weight": embeddings.flip(0)}, directory / "model.safetensors")
    for device in ("cpu", "reference"):
        model = load_model(resolve_model(str(directory)), "float32", 32, device)
        assert not model.config.tie_embeddings
        assert "lm_head.weight is not the embeddings" in model.notes[0]
    expected = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        assert torch.allclose(logits_of(directory), expected(torch.tensor([PROMPT[0]])).logits[0], atol=1e-4)
