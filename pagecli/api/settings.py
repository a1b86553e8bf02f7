"""The keyword arguments of pagecli.generate and LLM: the flags of the command line, by their names with underscores."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from numbers import Number
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypedDict, TypeVar, get_args, get_origin, get_type_hints

from pagecli.errors import UsageError, short_repr


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


class PlanSettings(TypedDict, total=False):
    """Of a plan. See `pagecli profile --help`."""

    gpu: str
    num_gpus: int | None
    lora: Mapping[str, str] | str | list[str] | None
    merge_lora: str | None
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "int8-a16", "fp8"]
    quantization: Literal["auto", "keep", "dequantize"]
    kv_dtype: Literal["auto", "float32", "float16", "bfloat16", "int8", "fp8"]
    kv_memory: str | int
    block_size: int
    max_num_seqs: int | None
    max_batch_tokens: int | None
    workload: str
    num_requests: int | None
    max_tokens: int


Options = TypeVar("Options")


def options_of(kind: type[Options], settings: Mapping[str, Any]) -> Options:
    """The command line's options by checked settings. Raises UsageError for a number that its flag does not take."""
    flags = as_flags(settings)
    for name, hint in get_type_hints(kind, include_extras=True).items():
        value = flags.get(name)
        for flag in getattr(hint, "__metadata__", ()) if isinstance(value, int | float) else ():
            low, high = flag.min, flag.max
            if (low is not None and value < low) or (high is not None and value > high):
                bounds = f"from {low}" if high is None else f"up to {high}" if low is None else f"from {low} to {high}"
                raise UsageError(f"{name} is {value}", f"give a number {bounds}")
    return kind(**flags)


def model_name(model: Any) -> str:
    """Raises UsageError."""
    if not isinstance(model, str | os.PathLike):
        raise UsageError(f"model is {short_repr(model)}", "give a name, a hub id, a directory or a .gguf file")
    return os.fsdecode(model)


def is_of_model(name: str) -> bool:
    """Whether a setting belongs to the loaded model and its engine."""
    return name in get_type_hints(ModelSettings)


def checked(function: str, settings: Mapping[str, Any], known: type) -> dict[str, Any]:
    """The settings of one of these types, numbers of numpy as Python's and paths as text.

    Raises TypeError, as Python does for a keyword argument that a function does not have, UsageError for a value of a type that
    the setting does not take.
    """
    hints, found = get_type_hints(known), {}
    for name, value in settings.items():
        if name not in hints:
            near = get_close_matches(name, sorted(hints), n=1)
            text = f"{function}() got an unexpected keyword argument {name!r}"
            raise TypeError(f"{text}; did you mean {near[0]!r}?" if near else text)
        if isinstance(value, os.PathLike):
            value = os.fsdecode(value)
        elif isinstance(value, Number) and hasattr(value, "item"):
            value = value.item()
        if not _is_a(value, hints[name]):
            raise UsageError(f"{name} is {short_repr(value)}", f"give {_words(hints[name])}")
        found[name] = value
    return found


def _is_a(value: Any, wanted: Any) -> bool:
    """Whether it is of the type; an int is a float too, a bool is no number, and a tuple is as good as a list."""
    kind, inner = get_origin(wanted), get_args(wanted)
    if kind is UnionType:
        return any(_is_a(value, each) for each in inner)
    if kind is Literal:
        return isinstance(value, str) and value in inner
    if kind is list:
        return isinstance(value, list | tuple) and all(_is_a(each, inner[0]) for each in value)
    if kind is Mapping:
        return isinstance(value, Mapping) and all(_is_a(name, str) and _is_a(each, inner[1]) for name, each in value.items())
    if wanted in (int, float) and isinstance(value, bool):
        return False
    return wanted is Any or isinstance(value, (int, float) if wanted is float else wanted)


def _words(wanted: Any) -> str:
    """`an int, a list of int or None`."""
    kind, inner = get_origin(wanted), get_args(wanted)
    if kind is UnionType:
        *others, last = map(_words, inner)
        return f"{', '.join(others)} or {last}"
    if kind is Literal:
        return ", ".join(inner)
    if kind in (list, Mapping):
        return f"a list of {inner[0].__name__}" if kind is list else "a dict"
    return "None" if wanted is type(None) else wanted.__name__


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
    for name in ("json_schema", "grammar"):
        if flags.get(name) is not None:
            flags[name] = Path(flags[name])
    if flags.get("sample") is not None:
        flags["sample"] = str(flags["sample"])
    if isinstance(flags.get("early_stopping"), bool):
        flags["early_stopping"] = str(flags["early_stopping"]).lower()
    if "chat_template_kwargs" in flags:
        import json

        given = flags.pop("chat_template_kwargs") or {}
        flags["chat_template_arg"] = [f"{name}={json.dumps(value)}" for name, value in given.items()]
    return flags
