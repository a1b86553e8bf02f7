"""The keyword arguments of pagecli.generate and LLM: the flags of the command line, by their names with underscores."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal, TypedDict, get_type_hints


class ModelSettings(TypedDict, total=False):
    """Of the model and the engine: chosen once, when a model is loaded. See `pagecli generate --help`."""

    load_format: Literal["auto", "dummy"]
    lora: Mapping[str, str] | str | list[str] | None
    merge_lora: str | None
    device: str
    model_impl: Literal["pagecli", "transformers"]
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "int8-a16", "fp8"]
    quantization: Literal["auto", "keep", "dequantize"]
    max_model_len: int | None
    block_size: int
    kv_dtype: Literal["auto", "float32", "bfloat16", "int8", "fp8"]
    kv_memory: str | int
    max_num_seqs: int
    max_batch_tokens: int
    prefix_caching: bool
    cuda_graphs: bool
    preemption: Literal["recompute", "swap"]
    swap_memory: str | int | None
    threads: int | None
    speculate: str
    tensor_parallel_size: int | str
    sum_segments: int
    reasoning: str


class RowSettings(TypedDict, total=False):
    """Of the rows of one call; a column of a row named like a sampling parameter overrides it for that row."""

    token_ids: bool
    input_format: Literal["auto", "jsonl", "openai-batch", "csv", "parquet"]
    limit: int | None
    where: str | None
    sample: str | int | float | None
    sample_seed: int
    prompt_column: str
    template: str | None
    system: str | None
    few_shot: str | None
    chat_template_kwargs: Mapping[str, Any] | None
    chat: bool | None
    too_long: Literal["error", "truncate-left", "truncate-right"]
    template_time: str | None
    generation_config: Literal["auto", "none"]
    max_tokens: int
    min_tokens: int
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    no_repeat_ngram_size: int | None
    presence_penalty: float
    frequency_penalty: float
    seed: int
    stop: str | list[str] | None
    stop_token_id: int | list[int] | None
    ignore_eos: bool
    logprobs: int | None
    n: int
    best_of: int | None
    beam_width: int
    length_penalty: float
    early_stopping: bool | str
    prompt_logprobs: int | None
    json_schema: str | None
    choice: str | None
    regex: str | None
    grammar: str | None
    thinking_budget: int | None
    retry: int
    retry_on: str
    retry_temperature: float | None


class GenerateSettings(ModelSettings, RowSettings, total=False):
    """Both, for a single call."""


# Flags that are about files, the terminal and the job beside an output: what calls from Python have no use for.
COMMAND_LINE_ONLY = {
    *("input", "output", "model", "overwrite", "output_format", "compression", "row_group_rows", "max_row_bytes", "order"),
    *(
        "shard",
        "dry_run",
        "template_file",
        "system_file",
        "restart",
        "journal",
        "partial",
        "retry_errors",
        "on_error",
        "max_error_rate",
    ),
    *("stats", "profile", "progress_json", "metrics_file", "log_file", "log_json", "no_config", "quiet", "verbose"),
    *("workers", "ray", "ray_port", "allow_mixed_hardware", "worker_timeout", "kv_policy", "batching", "chat_template_arg"),
}


def is_of_model(name: str) -> bool:
    """Whether a setting belongs to the loaded model and its engine."""
    return name in get_type_hints(ModelSettings)


def check_names(function: str, settings: Mapping[str, Any], known: set[str]) -> None:
    """Raises TypeError, as Python does for a keyword argument that a function does not have."""
    for name in settings:
        if name not in known:
            near = get_close_matches(name, sorted(known), n=1)
            text = f"{function}() got an unexpected keyword argument {name!r}"
            raise TypeError(f"{text}; did you mean {near[0]!r}?" if near else text)


def as_flags(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the command line's options have them."""
    flags = dict(settings)
    for name in ("kv_memory", "swap_memory"):
        if isinstance(flags.get(name), int):
            flags[name] = f"{flags[name]}B"
    for name in ("stop", "stop_token_id", "lora"):
        if isinstance(flags.get(name), str | int):
            flags[name] = [flags[name]]
    if isinstance(flags.get("lora"), Mapping):
        flags["lora"] = [f"{name}={directory}" for name, directory in flags["lora"].items()]
    if flags.get("sample") is not None:
        flags["sample"] = str(flags["sample"])
    if isinstance(flags.get("early_stopping"), bool):
        flags["early_stopping"] = str(flags["early_stopping"]).lower()
    if "chat_template_kwargs" in flags:
        import json

        given = flags.pop("chat_template_kwargs") or {}
        flags["chat_template_arg"] = [f"{name}={json.dumps(value)}" for name, value in given.items()]
    return flags
