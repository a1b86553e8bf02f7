"""`pagecli profile --engine vllm`: whether vLLM starts with the flags, how much then fits, and what to change if not."""

import shlex
from typing import TYPE_CHECKING

from pagecli.cli.profile.options import ProfileOptions
from pagecli.cli.profile.plan_tables import size
from pagecli.cli.profile.report import Section
from pagecli.cli.profile.tables import Column, CommandLines, FittingTable
from pagecli.errors import UsageError
from pagecli.model.presets import find_preset
from pagecli.model.registry import config_json
from pagecli.model.stored_tensors import stored_tensors
from pagecli.profiler.plan.gpus import find_gpu
from pagecli.profiler.plan.local_device import find_gpus
from pagecli.profiler.plan.vllm import VllmFlags, VllmPlan
from pagecli.profiler.plan.vllm_model import VllmModel, vllm_model

if TYPE_CHECKING:
    from rich.console import RenderableType

DTYPES = ("bfloat16", "float16", "float32")


# As these models are on the hub, whose named configs say nothing of it.
_MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"]}
_QUANTIZED_ON_THE_HUB = {"GptOssForCausalLM": _MXFP4}


def model_of_vllm(name: str) -> VllmModel:
    """The model as vLLM loads it. Raises ModelError."""
    config = config_json(name)
    if find_preset(name) is not None:  # its config is our own
        on_the_hub = _QUANTIZED_ON_THE_HUB.get(config["architectures"][0])
        config = config if on_the_hub is None else {"quantization_config": on_the_hub} | config
    return vllm_model(config, name, stored_tensors(name))


def _check_flags(options: ProfileOptions, dtype: str) -> None:
    """Raises UsageError for those that vLLM does not take, or that are not planned for it."""
    if dtype not in DTYPES:
        raise UsageError(f"--engine vllm with --dtype {dtype}", f"its weights are {', '.join(DTYPES)}")
    if options.kv_dtype not in ("auto", "fp8", dtype):
        raise UsageError(f"--engine vllm with --kv-dtype {options.kv_dtype}", "its KV cache is auto or fp8")
    if not 0 < options.gpu_memory_utilization <= 1:
        raise UsageError(f"--gpu-memory-utilization is {options.gpu_memory_utilization:g}", "a share above 0, at most 1")
    own = {"--lora": options.lora, "--merge-lora": options.merge_lora, "--quantization": options.quantization != "auto"}
    if given := next((flag for flag, value in own.items() if value), None):
        raise UsageError(f"--engine vllm with {given}", f"leave out {given}: it is planned for pagecli alone")


def vllm_plan(options: ProfileOptions) -> VllmPlan:
    """The start of vLLM that the flags ask for. Raises UsageError, ModelError."""
    dtype = "bfloat16" if options.dtype == "auto" else options.dtype
    _check_flags(options, dtype)
    model = model_of_vllm(options.model)
    num_gpus = options.tensor_parallel_size or options.num_gpus or 1
    if model.num_heads % num_gpus:
        raise UsageError(f"{num_gpus} GPUs cannot share {model.num_heads} heads", "take a number that divides them")
    if options.gpu.strip().lower() == "auto":
        found = find_gpus()
        if found.device is None:
            raise UsageError(f"--engine vllm is for GPUs ({found.note})", "name one with --gpu, as a100-40gb")
        device = found.device
    else:
        device = find_gpu(options.gpu)
    flags = VllmFlags(
        gpu_memory_utilization=options.gpu_memory_utilization,
        max_model_len=options.max_model_len,
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_batch_tokens,
        dtype=dtype,
        kv_cache_dtype="fp8" if options.kv_dtype == "fp8" else "auto",
        tensor_parallel_size=num_gpus,
        block_size=options.block_size,
    )
    return VllmPlan(model, device, flags)


def vllm_section(plan: VllmPlan, options: ProfileOptions) -> Section:
    """The answer first, the command that starts, then the sum of memory."""
    changes = [] if plan.starts else plan.changes()
    count = f"{plan.flags.tensor_parallel_size} x " if plan.flags.tensor_parallel_size > 1 else ""
    dtype = f"{plan.model.format}, {plan.flags.dtype}" if plan.model.format else plan.flags.dtype
    shown: list[RenderableType] = [_line(f"vLLM with {options.model} on {count}{plan.device.title}, {dtype}", "bold")]
    if plan.starts:
        shown += [_line(_capacity(plan), "bold green"), _line(""), _command(options.model, plan)]
    else:
        shown += [_line(_refusal(plan), "bold red"), *_ways_out(options.model, changes)]
    shown += [_line(""), _memory_table(plan)]
    steps = f"steps of {plan.max_num_batched_tokens:,} tokens and {plan.max_num_seqs:,} sequences"
    shown.append(_line(f"By the rule of its V1 engine, for {steps}. {_how_good(plan)}", "dim"))
    return Section({"vllm": _fields(plan) | {"changes": [flag for flag, _ in changes]}}, shown)


