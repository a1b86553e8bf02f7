"""Whether vLLM starts with given flags, and how long a request it then takes: its rule, that of its V1 engine.

    KV memory of a GPU = gpu_memory_utilization x its memory - weights - peak of one profiled step - memory outside of torch
    the peak = the larger of   2 x T x (3 x intermediate + 4.25 x hidden) bytes     (a forward pass of T tokens)
                        and    15 x S x vocabulary + 2 x T x hidden bytes           (a choice of S tokens: their logits in
                                                                                     float32, sorted, with their positions)
T is max_num_batched_tokens, S max_num_seqs; weights and the numbers of the cache are vllm_model.py's. It starts if one request
of max_model_len fits the KV memory. A layer with a sliding window keeps the window and the tokens of a step.

The constants are fitted to what vLLM 0.19.0 printed on an H100 (llm-d-incubation/llm-d-planner, docs/accuracy): peaks of
Llama-3.1-8B 1.89 GiB, Qwen2.5-7B 2.21, phi-4 1.52, granite-3.1-2b 0.75, CodeLlama-7b 0.77, granite-3.1-8b 0.85; outside of
torch 0.25 GiB, and 2.1 GiB where GPUs are joined (on A100s 0.6). Experts are counted as an MLP:
Qwen3-30B-A3B's peak was 0.5 GiB above this. Logs of other machines hold the rule to it (tests/profiler/test_vllm_plan.py).
"""

from dataclasses import dataclass, replace
from functools import cached_property

from pagecli.core.dtypes import WEIGHT_BYTES
from pagecli.profiler.plan.gpus import Device
from pagecli.profiler.plan.plan import PLAN_KV_BYTES
from pagecli.profiler.plan.vllm_model import VllmModel

GIB = 2**30
LARGE_GPU = 70 * GIB  # from that on, but for A100s, a step has more tokens and sequences unless flags say
ALONE_BYTES, JOINED_BYTES, JOINED_LARGE_BYTES = int(0.25 * GIB), int(0.6 * GIB), int(2.1 * GIB)  # outside of torch
MOST_UTILIZATION = 0.97  # above it, a desktop or the driver is in the way


@dataclass(frozen=True, slots=True)
class VllmFlags:
    """vLLM's flags of the same names, dashes for underscores. None: vLLM's default."""

    gpu_memory_utilization: float = 0.9
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    dtype: str = "bfloat16"
    kv_cache_dtype: str = "auto"  # or fp8
    tensor_parallel_size: int = 1
    block_size: int = 16


