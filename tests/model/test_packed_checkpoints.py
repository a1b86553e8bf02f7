"""Quantized checkpoints, written here as their formats say, compute what their numbers say, dequantized at load or kept."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from paged_steps import PagedSteps, relative_error
from safetensors.numpy import load_file

from pagecli.devices import memory
from pagecli.devices.base import load_model
from pagecli.errors import ModelError
from pagecli.model.registry import resolve_model

PROMPT = {0: [5, 9, 200, 31, 7, 7, 300]}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def packed(numbers, order=tuple(range(8)), bits=4):
    """[R, 32 / bits C] -> int32[R, C]: of eight numbers, or four, number order[i] is bits `bits` i and up."""
    count = 32 // bits
    taken = numbers.reshape(len(numbers), -1, count).astype(np.uint32)[..., list(order[:count])]
    return (taken << np.arange(0, 32, bits, dtype=np.uint32)).sum(-1, dtype=np.uint32).view(np.int32)


def gptq(layer, q, scale, zero, groups, config):
    """AutoGPTQ's QuantLinear.pack: K and N are packed; the first format stores zeros less one."""
    stored = zero - 1 if config.get("checkpoint_format", "gptq") == "gptq" else zero
    return {
        f"{layer}.qweight": packed(q, bits=config["bits"]).T.copy(),
        f"{layer}.qzeros": packed(stored.T.copy(), bits=config["bits"]),
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
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups, "ignore": ["lm_head"]}


