"""Writes the files beside it: a layer each, quantized and dequantized by the library that defines its format.

    python make.py    where compressed-tensors 0.20.1, bitsandbytes 0.50.2 and transformers 5.24 are installed

X.* are the tensors of the layer X; "expected" is the matrix in float32; the metadata has its quantization_config.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
SHAPE = (16, 128)


def weight() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)) * 0.05


def write(name, config, tensors, expected):
    tensors = {f"X.{key}": value.contiguous() for key, value in tensors.items()} | {"expected": expected.float().contiguous()}
    save_file(tensors, HERE / f"{name}.safetensors", {"quantization_config": json.dumps(config)})


def compressed_tensors(name, kind, scheme, scale_dtype=torch.float32):
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(**scheme)
    whole = QuantizationScheme(targets=["Linear"], weights=args)
    values, rows, columns = weight(), *SHAPE
    if args.strategy == "block":
        block = args.block_structure
        padded = torch.nn.functional.pad(values, (0, -columns % block[1], 0, -rows % block[0]))
        blocks = padded.view(padded.shape[0] // block[0], block[0], -1, block[1])
        low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
    else:
        groups = {"tensor": values.view(1, 1, -1), "channel": values.view(rows, 1, -1)}
        grouped = groups[args.strategy] if args.strategy in groups else values.view(rows, -1, args.group_size)
        low, high = grouped.amin(-1), grouped.amax(-1)
    scale, zero = calculate_qparams(low, high, args)
    if args.strategy == "tensor":
        scale, zero = scale.view(1), zero.view(1)
    compressor = BaseCompressor.get_value_from_registry(kind)
    state = {"weight": values, "weight_scale": scale.to(scale_dtype), "weight_zero_point": zero}
    packed = compressor.compress(state, whole)
    expected = compressor.decompress(
        {key: value.float() if key == "weight_scale" else value for key, value in packed.items()}, whole
    )
    groups = {"group_0": {"targets": ["Linear"], "weights": json.loads(args.model_dump_json()), "input_activations": None}}
    config = {"quant_method": "compressed-tensors", "format": kind, "config_groups": groups, "ignore": ["lm_head"]}
    write(name, config, packed, expected["weight"])


def fp8_blocks():
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    blocks = weight().view(2, 8, 4, 32)
    scale = blocks.abs().amax((1, 3)) / 448
    q = (blocks / scale[:, None, :, None]).view(SHAPE).to(torch.float8_e4m3fn)
    expected = Fp8Dequantize(None)._dequantize_one(q, scale, torch.float32)
    config = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [8, 32]}
    write("fp8-blocks", config, {"weight": q, "weight_scale_inv": scale}, expected)


def mxfp4():
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(5)
    blocks = torch.randint(0, 256, (2, 16, 4, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(110, 126, (2, 16, 4), dtype=torch.uint8, generator=generator)
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)  # [experts, inputs, outputs]
    tensors = {"X_blocks": blocks, "X_scales": scales, "expected": expected.contiguous()}
    save_file(tensors, HERE / "mxfp4.safetensors", {"quantization_config": json.dumps({"quant_method": "mxfp4"})})


def bitsandbytes(name, kind, double):
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(weight(), blocksize=64, compress_statistics=double, quant_type=kind)
    expected = functional.dequantize_4bit(packed, state)
    tensors = {"weight": packed} | {f"weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    write(name, config | {"bnb_4bit_use_double_quant": double}, tensors, expected)


def llm_int8():
    from bitsandbytes import functional

    q, scale, _ = functional.int8_vectorwise_quant(weight().half())
    expected = functional.int8_vectorwise_dequant(q, scale)
    config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    write("llm-int8", config, {"weight": q, "SCB": scale, "weight_format": torch.tensor(0, dtype=torch.uint8)}, expected)


if __name__ == "__main__":
    float8, int4, int8 = ({"num_bits": bits, "type": kind} for bits, kind in ((8, "float"), (4, "int"), (8, "int")))
    group = {"strategy": "group", "group_size": 32}
    compressed_tensors("float-tensor", "float-quantized", float8 | {"strategy": "tensor"})
    compressed_tensors("float-channel", "float-quantized", float8 | {"strategy": "channel"}, torch.bfloat16)
    compressed_tensors("float-block", "float-quantized", float8 | {"strategy": "block", "block_structure": [12, 96]})
    compressed_tensors("int8-channel", "int-quantized", int8 | {"strategy": "channel"}, torch.bfloat16)
    compressed_tensors("int8-asymmetric", "int-quantized", int8 | {"strategy": "channel", "symmetric": False})
    compressed_tensors("int8-group", "int-quantized", int8 | group)
    compressed_tensors("packed-4", "pack-quantized", int4 | group, torch.bfloat16)
    compressed_tensors("packed-4-asymmetric", "pack-quantized", int4 | group | {"symmetric": False}, torch.bfloat16)
    compressed_tensors("packed-8", "pack-quantized", int8 | {"strategy": "channel"}, torch.bfloat16)
    fp8_blocks()
    mxfp4()
    bitsandbytes("nf4", "nf4", double=False)
    bitsandbytes("nf4-double", "nf4", double=True)
    bitsandbytes("fp4-double", "fp4", double=True)
    llm_int8()