def _how_good(plan: VllmPlan) -> str:
    if plan.model.latent:
        return "With latent attention, published logs were compared for weights and cache, not for a step's peak."
    if plan.model.format or any(plan.model.layer_windows):
        return "A published log of gpt-oss-20b lies within 1 % of it."
    return "Published logs of dense models lie within 1 % of it."


def _capacity(plan: VllmPlan) -> str:
    at_a_time = f"{plan.max_concurrency:,.2f} requests of {plan.max_model_len:,} tokens at a time"
    return f"Starts: {plan.kv_tokens:,} tokens of KV cache, {at_a_time}; the longest --max-model-len is {plan.longest():,}."


def _refusal(plan: VllmPlan) -> str:
    if plan.kv_memory_bytes <= 0:
        return f"Does not start: weights and a step leave no KV memory, {size(-plan.kv_memory_bytes)} too much."
    needed = size(plan.request_bytes(plan.max_model_len))
    left = size(plan.kv_memory_bytes)
    return f"Does not start: a request of {plan.max_model_len:,} tokens needs {needed} of KV cache, and {left} are left."


def _ways_out(model: str, changes: list[tuple[str, VllmPlan]]) -> "list[RenderableType]":
    if not changes:
        return [_line("No change of its flags makes it start: take a larger GPU (--gpu) or a smaller model.")]
    lines: list[RenderableType] = [_line("With any one of these it does:")]
    rows = [(flag, f"{plan.kv_tokens:,}", f"{plan.max_model_len:,}") for flag, plan in changes]
    lines.append(FittingTable([Column("", "name"), Column("KV tokens"), Column("max-model-len")], rows))
    return [*lines, _line(""), _command(model, changes[0][1])]


def _command(model: str, plan: VllmPlan) -> CommandLines:
    preset = find_preset(model)
    flags = plan.flags
    parts = [f"vllm serve {preset.hub_id if preset is not None and preset.hub_id else shlex.quote(model)}"]
    parts.append(f"--gpu-memory-utilization {flags.gpu_memory_utilization:g}")
    given = {
        "--max-model-len": flags.max_model_len,
        "--max-num-seqs": flags.max_num_seqs,
        "--max-num-batched-tokens": flags.max_num_batched_tokens,
        "--kv-cache-dtype": flags.kv_cache_dtype if flags.kv_cache_dtype != "auto" else None,
        "--tensor-parallel-size": flags.tensor_parallel_size if flags.tensor_parallel_size > 1 else None,
    }
    return CommandLines([*parts, *(f"{flag} {value}" for flag, value in given.items() if value is not None)])


def _memory_table(plan: VllmPlan) -> FittingTable:
    share = f"{plan.flags.gpu_memory_utilization:g} x {size(plan.device.memory_bytes)}"
    rows = [
        ("usable", size(plan.usable_bytes), share),
        ("weights", size(plan.weights_bytes), ("its share, " if plan.flags.tensor_parallel_size > 1 else "") + _source(plan)),
        ("a step", size(plan.peak_bytes), f"{plan.max_num_batched_tokens:,} tokens, {plan.max_num_seqs:,} of them chosen"),
        ("outside of torch", size(plan.outside_bytes), "context" + (", NCCL" if plan.flags.tensor_parallel_size > 1 else "")),
        ("KV cache", size(max(0, plan.kv_memory_bytes)), "what is left"),
    ]
    return FittingTable([Column("memory of a GPU", "name"), Column("size"), Column("", "text")], rows)


def _source(plan: VllmPlan) -> str:
    source = plan.model.weights.source
    return source if source == "computed" else f"exact, from {source}"


def _fields(plan: VllmPlan) -> dict[str, object]:
    names: tuple[str, ...] = (
        "starts",
        "max_model_len",
        "max_num_seqs",
        "max_num_batched_tokens",
        "usable_bytes",
        "weights_bytes",
        "peak_bytes",
    )
    names += ("outside_bytes", "kv_memory_bytes", "kv_tokens", "max_concurrency")
    found: dict[str, object] = {name: getattr(plan, name) for name in names}
    found["weights_are_exact"] = plan.model.weights.source != "computed"
    return {"device": plan.device.name, "longest_max_model_len": plan.longest(), **found}


def _line(text: str, style: str = "") -> "RenderableType":
    from rich.text import Text

    return Text(text, style)