@dataclass(frozen=True)
class VllmPlan:
    """One start of vLLM. All bytes are of one GPU."""

    model: VllmModel
    device: Device
    flags: VllmFlags

    @property
    def max_model_len(self) -> int:
        return self.flags.max_model_len or self.model.max_positions

    @property
    def _is_large(self) -> bool:
        return self.device.memory_bytes >= LARGE_GPU and not self.device.name.startswith("a100")

    @property
    def max_num_seqs(self) -> int:
        return self.flags.max_num_seqs or (1024 if self._is_large else 256)

    @property
    def max_num_batched_tokens(self) -> int:
        return self.flags.max_num_batched_tokens or (8192 if self._is_large else 2048)

    @property
    def usable_bytes(self) -> int:
        return int(self.flags.gpu_memory_utilization * self.device.memory_bytes)

    @cached_property
    def weights_bytes(self) -> int:
        return self.model.weights.bytes_on_each(WEIGHT_BYTES[self.flags.dtype], self.flags.tensor_parallel_size)

    @property
    def peak_bytes(self) -> int:
        """Of the step that vLLM runs to measure it; several GPUs share its matrices, but each chooses all tokens."""
        model, tokens = self.model, self.max_num_batched_tokens
        element = WEIGHT_BYTES[self.flags.dtype]
        inner = 3 * model.intermediate_size / self.flags.tensor_parallel_size
        forward = element * tokens * (inner + 4.25 * model.hidden_size)
        choice = 15 * self.max_num_seqs * model.vocab_size + element * tokens * model.hidden_size
        return int(max(forward, choice))

    @property
    def outside_bytes(self) -> int:
        if self.flags.tensor_parallel_size == 1:
            return ALONE_BYTES
        return JOINED_LARGE_BYTES if self._is_large else JOINED_BYTES

    @property
    def kv_memory_bytes(self) -> int:
        """Below zero where weights and step alone are too much."""
        return self.usable_bytes - self.weights_bytes - self.peak_bytes - self.outside_bytes

    @cached_property
    def block_bytes(self) -> int:
        """Of a block of one layer. More GPUs than KV heads: each has a copy of one; of latent attention each has all."""
        kv_dtype = self.flags.dtype if self.flags.kv_cache_dtype == "auto" else self.flags.kv_cache_dtype
        heads = max(1, self.model.num_kv_heads // self.flags.tensor_parallel_size)
        return int(heads * self.model.kv_width * PLAN_KV_BYTES[kv_dtype]) * self.flags.block_size

    def request_bytes(self, num_tokens: int) -> int:
        """Of a request of so many tokens at its end."""
        blocks = 0
        for layer in range(self.model.num_layers):
            window = self.model.window(layer)
            if window and window + self.max_num_batched_tokens < num_tokens:
                blocks += -(-(window - 1 + self.max_num_batched_tokens) // self.flags.block_size) + 1
            else:
                blocks += -(-num_tokens // self.flags.block_size)
        return blocks * self.block_bytes

    @property
    def max_concurrency(self) -> float:
        """How many requests of max_model_len fit at a time."""
        return max(0, self.kv_memory_bytes) / self.request_bytes(self.max_model_len)

    @property
    def kv_tokens(self) -> int:
        """What vLLM prints as the size of its KV cache: whole blocks where every layer keeps all tokens."""
        if not any(self.model.layer_windows):
            block = self.block_bytes * self.model.num_layers
            return max(0, self.kv_memory_bytes) // block * self.flags.block_size
        return int(self.max_concurrency * self.max_model_len)

    @property
    def starts(self) -> bool:
        return self.kv_memory_bytes > 0 and self.request_bytes(self.max_model_len) <= self.kv_memory_bytes

    def longest(self) -> int:
        """The largest max_model_len that starts, in whole blocks, not above the model's; 0: none does."""
        size = self.flags.block_size
        low, high = 0, self.model.max_positions // size
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.request_bytes(middle * size) <= self.kv_memory_bytes
            low, high = (middle, high) if fits else (low, middle - 1)
        return low * size

    def with_flags(self, **changed: object) -> "VllmPlan":
        return VllmPlan(self.model, self.device, replace(self.flags, **changed))  # type: ignore[arg-type]

    def changes(self) -> "list[tuple[str, VllmPlan]]":
        """What would make it start, the smallest change first: (the flag as it is written, the plan with it)."""
        wanted: list[tuple[str, VllmPlan]] = []
        if longest := self.longest():
            wanted.append((f"--max-model-len {longest}", self.with_flags(max_model_len=longest)))
        missing = self.request_bytes(self.max_model_len) - self.kv_memory_bytes
        share = -int(-(self.usable_bytes + missing) / self.device.memory_bytes * 100 // 1) / 100
        if share <= MOST_UTILIZATION:
            wanted.append((f"--gpu-memory-utilization {share:g}", self.with_flags(gpu_memory_utilization=share)))
        if self.flags.kv_cache_dtype == "auto" and self.flags.dtype != "float32":
            wanted.append(("--kv-cache-dtype fp8", self.with_flags(kv_cache_dtype="fp8")))
        for size in (2, 4, 8):
            if size > self.flags.tensor_parallel_size and self.model.num_heads % size == 0:
                wanted.append((f"--tensor-parallel-size {size}", self.with_flags(tensor_parallel_size=size)))
        found = [(flag, plan) for flag, plan in wanted if plan.starts]
        joined = [flag for flag, _ in found if flag.startswith("--tensor")]
        return [(flag, plan) for flag, plan in found if flag not in joined[1:]]
