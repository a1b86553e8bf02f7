"""Every quantized format is read to the bit as the library that defines it dequantizes it (golden/make.py), and those that stay
quantized stand for the same numbers."""

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pagecli.devices.cpu.weights import quantized_weight
from pagecli.errors import ModelError
from pagecli.model.readers.quantization_config import read_quantization
from pagecli.model.weights.packed.source import PackedSource
from pagecli.model.weights.quantized import E4M3
from pagecli.model.weights.safetensors_file import SafetensorsSource

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.safetensors"))
KEPT = {"float-channel", "float-tensor", "fp8-blocks", "int8-channel", "int8-group", "mxfp4", "packed-4", "packed-4-asymmetric"}
KEPT |= {"packed-8"}  # float-block: blocks narrower than the kernels' groups


def opened(path):
    with safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()["quantization_config"])
    return PackedSource(SafetensorsSource(path), read_quantization({"quantization_config": about}, "config.json"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_its_numbers_are_those_of_its_own_library(path):
    source, expected = opened(path), SafetensorsSource(path).stored("expected")
    if path.stem == "mxfp4":  # which gives the experts as [inputs, outputs]
        assert source.folded("X") == ("transposed",)
        shape = (2, 16, 128)
        for expert in range(2):
            assert np.array_equal(source.read_expert("X", expert, shape), expected[expert].T)
            assert np.array_equal(source.read_quantized("X", shape, expert).dequantized(), expected[expert].T)
        return
    tensor = source.read_quantized("X.weight", expected.shape)
    assert np.array_equal(source.read("X.weight", expected.shape), expected)
    assert (tensor is not None and quantized_weight.can_pack(tensor)) == (path.stem in KEPT)
    assert tensor is None or np.array_equal(tensor.dequantized(), expected)
    assert set(source.names()) == {"X.weight", "expected"}  # nothing else is left over


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_no_file_stays_open_once_it_is_read(path):
    source = opened(path)
    if path.stem == "mxfp4":
        source.read_quantized("X", (2, 16, 128), 1)
    else:
        source.read_quantized("X.weight", SafetensorsSource(path).stored("expected").shape)
    file = weakref.ref(source._source)
    del source
    if file() is not None:
        gc.collect()
    assert file() is None


def test_every_float8_number_is_torchs():
    codes = torch.arange(256, dtype=torch.uint8)
    found, expected = E4M3, codes.view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(found.view(np.uint32)[~np.isnan(expected)], expected.view(np.uint32)[~np.isnan(expected)])
    assert np.array_equal(np.isnan(found), np.isnan(expected))


def damaged(path, name, change):
    tensors = load_file(path)
    tensors[name] = change(tensors[name])
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    return tensors, metadata


@pytest.mark.parametrize(
    ("golden", "name", "change"),
    [
        ("int8-channel", "X.weight_scale", lambda scale: scale[:5]),
        ("int8-group", "X.weight_scale", lambda scale: scale.T.contiguous()),
        ("packed-4", "X.weight_scale", lambda scale: scale[:, :2].contiguous()),
        ("nf4", "X.weight.absmax", lambda scale: scale[:-1]),
        ("nf4", "X.weight.quant_state.bitsandbytes__nf4", lambda state: state[:-1]),
        ("nf4-double", "X.weight.nested_absmax", lambda scale: torch.cat([scale, scale])),
        ("llm-int8", "X.SCB", lambda scale: scale[:-1]),
        ("mxfp4", "X_scales", lambda scale: scale[:, :3].contiguous()),
    ],
)
def test_a_layer_of_another_shape_than_its_config_says_is_refused(tmp_path, golden, name, change):
    path = next(path for path in GOLDEN if path.stem == golden)
    tensors, metadata = damaged(path, name, change)
    save_file(tensors, tmp_path / "it.safetensors", metadata)
    source = opened(tmp_path / "it.safetensors")
    with pytest.raises(ModelError, match="X is not packed as quantization_config says"):
        source.read_expert("X", 0, (2, 16, 128)) if golden == "mxfp4" else source.read("X.weight", (16, 128))


def test_exponents_too_far_apart_for_halves_are_not_kept(tmp_path):
    """Of a mixture's whole tensor, whose experts share one table."""
    path = next(path for path in GOLDEN if path.stem == "mxfp4")
    tensors, metadata = damaged(path, "X_scales", lambda scale: scale)
    for least, is_kept in ((86, True), (85, False)):
        tensors["X_scales"][1, 2, 3] = least  # 125 is the largest
        save_file(tensors, tmp_path / "it.safetensors", metadata)
        tensor = opened(tmp_path / "it.safetensors").read_quantized("X", (2, 16, 128), 1)
        assert (tensor is not None) == is_kept
