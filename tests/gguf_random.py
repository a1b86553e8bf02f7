"""Random blocks of GGUF's quantized types."""

import gguf
import numpy as np

# Where in a block its halves are, of every type that can stay quantized in memory.
HALVES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "IQ4_NL": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_XS": (0,),
    "MXFP4": (),
}
EXPONENTS = {"MXFP4": 0}


def blocks(kind: str, seed: int, rows: int, cols: int, size: float = 0.05) -> np.ndarray:
    """[rows, bytes] of a matrix of as many columns, rounded up to whole blocks: any bits but for the halves, which are about
    `size`."""
    block, num_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    generator = np.random.Generator(np.random.PCG64(seed))
    found = generator.integers(0, 256, (rows, -(-cols // block), num_bytes), dtype=np.uint8)
    for first in HALVES[kind]:
        halves = generator.normal(0, size, found.shape[:2]).astype(np.float16)
        found[..., first : first + 2] = halves.view(np.uint8).reshape(*found.shape[:2], 2)
    if kind in EXPONENTS:
        found[..., EXPONENTS[kind]] = generator.integers(115, 126, found.shape[:2], dtype=np.uint8)
    return found.reshape(rows, -1)
