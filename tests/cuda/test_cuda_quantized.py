"""Quantized checkpoints and GGUF files on a GPU: dequantized at load, every format of docs/families.md."""

import importlib
from pathlib import Path

import gguf
import gguf_random
import pytest
import torch
from model.paged_steps import relative_error
from test_cuda_models import logits_of

from pagecli.devices.base import load_model
from pagecli.model.registry import resolve_model

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[1] / "model"))
    packed_checkpoints, gguf_files = (importlib.import_module(name) for name in ("test_packed_checkpoints", "test_gguf"))

pytestmark = pytest.mark.cuda
# Of columns of whole blocks; K types, whose blocks are of 256 columns, apart.
KINDS = [("llama", kind) for kind in gguf_random.HALVES if gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0] == 32]
KINDS += [("wide", kind) for kind in gguf_random.HALVES if ("llama", kind) not in KINDS]


def logits(path, device="cuda"):
    with torch.inference_mode():
        return logits_of(load_model(resolve_model(str(path)), "float32", 64, device), torch.float32)


@pytest.mark.parametrize("name", [*packed_checkpoints.FORMATS, *packed_checkpoints.PLAIN_FORMATS])
def test_a_checkpoint_computes_what_its_numbers_say(tiny_model, tmp_path, name):
    write = packed_checkpoints.write if name in packed_checkpoints.FORMATS else packed_checkpoints.write_plain
    path, plain = write(tiny_model("llama"), tmp_path, name)
    assert relative_error(logits(path), logits(plain)) <= 1e-5


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A tiny Llama of which every matrix has columns of whole blocks of 256."""
    import tiny_models

    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8}
    tiny_models.make_model("llama", **sizes).save_pretrained(folder)
    tiny_models.make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("model", "kind"), KINDS)
def test_a_gguf_file_computes_what_it_does_on_a_cpu(tiny_model, wide, tmp_path, model, kind):
    def blocks(name, values):
        return gguf_random.blocks(kind, len(name), *values.shape, size=1e-3), gguf.GGMLQuantizationType[kind]

    folder = wide if model == "wide" else tiny_model(model)
    path = gguf_files.write_gguf(tmp_path / "tiny.gguf", folder, "llama", quantize=True, quantized=blocks)
    assert relative_error(logits(path), logits(path, "cpu")) <= 1e-4
