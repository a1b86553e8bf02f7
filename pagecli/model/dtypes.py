"""What a dtype by name means in memory: of the weights, and of the KV cache that goes with them."""

DTYPES = ("float32", "bfloat16", "int8")

# Bytes of a weight. int8: one byte, and for 64 of them a float scale.
WEIGHT_BYTES: dict[str, float] = {"float32": 4, "bfloat16": 2, "int8": 1 + 4 / 64}

KV_DTYPE = {"float32": "float32", "bfloat16": "bfloat16", "int8": "bfloat16"}
KV_BYTES = {"float32": 4, "bfloat16": 2, "int8": 2}
