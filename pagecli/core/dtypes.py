"""Bytes and storage of each dtype name: of the weights, and of the KV cache that goes with them."""

from pagecli.errors import UsageError

DTYPES = ("float32", "bfloat16", "float16", "int8", "int8-a16", "fp8")
CPU_DTYPES = ("float32", "bfloat16", "int8", "int8-a16")
GPU_DTYPES = ("bfloat16", "float16", "float32", "fp8")

# In which weights that stay quantized are multiplied, on a CPU.
QUANTIZED_DTYPES = ("float32", "bfloat16")

# Bytes of a weight. int8: one byte, and for 64 of them a float scale. fp8: of those in 8 bits (devices/memory.bytes_each).
WEIGHT_BYTES: dict[str, float] = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int8": 1 + 4 / 64,
    "int8-a16": 1 + 4 / 64,
    "fp8": 1,
}

# How a job's identity names a dtype that gave other texts under the same name before: int8 had 15 bits of activations once.
IDENTITY_NAMES = {"int8": "int8, 8-bit activations"}

CPU_KV_DTYPES = ("float32", "bfloat16", "int8")
KV_DTYPES = (*CPU_KV_DTYPES, "fp8")
# Of a cache that goes with the weights.
KV_DTYPE = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "int8": "bfloat16",
    "int8-a16": "bfloat16",
    "fp8": "bfloat16",
}
KV_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "fp8": 1}  # of a number in the cache
KV_SCALE_BYTES = {"int8": 4}  # beside the numbers of a slot, for each KV head, K and V each


TORCH_NAMES = {"fp8": "float8_e4m3fn"}  # where torch has another name for it


def check_known(dtype: str) -> None:
    """Raises UsageError unless `dtype` is "auto" or one of DTYPES."""
    if dtype != "auto" and dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is unknown", f"use auto, {', '.join(DTYPES)}")
