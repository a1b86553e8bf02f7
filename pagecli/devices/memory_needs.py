"""The sum of memory a model asks for, from its config alone: the same for a plan and for the check before loading."""

from dataclasses import dataclass

from pagecli.core.model_config import ModelConfig
from pagecli.devices.cpu.fused_adds import buffer_widths
from pagecli.devices.cpu.lm_head import bounds_bytes
from pagecli.errors import ModelError
from pagecli.model.build_program import build

FLOAT32_BYTES = 4
HOST_RUNTIME_BYTES = 150 * 2**20  # Python and its libraries with a tiny model: 123 MiB resident
SAMPLING_COPIES = 2  # of the logits: scaled by temperature, and their log probabilities


def weight_bytes(config: ModelConfig, bytes_each: float) -> int:
    return int(build(config).num_parameters * bytes_each)


def head_bounds_bytes(config: ModelConfig, bytes_each: float) -> int:
    """The quantized upper bounds that the CPU's LM head keeps beside its weights."""
    weight = build(config).head_weight
    return bounds_bytes(weight.num_rows, weight.columns, bytes_each)


def activation_bytes(config: ModelConfig, max_batch_tokens: int, element_bytes: int = FLOAT32_BYTES) -> int:
    """The buffers of a forward pass of so many tokens, one for each value of the program."""
    return max_batch_tokens * sum(buffer_widths(build(config)).values()) * element_bytes


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

    def check_fit(self, name: str, available: int, dtype_bytes: float) -> None:
        """Raises ModelError with the sum, and the largest KV cache that fits or another remedy, unless it fits."""
        if self.total <= available:
            return
        room = available - (self.total - self.kv)
        if self.kv and room >= 2**20:
            hint = f"the largest that fits is --kv-memory {room // 2**20}MiB"
        elif self.swap and room + self.swap >= 2**20:
            hint = f"the largest that fits is --swap-memory {(room + self.swap) // 2**20}MiB"
        elif dtype_bytes > 2 and self.weights // 2 + self.runtime <= available:
            hint = "use --dtype bfloat16, or int8"
        else:
            hint = "use a smaller model or a larger machine; pagecli profile shows which fits"
        total = _gib(self.total)
        raise ModelError(f"{name} does not fit: {self.describe()} = {total}; {_gib(available)} of memory are available", hint)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
