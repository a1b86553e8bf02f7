"""Memory of a run: what there is, what a model asks for by its config alone, and how many KV blocks fit.

A plan and the check before weights are loaded use the same sums.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from pagecli.core.dtypes import KV_BYTES, KV_SCALE_BYTES, QUANTIZED_DTYPES, WEIGHT_BYTES
from pagecli.core.engine_config import EngineConfig, is_faster_kept
from pagecli.core.model_config import ModelConfig
from pagecli.devices import limits
from pagecli.devices.cpu.model import bounds_bytes, buffer_widths
from pagecli.errors import ModelError, UsageError
from pagecli.model.build_program import build
from pagecli.model.program import ExpertLinear, Linear, Program, Router, widths
from pagecli.model.shards import segment, shard
from pagecli.model.source import ADAPTER_FILES, ModelSource, QuantizedPart

TOKENS_EACH = 256  # of a sequence, for which quantized weights are dequantized only where their K and V have room, too
AUTO_SHARE = 0.6  # of the memory that is free after the weights; the rest is for activations, input, output and other processes


def available_bytes(root: Path = Path("/")) -> int:
    """Memory this process can still take: the machine's available memory, or less where a cgroup limits it."""
    meminfo = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
    available = int(meminfo["MemAvailable"].split()[0]) * 1024
    for limit_path, used_path in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            limit, used = (root / limit_path).read_text().strip(), (root / used_path).read_text().strip()
        except OSError:
            continue
        if limit.isdigit() and used.isdigit():
            available = min(available, max(0, int(limit) - int(used)))
    return available


def check_weights_fit(needed: int, name: str, available: int | None = None) -> None:
    """Raise ModelError, before anything is loaded, if the weights alone are more than the memory available."""
    available = available_bytes() if available is None else available
    if needed > available:
        raise ModelError(
            f"the weights of {name} take {needed / 2**30:.1f} GiB; {available / 2**30:.1f} GiB of memory are available",
            "use --dtype bfloat16 or int8, a smaller model or a larger machine",
        )


def kv_bytes_per_token(config: ModelConfig, dtype_bytes: int, scale_bytes: int = 0) -> int:
    """Bytes of K and V of one token in all layers; OPT-13B at 2 bytes: 2 x 40 x 5120 x 2 = 819,200 (Kwon et al., §3).

    scale_bytes: of a KV head's K, or V, of a token, beside its numbers.
    """
    return 2 * config.num_layers * config.num_kv_heads * (config.head_dim * dtype_bytes + scale_bytes)


def token_bytes(config: ModelConfig, kv_dtype: str) -> int:
    """Those bytes in a cache of `kv_dtype`, scales included."""
    return kv_bytes_per_token(config, KV_BYTES[kv_dtype], KV_SCALE_BYTES.get(kv_dtype, 0))


def block_bytes(config: ModelConfig, block_size: int, kv_dtype: str) -> int:
    """Bytes that one block of the KV cache takes over all layers, K and V; kv_dtype: one of KV_DTYPES, or float16."""
    return token_bytes(config, kv_dtype) * block_size


def num_swap_blocks(swap_memory_bytes: int, preemption: str, block_bytes: int) -> int:
    """Blocks of `block_bytes` for swapped-out K and V. Raises ModelError if swapping is asked for and not one fits."""
    if preemption == "swap" and swap_memory_bytes < block_bytes:
        raise ModelError(f"--swap-memory is less than one KV block of {block_bytes:,} bytes", "raise --swap-memory")
    return swap_memory_bytes // block_bytes


