"""The models that a device computes, by their config alone: loaders refuse the others, `pagecli models` lists by it."""

from pagecli.core.dtypes import KV_DTYPE
from pagecli.core.model_config import ModelConfig
from pagecli.devices.base import CPU_HEAD_DIMS
from pagecli.devices.cuda.model.fused import fuse
from pagecli.errors import ModelError
from pagecli.model.build_program import build
from pagecli.model.program import Attention, ExpertLinear, GatedActivation, Linear, Program, Rotary, Router, Weight

GPU_HEAD_DIM_MULTIPLE, GPU_MAX_HEAD_DIM = 8, 256
GPU_ROTARY_MULTIPLE = 16
GPU_MAX_EXPERTS, GPU_MAX_CHOSEN = 512, 32
GPU_ROW_MULTIPLE = 8  # of what a thread reads at once
GPU_FLOAT8_MULTIPLE = 16  # of the sizes of a matrix that torch multiplies in 8-bit floats
GPU_MAX_VOCAB = 1 << 21  # of the kernel that draws tokens


def check_computed(device: str, name: str, config: ModelConfig) -> None:
    """Raises ModelError, which calls the model `name`, if the device of that name has no kernels for it."""
    size = config.head_dim
    if device == "cpu" and size not in CPU_HEAD_DIMS:
        raise ModelError(f"{name}: heads of size {size} are not supported", "sizes 8 to 256 are")
    if device == "cuda":
        if size % GPU_HEAD_DIM_MULTIPLE != 0 or size > GPU_MAX_HEAD_DIM:
            raise ModelError(f"{name}: heads of size {size} are not supported", "multiples of 8 to 256 are")
        if config.vocab_size > GPU_MAX_VOCAB:
            raise ModelError(f"{name}: a vocabulary of {config.vocab_size:,} is too large", f"{GPU_MAX_VOCAB:,} is the most")
        check_program(name, build(config))


def check_program(name: str, program: Program) -> None:
    """check_computed of a GPU, for a program or one rank's part of it."""
    if missing := missing_on_gpu(program):
        raise ModelError(f"{name}: GPUs have no {missing} here yet", "use --device cpu")


def missing_on_gpu(program: Program) -> str:
    """What the GPU's kernels lack of a program's operations, in words; empty where nothing."""
    rows: dict[str, int] = {}  # of the weights that values come from
    for operation in program.operations():
        if isinstance(operation, Linear):
            rows[operation.out] = operation.weight.num_rows
        if isinstance(operation, GatedActivation) and (inner := rows.get(operation.x, 0) // 2) % GPU_ROW_MULTIPLE:
            return f"gated activation of {inner} features (multiples of {GPU_ROW_MULTIPLE} are)"
        if isinstance(operation, Attention):
            if operation.cap > 0:
                return "soft cap of attention scores"
            if operation.slopes:
                return "ALiBi"
        if isinstance(operation, Router) and operation.chosen > GPU_MAX_CHOSEN:
            return f"{operation.chosen} experts for a token (up to {GPU_MAX_CHOSEN} are)"
        if isinstance(operation, ExpertLinear) and (lack := _missing_of_experts(operation.weight)):
            return lack
        if isinstance(operation, Rotary) and operation.rope.rotary_dim % GPU_ROTARY_MULTIPLE != 0:
            return f"rotation of {operation.rope.rotary_dim} dimensions (multiples of {GPU_ROTARY_MULTIPLE} are rotated)"
    if any(isinstance(operation, Rotary) for operation in fuse(program)):
        return "norm of rotated queries and keys"
    return ""


def _missing_of_experts(weight: Weight) -> str:
    if weight.experts > GPU_MAX_EXPERTS:
        return f"{weight.experts} experts (up to {GPU_MAX_EXPERTS} are)"
    if weight.num_rows % GPU_ROW_MULTIPLE or weight.columns % GPU_ROW_MULTIPLE:
        return f"experts of {weight.num_rows} by {weight.columns} weights (multiples of {GPU_ROW_MULTIPLE} are)"
    return ""


def is_float8(weight: Weight) -> bool:
    """Whether --dtype fp8 has a linear layer's weights, or its experts', in 8-bit floats on a GPU."""
    of_rows = GPU_ROW_MULTIPLE if weight.experts else GPU_FLOAT8_MULTIPLE
    return not weight.exact and weight.columns % GPU_FLOAT8_MULTIPLE == 0 and weight.num_rows % of_rows == 0


def gpu_kv_dtypes(dtype: str, head_dim: int) -> tuple[str, ...]:
    """Of the KV cache beside weights of `dtype` on a GPU: the one that goes with them, and others."""
    own = KV_DTYPE[dtype]
    return (own, "fp8") if own == "bfloat16" and head_dim % GPU_FLOAT8_MULTIPLE == 0 else (own,)


def devices_for(config: ModelConfig) -> list[str]:
    """The names of the devices that compute the model: cpu, cuda."""
    found = []
    for device in ("cpu", "cuda"):
        try:
            check_computed(device, "", config)
        except ModelError:
            continue
        found.append(device)
    return found
