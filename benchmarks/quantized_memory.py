"""Memory and start of a model whose weights stay quantized: random numbers in Llama-3-8B's shape and Q4_K_M's mix of types.

    python benchmarks/quantized_memory.py --folder /var/tmp --save      # writes a file of 4.6 GiB there, and removes it

A process of its own loads the file and generates a few tokens with a small KV cache: the most memory it ever had resident,
pages of the file included, and the seconds until the engine stood.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import results_file

LAYERS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCABULARY = 32, 4096, 14336, 32, 8, 128256
KV_MEMORY = 64 * 2**20
CHUNK = 64 * 2**20  # bytes of random numbers, repeated
F32, Q4_K, Q6_K = (gguf.GGMLQuantizationType[name] for name in ("F32", "Q4_K", "Q6_K"))
HALVES = {Q4_K: (0, 2), Q6_K: (208,)}  # where in a block


def more_bits(layer: int) -> bool:
    """llama.cpp's use_more_bits: the layers whose V and down projection Q4_K_M has in Q6_K."""
    return layer < LAYERS // 8 or layer >= 7 * LAYERS // 8 or (layer - LAYERS // 8) % 3 == 2


def tensors() -> Iterator[tuple[str, tuple[int, ...], gguf.GGMLQuantizationType]]:
    yield "token_embd.weight", (VOCABULARY, HIDDEN), Q4_K
    yield "output.weight", (VOCABULARY, HIDDEN), Q6_K
    yield "output_norm.weight", (HIDDEN,), F32
    kv_width = HIDDEN // HEADS * KV_HEADS
    for layer in range(LAYERS):
        better = Q6_K if more_bits(layer) else Q4_K
        for name, shape, kind in (
            ("attn_norm", (HIDDEN,), F32),
            ("ffn_norm", (HIDDEN,), F32),
            ("attn_q", (HIDDEN, HIDDEN), Q4_K),
            ("attn_k", (kv_width, HIDDEN), Q4_K),
            ("attn_v", (kv_width, HIDDEN), better),
            ("attn_output", (HIDDEN, HIDDEN), Q4_K),
            ("ffn_gate", (INTERMEDIATE, HIDDEN), Q4_K),
            ("ffn_up", (INTERMEDIATE, HIDDEN), Q4_K),
            ("ffn_down", (HIDDEN, INTERMEDIATE), better),
        ):
            yield f"blk.{layer}.{name}.weight", shape, kind


def blocks(kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """Some CHUNK bytes of blocks: any numbers, scales of 1e-5 to 1e-4."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    generator = np.random.Generator(np.random.PCG64(0))
    found = generator.integers(0, 256, (CHUNK // size, size), dtype=np.uint8)
    for first in HALVES[kind]:
        halves = generator.uniform(1e-5, 1e-4, len(found)).astype(np.float16)
        found[:, first : first + 2] = halves.view(np.uint8).reshape(-1, 2)
    return found.reshape(-1)


def write(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(8192)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "ab", *(f"token{n}" for n in range(3, VOCABULARY))])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges(["a b"])
    random = {kind: blocks(kind) for kind in HALVES}
    sizes = {}
    for name, shape, kind in tensors():
        columns, size = gguf.GGML_QUANT_SIZES[kind]
        sizes[name] = int(np.prod(shape)) // columns * size
        stored = (*shape[:-1], shape[-1] // columns * size) if kind in HALVES else shape
        writer.add_tensor_info(name, stored, np.dtype(np.uint8 if kind in HALVES else np.float32), sizes[name], kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    alignment = gguf.GGUF_DEFAULT_ALIGNMENT
    with open(path, "ab") as file:
        file.write(bytes(-file.tell() % alignment))
        for name, shape, kind in tensors():
            if kind in HALVES:
                for left in range(sizes[name], 0, -len(random[kind])):
                    file.write(random[kind][:left].data)
            else:
                file.write(np.ones(shape, np.float32).tobytes())
            file.write(bytes(-file.tell() % alignment))


def load_and_generate(path: str) -> dict[str, float]:
    """In a process of its own."""
    from pagecli.core.engine_config import EngineConfig
    from pagecli.core.sampling_params import SamplingParams
    from pagecli.engine.engine import Engine

    start = time.perf_counter()
    engine = Engine(EngineConfig(path, quantization="keep", kv_memory_bytes=KV_MEMORY, max_num_seqs=4, max_model_len=256))
    loaded = time.perf_counter()
    for row in range(2):
        engine.add_request(row, list(range(5, 25)), SamplingParams(max_tokens=8, ignore_eos=True))
    num_tokens = 0
    while engine.has_unfinished():
        num_tokens += sum(len(done.sequences[0].token_ids) for done in engine.step())
    assert num_tokens == 16
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    took = time.perf_counter() - loaded
    return {"peak_bytes": peak, "weight_bytes": engine.stats()["weight_bytes"], "load_s": loaded - start, "generate_s": took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where 4.6 GiB can be written")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load_and_generate(args.load)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "llama-8b-Q4_K_M.gguf"
        write(path)
        size = path.stat().st_size
        done = subprocess.run([sys.executable, __file__, "--load", path], check=True, stdout=subprocess.PIPE, text=True)
    result = {"file_bytes": size, "kv_bytes": KV_MEMORY} | json.loads(done.stdout.splitlines()[-1])
    gib = {name: f"{result[name] / 2**30:.2f} GiB" for name in ("file_bytes", "weight_bytes", "peak_bytes")}
    print(f"file {gib['file_bytes']}, weights {gib['weight_bytes']}, most resident {gib['peak_bytes']}", end="; ")
    print(f"loaded in {result['load_s']:.1f} s")
    if args.save:
        print(results_file.save("quantized-memory-8b-q4_k_m", "python benchmarks/quantized_memory.py --save", result))


if __name__ == "__main__":
    main()