def most_useful_blocks(max_num_seqs: int, max_model_len: int, block_size: int) -> int:
    """KV blocks that so many sequences can fill."""
    return max_num_seqs * -(-max_model_len // block_size)


def num_kv_blocks(kv_memory_bytes: int | None, block_bytes: int, max_useful_blocks: int, available: int | None = None) -> int:
    """Blocks of `block_bytes` in `kv_memory_bytes` (None: AUTO_SHARE of what is available, and no more than could be used).

    `available`: by default, this machine's memory. Raises ModelError if that is not one block, or more than there is.
    """
    available = available_bytes() if available is None else available
    if kv_memory_bytes is None:
        num_blocks = min(int(available * AUTO_SHARE) // block_bytes, max_useful_blocks)
    else:
        num_blocks = kv_memory_bytes // block_bytes
        if num_blocks * block_bytes > available:
            raise ModelError(
                f"KV memory of {kv_memory_bytes / 2**30:.2f} GiB does not fit: {available / 2**30:.2f} GiB are available",
                f"use --kv-memory {max(1, int(available * AUTO_SHARE) // 2**20)}MiB, or auto",
            )
    if num_blocks < 1:
        given = "the memory available" if kv_memory_bytes is None else f"--kv-memory ({kv_memory_bytes:,} bytes)"
        raise ModelError(
            f"{given} is less than one KV block of {block_bytes:,} bytes", "raise --kv-memory or lower --block-size"
        )
    return num_blocks


FLOAT32_BYTES = 4
HOST_RUNTIME_BYTES = 150 * 2**20  # Python and its libraries with a tiny model: 123 MiB resident
SAMPLING_COPIES = 2  # of the logits: scaled by temperature, and their log probabilities


def bytes_each(config: ModelConfig, dtype: str) -> float:
    """Bytes of a weight of `dtype`, on average over the model's. fp8: of matrices in 8-bit floats one byte, and four for the
    scale of each row; of embeddings and the others those of bfloat16."""
    if dtype != "fp8":
        return WEIGHT_BYTES[dtype]
    program = build(config)
    linear = {operation.weight for operation in program.operations() if isinstance(operation, Linear | ExpertLinear)}
    saved = sum(
        weight.num_elements * (WEIGHT_BYTES["bfloat16"] - WEIGHT_BYTES["fp8"])
        - FLOAT32_BYTES * weight.num_rows * max(1, weight.experts)
        for weight in linear
        if limits.is_float8(weight)
    )
    return WEIGHT_BYTES["bfloat16"] - saved / program.num_parameters


def weight_bytes(config: ModelConfig, bytes_each: float) -> int:
    return int(build(config).num_parameters * bytes_each)


def weight_bytes_of(source: ModelSource, bytes_each: float) -> int:
    """The bytes of a model's weights as they are loaded: of `bytes_each` but for what stays quantized, and of adapters."""
    return bytes_beside(source.config, bytes_each, kept_of(source)) + adapter_bytes(source)


def bytes_of_rank(config: ModelConfig, weights: int, rank: int, num_ranks: int) -> int:
    """Of `weights` bytes of a model, what a rank has: its part of split matrices, and the others whole."""
    program = build(config)
    return round(weights * shard(segment(program, num_ranks), rank, num_ranks).num_parameters / program.num_parameters)


def kept_of(source: ModelSource) -> QuantizedPart | None:
    """The part of the weights that stays quantized in memory."""
    return source.quantized if source.keep_quantized else None


def adapter_bytes(source: ModelSource) -> int:
    """Of LoRA adapters that rows choose among, in float32. Raises ModelError."""
    if not source.adapters:
        return 0
    from pagecli.model.weights.safetensors_file import SafetensorsSource

    files = (SafetensorsSource(directory / ADAPTER_FILES[1]) for _, directory in source.adapters)
    return sum(FLOAT32_BYTES * math.prod(shape) for file in files for _, shape in file.headers()[0].values())


def bytes_beside(config: ModelConfig, bytes_each: float, kept: QuantizedPart | None) -> int:
    """The bytes of weights of which a part stays quantized."""
    total = weight_bytes(config, bytes_each)
    return total if kept is None else max(0, total - int(kept.num_elements * bytes_each)) + kept.num_bytes


def head_bounds_bytes(config: ModelConfig, bytes_each: float, kept: QuantizedPart | None = None) -> int:
    """The quantized upper bounds that the CPU's LM head keeps beside its weights; none where `kept` has those in fewer bits."""
    if kept is not None and kept.head_bits is not None and kept.head_bits < 8:
        return 0
    weight = build(config).head_weight
    return bounds_bytes(weight.num_rows, weight.columns, bytes_each)


def activation_bytes(config: ModelConfig, max_batch_tokens: int) -> int:
    """The buffers of a forward pass of so many tokens on a CPU, one for each value of the program."""
    return max_batch_tokens * sum(buffer_widths(build(config)).values()) * FLOAT32_BYTES


def gpu_activation_bytes(config: ModelConfig, max_batch_tokens: int, element_bytes: int) -> int:
    """The most that a forward pass of so many tokens takes at a time on a GPU, which frees each value after its last use."""
    from pagecli.devices.cuda.model.fused import fuse, peak_width

    program = build(config)
    columns = widths(program.operations())
    for name, count in _exact_columns(program).items():
        columns[name] = count * FLOAT32_BYTES // element_bytes
    if limits.missing_on_gpu(program):
        return max_batch_tokens * sum(columns.values()) * element_bytes
    return max_batch_tokens * peak_width(fuse(program), columns) * element_bytes


def _exact_columns(program: Program) -> dict[str, int]:
    """Columns of the values that have 32 bits on a GPU whatever the model's type; with a router's ids, what sorts its rows."""
    found: dict[str, int] = {}
    for operation in program.operations():
        match operation:
            case Linear(out=out, weight=weight) if weight.exact:
                found[out] = weight.num_rows
            case Router(ids=ids, weights=weights, chosen=chosen):
                found |= {ids: 3 * chosen, weights: chosen}
    return found


def gpu_logits_bytes(config: ModelConfig, max_num_seqs: int) -> int:
    """Logits in float32; tokens are chosen from them where they lie."""
    return max_num_seqs * config.vocab_size * FLOAT32_BYTES


def logits_bytes(config: ModelConfig, max_num_seqs: int) -> int:
    """Logits in float32 and the copies that sampling makes of them."""
    return max_num_seqs * config.vocab_size * FLOAT32_BYTES * (1 + SAMPLING_COPIES)


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """Memory of a run on this machine, in bytes, by part; `kv`: --kv-memory, 0 for auto."""

    weights: int
    activations: int
    logits: int
    kv: int
    swap: int = 0
    head_bounds: int = 0
    runtime: int = HOST_RUNTIME_BYTES

    @property
    def total(self) -> int:
        return self.weights + self.head_bounds + self.activations + self.logits + self.kv + self.swap + self.runtime

    def describe(self) -> str:
        """The sum in words, parts under 50 MiB left out."""
        parts = {
            "weights": self.weights,
            "bounds of the LM head": self.head_bounds,
            "KV cache": self.kv,
            "swap": self.swap,
            "activations": self.activations,
            "logits and sampling": self.logits,
            "Python and libraries": self.runtime,
        }
        return " + ".join(f"{name} {_gib(size)}" for name, size in parts.items() if size >= 50 * 2**20)

    def check_fit(self, name: str, available: int, dtype_bytes: float, kept_weights: int | None = None) -> None:
        """Raises ModelError with the sum, and the largest KV cache that fits or another remedy, unless it fits.

        `kept_weights`: the weights' bytes if they stayed quantized, which they do not.
        """
        if self.total <= available:
            return
        room = available - (self.total - self.kv)
        if self.kv and room >= 2**20:
            hint = f"the largest that fits is --kv-memory {room // 2**20}MiB"
        elif self.swap and room + self.swap >= 2**20:
            hint = f"the largest that fits is --swap-memory {(room + self.swap) // 2**20}MiB"
        elif kept_weights is not None and self.total - self.weights + kept_weights <= available:
            hint = "use --quantization keep"
        elif dtype_bytes > 2 and self.weights // 2 + self.runtime <= available:
            hint = "use --dtype bfloat16, or int8"
        else:
            hint = "use a smaller model or a larger machine; pagecli profile shows which fits"
        total = _gib(self.total)
        raise ModelError(f"{name} does not fit: {self.describe()} = {total}; {_gib(available)} of memory are available", hint)


def needs_of(source: ModelSource, dtype: str, max_num_seqs: int, max_batch_tokens: int, kv: int) -> MemoryNeeds:
    """What a run on a CPU needs beside swap, with so much of the KV cache."""
    each, model = WEIGHT_BYTES[dtype], source.config
    return MemoryNeeds(
        weights=weight_bytes_of(source, each),
        head_bounds=head_bounds_bytes(model, each, kept_of(source)),
        activations=activation_bytes(model, max_batch_tokens),
        logits=logits_bytes(model, max_num_seqs),
        kv=kv,
    )


def _has_room_dequantized(source: ModelSource, config: EngineConfig, dtype: str, available: int) -> bool:
    """Whether weights of `dtype`, none of them quantized, fit a CPU's memory beside the KV cache: --kv-memory or, if it is not
    given, TOKENS_EACH tokens of max_num_seqs sequences."""
    kv, model = config.kv_memory_bytes, source.config
    if kv is None:
        size = min(TOKENS_EACH, model.max_positions)
        kv = block_bytes(model, size, config.kv_dtype_beside(dtype)) * config.max_num_seqs
    return needs_of(source, dtype, config.max_num_seqs, config.max_batch_tokens, kv).total <= available


def with_quantization(
    source: ModelSource, config: EngineConfig, device: str, dtype: str, available: int, isa: str
) -> ModelSource:
    """The source that says whether quantized weights stay so: where `config` does, or with auto where that is faster or
    `available` bytes have no room for dequantized ones. With an adapter merged into them they cannot.

    `isa`: the CPU kernels' instruction set. Raises UsageError where they shall and cannot.
    """
    if source.merged_adapter is not None:
        if config.quantization == "keep":
            hint = "weights that stay quantized take adapters beside them: --lora NAME=DIR"
            raise UsageError("--quantization keep with --merge-lora", hint)
        return source
    if config.keeps_quantized(device, dtype):
        return replace(source, keep_quantized=True)
    if config.quantization != "auto" or source.quantized is None or device != "cpu" or dtype not in QUANTIZED_DTYPES:
        return source
    uneven = source.quantized.num_uneven / source.quantized.num_elements
    if is_faster_kept(dtype, config.max_num_seqs, isa, uneven):
        return replace(source, keep_quantized=True)
    if _has_room_dequantized(source, config, dtype, available):
        return source
    weights = weight_bytes(source.config, WEIGHT_BYTES[dtype])
    note = (
        f"{source.name}: weights stay quantized; as {dtype} they take {_gib(weights)}, which leaves too little of the "
        f"{_gib(available)} available (--quantization dequantize)"
    )
    return replace(source, keep_quantized=True, notes=(*source.notes, note))


def check_fits(config: EngineConfig, source: ModelSource, dtype: str, num_engines: int = 1) -> None:
    """Raises ModelError with the sum, and the largest value that fits, if what `config` asks for on the CPU is more than is
    available. `source` and `dtype`: the model and the weights' dtype that it resolves to.

    Of several engines each has its part of what is available.
    A GPU's memory is divided when it is there (devices/cuda/steps/startup.py).
    """
    dtype_bytes, asked = WEIGHT_BYTES[dtype], (config.max_num_seqs, config.max_batch_tokens, config.kv_memory_bytes or 0)
    needs = replace(needs_of(source, dtype, *asked), swap=config.swap_memory_bytes)
    kept = None if source.keep_quantized or source.quantized is None else replace(source, keep_quantized=True)
    kept_weights = None if kept is None else weight_bytes_of(kept, dtype_bytes)
    needs.check_fit(source.name, available_bytes() // num_engines, dtype_bytes, kept_weights)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