# name -> writer, config, group, symmetric, order of groups
FORMATS = {
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 32}, 32, False, False),
    "gptq-8": (gptq, {"quant_method": "gptq", "bits": 8, "group_size": 32}, 32, False, False),
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
    most = 2 ** config.get("bits", 4) - 1
    plain, stored = {}, {}
    for tensor, values in load_file(tiny / "model.safetensors").items():
        if not tensor.endswith("proj.weight"):
            plain[tensor] = stored[tensor] = values
            continue
        (rows, cols), group = values.shape, values.shape[1] if size == -1 else size
        scale = (np.abs(values).reshape(rows, -1, group).max(-1) / (most // 2)).astype(np.float16)
        zero = np.full(scale.shape, 8, np.uint8) if symmetric else rng.integers(1, most + 1, scale.shape, dtype=np.uint8)
        groups = np.arange(cols) // group
        groups = rng.permutation(groups) if ordered else groups
        of_k, zero_of_k = scale.astype(np.float32)[:, groups], zero.astype(np.float32)[:, groups]
        q = np.clip(np.round(values / of_k + zero_of_k), 0, most).astype(np.uint8)
        plain[tensor] = of_k * (q - zero_of_k)
        stored |= writer(tensor.removesuffix(".weight"), q, scale, zero, groups, config)
    for folder, tensors, quantization in ((directory / "plain", plain, None), (directory / name, stored, config)):
        save_checkpoint(tiny, folder, {key: torch.tensor(value) for key, value in tensors.items()}, quantization)
    return directory / name, directory / "plain"


def logits(path, keep):
    source = replace(resolve_model(str(path)), keep_quantized=keep)
    model = load_model(source, "float32", 64)
    assert memory.weight_bytes_of(source, 4) == pytest.approx(model.weight_bytes, rel=0.01)  # known from config.json
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


def float8(layer, values):
    """transformers' fp8: blocks of 16 x 64, the last of each axis cut off."""
    rows, cols = values.shape
    padded = torch.nn.functional.pad(values, (0, -cols % 64, 0, -rows % 16))
    scale = padded.view(-(-rows // 16), 16, -1, 64).abs().amax((1, 3)) / 448
    of_each = scale.repeat_interleave(16, 0).repeat_interleave(64, 1)[:rows, :cols]
    q = (values / of_each).to(torch.float8_e4m3fn)
    return {f"{layer}.weight": q, f"{layer}.weight_scale_inv": scale}, q.float() * of_each


def float8_of_rows(layer, values):
    """fbgemm_fp8: a scale for each row."""
    scale = values.abs().amax(1, keepdim=True) / 448
    q = (values / scale).to(torch.float8_e4m3fn)
    return {f"{layer}.weight": q, f"{layer}.weight_scale": scale, f"{layer}.input_scale_ub": torch.ones(1)}, q.float() * scale


def float8_of_tensor(layer, values):
    """Static activations' scales beside it."""
    scale = (values.abs().amax() / 448).bfloat16()
    q = (values / scale).to(torch.float8_e4m3fn)
    return {f"{layer}.weight": q, f"{layer}.weight_scale": scale, f"{layer}.input_scale": torch.ones(1)}, q.float() * scale


def int8(layer, values):
    scale = (values.abs().amax(1, keepdim=True) / 127).bfloat16()
    q = (values / scale).round().clamp(-127, 127).to(torch.int8)
    return {f"{layer}.weight": q, f"{layer}.weight_scale": scale}, q.float() * scale.float()


def int8_of_tensor(layer, values):
    scale = (values.abs().amax() / 127).bfloat16()
    q = (values / scale).round().clamp(-127, 127).to(torch.int8)
    return {f"{layer}.weight": q, f"{layer}.weight_scale": scale}, q.float() * scale.float()


def float8_of_groups(layer, values):
    """A scale for 32 columns of a row."""
    scale = values.view(len(values), -1, 32).abs().amax(2) / 448
    of_each = scale.repeat_interleave(32, 1)
    q = (values / of_each).to(torch.float8_e4m3fn)
    return {f"{layer}.weight": q, f"{layer}.weight_scale": scale}, q.float() * of_each


def llm_int8(layer, values):
    size = values.abs().amax(1)
    q = (values * 127 / size[:, None]).round().to(torch.int8)
    return {f"{layer}.weight": q, f"{layer}.SCB": size}, q.float() * size[:, None] * np.float32(1 / 127)


def nf4(layer, values):
    """Blocks of 64 numbers that run over the ends of rows, the last cut off; the least and the most of 16 numbers."""
    table = torch.linspace(-1, 1, 16)
    flat = torch.nn.functional.pad(values.flatten(), (0, -values.numel() % 64)).view(-1, 64)
    scale = flat.abs().amax(1)
    q = ((flat / scale[:, None]).unsqueeze(-1) - table).abs().argmin(-1)
    pairs = q.flatten()[: values.numel()].view(-1, 2).to(torch.uint8)
    state = json.dumps({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": list(values.shape)}).encode()
    tensors = {
        "weight": (pairs[:, :1] << 4) | pairs[:, 1:],
        "weight.absmax": scale,
        "weight.quant_map": table,
        "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(state), dtype=torch.uint8),
    }
    plain = (table[q] * scale[:, None]).flatten()[: values.numel()].view(values.shape)
    return {f"{layer}.{name}": tensor for name, tensor in tensors.items()}, plain


def of_8_bits(kind, strategy, layout):
    weights = {"num_bits": 8, "type": kind, "symmetric": True, "strategy": strategy}
    weights |= {"group_size": 32} if strategy == "group" else {}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": {"num_bits": 8, "dynamic": True}}}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": groups, "ignore": ["lm_head"]}


# name -> quantize, config, whether it can stay
PLAIN_FORMATS = {
    "fp8": (float8, {"quant_method": "fp8", "weight_block_size": [16, 64], "activation_scheme": "dynamic"}, False),
    "fp8-tensor": (float8_of_tensor, {"quant_method": "fp8", "activation_scheme": "static"}, True),
    "fbgemm": (float8_of_rows, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, True),
    "float-tensor": (float8_of_tensor, of_8_bits("float", "tensor", "float-quantized"), True),
    "float-channel": (float8_of_rows, of_8_bits("float", "channel", "float-quantized"), True),
    "float-group": (float8_of_groups, of_8_bits("float", "group", "float-quantized"), True),
    "int-tensor": (int8_of_tensor, of_8_bits("int", "tensor", "int-quantized"), True),
    "w8a8": (int8, of_8_bits("int", "channel", "int-quantized"), True),
    "llm-int8": (llm_int8, {"quant_method": "bitsandbytes", "load_in_8bit": True}, False),
    "nf4": (nf4, {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, False),
}


def write_plain(tiny, directory, name):
    """`write` of a format whose numbers lie where the weight did."""
    quantize, config, _ = PLAIN_FORMATS[name]
    plain, stored = {}, {}
    for tensor, values in safetensors.torch.load_file(tiny / "model.safetensors").items():
        plain[tensor] = stored[tensor] = values
        if tensor.endswith("proj.weight"):
            del stored[tensor]
            tensors, plain[tensor] = quantize(tensor.removesuffix(".weight"), values)
            stored |= tensors
    for folder, tensors, quantization in ((directory / "plain", plain, None), (directory / name, stored, config)):
        save_checkpoint(tiny, folder, tensors, quantization)
    return directory / name, directory / "plain"


def save_checkpoint(tiny, folder, tensors, quantization):
    shutil.copytree(tiny, folder)
    safetensors.torch.save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
    about = json.loads((folder / "config.json").read_text())
    if quantization is not None:
        about["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(about))


@pytest.mark.parametrize("name", PLAIN_FORMATS)
def test_numbers_in_the_weights_own_place_compute_what_they_say(tiny_model, tmp_path, name):
    path, plain = write_plain(tiny_model("llama"), tmp_path, name)
    expected, whole = logits(plain, keep=False)
    found, _ = logits(path, keep=False)
    assert torch.equal(found, expected)  # dequantized, to the bit
    kept, model = logits(path, keep=True)
    assert relative_error(kept, expected) <= 1e-5
    assert (model.weight_bytes < whole.weight_bytes / 2) == PLAIN_FORMATS[name][2]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A tiny Qwen3-MoE, with a tensor for each expert."""
    import transformers as tf

    sizes = {"vocab_size": 384, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 16, "num_experts_per_tok": 2}
    torch.manual_seed(1)
    model = tf.Qwen3MoeForCausalLM(tf.Qwen3MoeConfig(**sizes, moe_intermediate_size=64, initializer_range=0.2))
    model.save_pretrained(tmp_path_factory.mktemp("mixture"))
    return tmp_path_factory.getbasetemp() / "mixture0"


@pytest.mark.parametrize("name", ["fp8", "w8a8", "gptq", "compressed"])
def test_experts_compute_what_their_numbers_say(mixture, tmp_path, name):
    path, plain = (write if name in FORMATS else write_plain)(mixture, tmp_path, name)
    expected, _ = logits(plain, keep=False)
    for keep in (False, True):
        found, model = logits(path, keep)
        assert relative_error(found, expected) <= 1e-5
        experts = [weight for weight in model.program.weights() if weight.experts and weight.columns]
        kept = [model.weights.experts(weight).is_quantized for weight in experts]
        assert kept == [keep] * 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"quant_method": "hqq"}, "quant_method is 'hqq'; supported: gptq, awq, compressed-tensors, fp8, .*, mxfp4"),
        ({"quant_method": None}, "quant_method is None; supported"),
        ({"bits": 3}, "bits of gptq is 3; supported: 4 or 8"),
        ({"bits": True}, "bits of gptq is True"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format of gptq is 'marlin'; supported: gptq or gptq_v2"),
        ({"group_size": 16}, "group_size of gptq is 16; supported: multiples of 32"),
        ({"group_size": "many"}, "group_size of gptq is 'many'"),
        ({"dynamic": {"+:mlp": {"bits": 8}}}, "dynamic of gptq"),
        ({"modules_to_not_convert": "lm_head"}, "modules_to_not_convert of gptq is 'lm_head'"),
        ({"quant_method": "awq", "version": "gemv"}, "version of awq is 'gemv'; supported: gemm"),
        ({"quant_method": "awq", "bits": 8}, "bits of awq is 8"),
        ({"quant_method": "compressed-tensors"}, "config_groups of compressed-tensors is None; supported: groups"),
        (of_compressed(32) | {"format": "nvfp4-pack-quantized"}, "format of compressed-tensors is 'nvfp4-pack-quantized'"),
        (of_compressed(32) | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config of compressed-tensors"),
        (of_compressed(32) | {"transform_config": {"config_groups": {"R1": {}}}}, "transform_config of compressed-tensors"),
        (of_8_bits("float", "tensor", "pack-quantized"), "weights.type of compressed-tensors is 'float'"),
        (of_8_bits("float", "token", "float-quantized"), "weights.strategy of compressed-tensors is 'token'"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt of fp8 is 'e5m2'; supported: e4m3"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, r"weight_block_size of fp8 is \[128\]"),
        ({"quant_method": "fp8", "expert_dtype": "fp4"}, "expert_dtype of fp8 is 'fp4'"),
        ({"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "int4"}, "bnb_4bit_quant_type of bitsandbytes is 'int4'"),
    ],
)
def test_what_is_not_read_is_refused_by_its_key(tiny_model, tmp_path, changed, message):
    shutil.copytree(tiny_model("llama"), tmp_path / "it")
    about = json.loads((tmp_path / "it" / "config.json").read_text())
    about["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32} | changed
    (tmp_path / "it" / "config.json").write_text(json.dumps(about))
    with pytest.raises(ModelError, match=f"quantization_config.*{message}") as refused:
        resolve_model(str(tmp_path / "it"))
    assert len(str(refused.value).splitlines()) == 1
    assert "--model-impl transformers" in refused.value.hint


@pytest.mark.parametrize("name", ["fp8", "w8a8", "llm-int8", "nf4", "gptq", "awq", "compressed"])
def test_quantized_layers_that_the_config_does_not_name_are_refused_as_such(tiny_model, tmp_path, name):
    path, plain = (write if name in FORMATS else write_plain)(tiny_model("llama"), tmp_path, name)
    shutil.copy(plain / "config.json", path / "config.json")
    with pytest.raises(ModelError, match="does not belong to the architecture") as refused:
        load_model(resolve_model(str(path)), "float32", 64)
    assert "quantization_config" in refused.value.hint


def test_old_gptq_checkpoints_have_the_config_in_a_file_of_its_own(tiny_model, tmp_path):
    path, plain = write(tiny_model("llama"), tmp_path, "gptq")
    about = json.loads((path / "config.json").read_text())
    (path / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 32, "desc_act": False}))
    del about["quantization_config"]
    (path / "config.json").write_text(json.dumps(about))
    assert relative_error(logits(path, keep=False)[0], logits(plain, keep=False)[0]) <= 1e-5


def test_layers_of_another_shape_than_the_config_says_are_refused(tiny_model, tmp_path):
    path, _ = write(tiny_model("llama"), tmp_path, "awq")
    about = json.loads((path / "config.json").read_text())
    about["quantization_config"]["group_size"] = 64
    (path / "config.json").write_text(json.dumps(about))
    with pytest.raises(ModelError, match="not packed as quantization_config says"):
        load_model(resolve_model(str(path)), "float32", 64)
