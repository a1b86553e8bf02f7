"""The settings an engine is built from: resolved once, then frozen."""

from dataclasses import dataclass
from typing import Literal, get_args

from pagecli.core.dtypes import KV_DTYPE, QUANTIZED_DTYPES
from pagecli.errors import UsageError

MAX_BLOCK_SIZE = 256
MAX_SPECULATE = 64
MAX_ROWS_KEPT = 6  # in a step, to which weights that stay quantized are faster than bfloat16 pairs: a tile of the kernels
PAIR_ISAS = ("avx512bf16", "neon_bf16")  # whose kernels make pairs of bfloat16 of quantized weights in registers
MAX_UNEVEN = 0.2  # of kept numbers, which take 1.4 times as long as bfloat16's where the others take 0.9 times
Speculate = int | Literal["auto"]  # tokens guessed at a time
KVPolicy = Literal["paged", "reserve-max", "reserve-pow2", "reserve-oracle"]  # engine/scheduling/reservations.py
KV_POLICIES: tuple[KVPolicy, ...] = get_args(KVPolicy)
Quantization = Literal["auto", "keep", "dequantize"]
Batching = Literal["continuous", "static", "none"]  # engine/scheduling/scheduler.py
_LEAST = {
    **dict.fromkeys(("block_size", "kv_memory_bytes", "max_num_seqs", "max_batch_tokens", "threads"), 1),
    "max_model_len": 2,
    "tensor_parallel_size": 1,
    "sum_segments": 1,
}


def is_faster_kept(dtype: str, max_num_seqs: int, isa: str, uneven: float) -> bool:
    """Whether a CPU computes faster with weights that stay quantized, multiplied as `dtype`, than with dequantized ones.

    From some rows on looking numbers up, scaling and rounding them takes longer than reading bfloat16 does: without
    instructions for bfloat16 from the second, of some of 4 bits from the third; there from the first of those without even
    steps (IQ4_NL, 5 and 6 bits: 0.62 to 0.80 of bfloat16's speed), `uneven` of all. With AMX, which takes several rows of
    weights that are unpacked in memory, from the second (benchmarks/quantized_weights.py).
    """
    if dtype != "bfloat16":
        return dtype == "float32"
    return max_num_seqs <= MAX_ROWS_KEPT if isa in PAIR_ISAS else max_num_seqs == 1 and uneven <= MAX_UNEVEN


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of one engine; None and "auto" are resolved when the model is known. Raises UsageError if out of range."""

    model: str
    load_format: Literal["auto", "dummy"] = "auto"
    merge_lora: str | None = None  # directory of a LoRA adapter, merged into the weights at load
    loras: tuple[tuple[str, str], ...] = ()  # LoRA adapters that requests choose by name: (name, directory)
    device: str = "cpu"  # a name of devices/base.py, or auto: the GPU where one can be used
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "int8-a16", "fp8"] = "auto"
    kv_dtype: Literal["auto", "float32", "bfloat16", "int8", "fp8"] = "auto"  # of the KV cache; auto goes with the weights
    quantization: Quantization = "auto"  # of a quantized checkpoint's weights; auto: kept where faster
    block_size: int = 16  # KV slots in a block
    kv_memory_bytes: int | None = None  # None: from the memory that is free after the weights
    max_num_seqs: int = 128  # sequences in a step
    max_batch_tokens: int = 512  # tokens in a step, prefill and decode together
    max_model_len: int | None = None  # prompt and output of a request; None: the model's own limit
    threads: int | None = None  # None: the cores this process may use
    prefix_caching: bool = True  # share blocks between requests that begin alike
    preemption: Literal["recompute", "swap"] = "recompute"
    kv_policy: KVPolicy = "paged"  # or contiguous memory reserved at a request's start, as older systems did it
    batching: Batching = "continuous"
    swap_memory_bytes: int = 0  # where swapped-out blocks go; preemption recomputes what does not fit
    reasoning: str = "auto"  # the markers around a model's reasoning: auto, none, or a tag as think
    cuda_graphs: bool = True  # on a GPU: repeat steps that only decode from a recording
    speculate: Speculate = "auto"  # where few sequences run, tokens guessed from a row's own text and verified; 0: none
    tensor_parallel_size: int = 1  # processes that share the model, each with a shard of it
    sum_segments: int | None = None  # sums over features in so many parts; None: as many as processes
    worker_timeout: float = 60.0  # seconds without an answer, after which a process is lost
    check_integrity: bool = False  # after every step, for tests

    @property
    def num_segments(self) -> int:
        """Partial sums that a product which ranks share consists of, whether they do or one process computes them all."""
        return self.sum_segments or self.tensor_parallel_size

    def kv_dtype_beside(self, dtype: str) -> str:
        """The KV cache's dtype, resolved, with weights of `dtype`."""
        return KV_DTYPE[dtype] if self.kv_dtype == "auto" else self.kv_dtype

    def keeps_quantized(self, device: str, dtype: str) -> bool:
        """Whether weights that are quantized in the checkpoint shall stay so. Raises UsageError where they cannot."""
        computed = device == "cpu" and dtype in QUANTIZED_DTYPES
        if self.quantization == "keep" and not computed:
            what = f"--dtype {dtype}" if device == "cpu" else f"--device {device}"
            raise UsageError(
                f"--quantization keep with {what}", f"use --device cpu and --dtype {' or '.join(QUANTIZED_DTYPES)}"
            )
        return self.quantization == "keep"

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}", f"{name} must be at least {least}")
        if self.preemption == "swap" and self.swap_memory_bytes <= 0:
            raise UsageError("preemption is swap without --swap-memory", "give --swap-memory, such as 1GiB")
        if self.preemption == "swap" and self.kv_policy != "paged":
            raise UsageError(
                f"kv_policy {self.kv_policy} never preempts", "leave out --preemption swap, or use --kv-policy paged"
            )
        if self.kv_dtype == "int8" and self.device == "cuda":
            raise UsageError("--kv-dtype int8 is for the CPU", "leave out --kv-dtype, or use --device cpu")
        if self.speculate != "auto" and not 0 <= self.speculate <= MAX_SPECULATE:
            raise UsageError(f"speculate is {self.speculate}", f"speculate must be auto, or in [0, {MAX_SPECULATE}]")
        if self.block_size > MAX_BLOCK_SIZE:
            raise UsageError(f"block_size is {self.block_size}", f"block_size must be at most {MAX_BLOCK_SIZE}")
        if self.max_batch_tokens < self.max_num_seqs:
            raise UsageError(
                f"max_batch_tokens is {self.max_batch_tokens}, less than max_num_seqs, {self.max_num_seqs}",
                "every running sequence decodes one token in a step: raise --max-batch-tokens or lower --max-num-seqs",
            )
