"""GPTQ, AWQ and compressed-tensors checkpoints, written here as their formats say, compute what their numbers say, dequantized
at load or kept in 4 bits."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from paged_steps import PagedSteps, relative_error
from safetensors.numpy import load_file, save_file

from pagecli.devices.registry import load_model
from pagecli.errors import ModelError
from pagecli.model.registry import resolve_model

PROMPT = {0: [5, 9, 200, 31, 7, 7, 300]}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def packed(numbers, order=tuple(range(8))):
    """[R, 8 C] -> int32[R, C]: of eight numbers, number order[i] is bits 4 i and up."""
    eights = numbers.reshape(len(numbers), -1, 8).astype(np.uint32)[..., list(order)]
    return (eights << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32).view(np.int32)


def gptq(layer, q, scale, zero, groups, kind):
    """AutoGPTQ's QuantLinear.pack: K and N are packed; the first format stores zeros less one."""
    stored = zero - 1 if kind == "gptq" else zero
    return {
        f"{layer}.qweight": packed(q).T.copy(),
        f"{layer}.qzeros": packed(stored.T.copy()),
        f"{layer}.scales": scale.T.copy(),
        f"{layer}.g_idx": groups.astype(np.int32),
    }


def awq(layer, q, scale, zero, *_):
    """AutoAWQ's WQLinear_GEMM: N is packed, in its order."""
    return {
        f"{layer}.qweight": packed(q.T.copy(), AWQ_ORDER),
        f"{layer}.qzeros": packed(zero.T.copy(), AWQ_ORDER),
        f"{layer}.scales": scale.T.copy(),
    }


def compressed(layer, q, scale, zero, *_):
    """compressed-tensors' pack_to_int32: K is packed, of zeros N; symmetric layers have none."""
    found = {
        f"{layer}.weight_packed": packed(q),
        f"{layer}.weight_scale": scale,
        f"{layer}.weight_shape": np.array(q.shape, np.int64),
    }
    if not np.all(zero == 8):
        found[f"{layer}.weight_zero_point"] = packed(zero.T.copy()).T.copy()
    return found


def of_compressed(group, symmetric=True):
    strategy = {"strategy": "channel"} if group == -1 else {"strategy": "group", "group_size": group}
    weights = {"num_bits": 4, "type": "int", "symmetric": symmetric, **strategy}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}


# name -> writer, config, group, symmetric, order of groups
FORMATS = {
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 32}, 32, False, False),
    "gptq-v2": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"}, 32, False, False),
    "gptq-act-order": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}, 32, False, True),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}, 32, False, False),
    "compressed": (compressed, of_compressed(32), 32, True, False),
    "compressed-asymmetric": (compressed, of_compressed(32, symmetric=False), 32, False, False),
    "compressed-channel": (compressed, of_compressed(-1), -1, True, False),
}


def write(tiny, directory, name):
    """(packed, plain): the tiny model with its layers packed, and with the numbers that those stand for."""
    writer, config, size, symmetric, ordered = FORMATS[name]
    rng = np.random.default_rng(0)
    plain, stored = {}, {}
    for tensor, values in load_file(tiny / "model.safetensors").items():
        if not tensor.endswith("proj.weight"):
            plain[tensor] = stored[tensor] = values
            continue
        (rows, cols), group = values.shape, values.shape[1] if size == -1 else size
        scale = (np.abs(values).reshape(rows, -1, group).max(-1) / 7).astype(np.float16)
        zero = np.full(scale.shape, 8, np.uint8) if symmetric else rng.integers(1, 16, scale.shape, dtype=np.uint8)
        groups = np.arange(cols) // group
        groups = rng.permutation(groups) if ordered else groups
        of_k, zero_of_k = scale.astype(np.float32)[:, groups], zero.astype(np.float32)[:, groups]
        q = np.clip(np.round(values / of_k + zero_of_k), 0, 15).astype(np.uint8)
        plain[tensor] = of_k * (q - zero_of_k)
        kind = config.get("checkpoint_format", "gptq")
        stored |= writer(tensor.removesuffix(".weight"), q, scale, zero, groups, kind)
    for folder, tensors, quantization in ((directory / "plain", plain, None), (directory / name, stored, config)):
        shutil.copytree(tiny, folder)
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / "model.safetensors")
        about = json.loads((folder / "config.json").read_text())
        if quantization is not None:
            about["quantization_config"] = quantization
        (folder / "config.json").write_text(json.dumps(about))
    return directory / name, directory / "plain"


def logits(path, keep):
    model = load_model(replace(resolve_model(str(path)), keep_quantized=keep), "float32", 64)
    return PagedSteps(model).step(PROMPT)[0], model


@pytest.mark.parametrize("name", FORMATS)
def test_it_computes_what_its_numbers_say(tiny_model, tmp_path, name):
    path, plain = write(tiny_model("llama"), tmp_path, name)
    expected, whole = logits(plain, keep=False)
    for keep in (False, True):
        found, model = logits(path, keep)
        assert relative_error(found, expected) <= 1e-5
        kept = [weight for weight in model.program.weights() if weight.columns and model.weights.matrix(weight).is_quantized]
        assert bool(kept) == (keep and name != "gptq-act-order")
        assert (model.weight_bytes < whole.weight_bytes) == bool(kept)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"quant_method": "hqq"}, "quantized with hqq are not supported"),
        ({"bits": 3}, "quantized with gptq, bits 3"),
        ({"checkpoint_format": "marlin"}, "gptq, checkpoint_format marlin"),
        ({"group_size": 16}, "groups of 16"),
        ({"group_size": "many"}, "group_size is 'many'"),
        ({"quant_method": "awq", "version": "gemv"}, "awq, version 'gemv'"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors, other than one group"),
        (of_compressed(32) | {"format": "float-quantized"}, "format 'float-quantized'"),
    ],
)
def test_what_is_not_read_is_refused_by_name(tiny_model, tmp_path, changed, message):
    shutil.copytree(tiny_model("llama"), tmp_path / "it")
    about = json.loads((tmp_path / "it" / "config.json").read_text())
    about["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32} | changed
    (tmp_path / "it" / "config.json").write_text(json.dumps(about))
    with pytest.raises(ModelError, match=message):
        resolve_model(str(tmp_path / "it"))


def test_layers_of_another_shape_than_the_config_says_are_refused(tiny_model, tmp_path):
    path, _ = write(tiny_model("llama"), tmp_path, "awq")
    about = json.loads((path / "config.json").read_text())
    about["quantization_config"]["group_size"] = 64
    (path / "config.json").write_text(json.dumps(about))
    with pytest.raises(ModelError, match="not packed as quantization_config says"):
        load_model(resolve_model(str(path)), "float32", 64)
