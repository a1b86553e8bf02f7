"""LoRA adapters as PEFT saves them: adapter_config.json beside adapter_model.safetensors (Hu et al., 2021)."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagecli.core.arrays import Array, to_float32
from pagecli.core.json_text import parsed
from pagecli.errors import ModelError, short_repr
from pagecli.model.readers.config_fields import MAX_NUMBER
from pagecli.model.source import ADAPTER_FILES
from pagecli.model.weights.reader import stored_name
from pagecli.model.weights.safetensors_file import SafetensorsSource

CONFIG, WEIGHTS = ADAPTER_FILES
MAX_CONFIG_BYTES = 1 << 20
_WEIGHT = ".weight"
_TENSOR = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")
# What changes text in a way that is not read here, with the values that change nothing.
_NOT_READ: dict[str, tuple[Any, ...]] = {
    "use_dora": (None, False),
    "bias": (None, "none"),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "use_qalora": (None, False),
    "lora_bias": (None, False),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
    "megatron_config": (None,),
    "target_parameters": (None, []),
}


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """Of one module's weight W[N, K]: W + scale * b @ a."""

    a: Array  # [rank, K], float32
    b: Array  # [N, rank], float32
    scale: float


@dataclass(frozen=True, slots=True)
class Adapter:
    """The updates by the names of their modules, as transformers calls them ("model.layers.0.self_attn.q_proj")."""

    directory: Path
    updates: Mapping[str, LowRankUpdate]
    transposed: bool  # of a model whose weights lie [K, N] (GPT-2's Conv1D): what PEFT calls fan_in_fan_out

    def module_of(self, weight: str) -> str | None:
        """The adapter's name of the module whose weight transformers calls `weight`, if the adapter changes it.

        One that was trained on a model without its LM head lacks the first part of names ("model."), as such models do.
        """
        return stored_name(self.updates, weight.removesuffix(_WEIGHT)) if weight.endswith(_WEIGHT) else None


def read_adapter(directory: Path) -> Adapter:
    """Raises ModelError for what is no LoRA adapter, and for kinds of LoRA that compute something else."""
    config = _read_config(directory / CONFIG)
    tensors = SafetensorsSource(directory / WEIGHTS)
    sides: dict[str, dict[str, Array]] = {}
    for name in tensors.names():
        found = _TENSOR.match(name)
        if found is None:
            raise ModelError(f"{tensors.where}: tensor {name} is not of a LoRA adapter of linear layers", _merge_hint())
        sides.setdefault(found["module"], {})[found["side"]] = to_float32(tensors.stored(name)).copy()
    if not sides:
        raise ModelError(f"{tensors.where}: an adapter without tensors", "save it again")
    updates = {module: _update(directory, module, pair, config) for module, pair in sides.items()}
    return Adapter(directory, updates, bool(config.get("fan_in_fan_out")))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError
        config = parsed(path.read_bytes())
        kind = config["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not the configuration of a PEFT adapter", "give the directory that PEFT saved") from error
    if kind != "LORA":
        raise ModelError(f"{path}: an adapter of kind {short_repr(kind)}; LoRA alone is supported", _merge_hint())
    for key, harmless in _NOT_READ.items():
        if config.get(key) not in harmless:
            raise ModelError(f"{path}: {key} is {short_repr(config[key])}, which is not supported", _merge_hint())
    numbers = {"r": _is_number, "lora_alpha": _is_number, "rank_pattern": _is_by_module, "alpha_pattern": _is_by_module}
    for key, is_as_expected in numbers.items():
        if key in config and not is_as_expected(config[key]):
            raise ModelError(f"{path}: {key} is {short_repr(config[key])}, not as PEFT writes it", "save the adapter again")
    return config


def _is_number(value: Any) -> bool:
    """Whether it is one that float32 holds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER


def _is_by_module(value: Any) -> bool:
    """Whether it is a number for each of some regular expressions; none at all may be null."""
    if not isinstance(value, dict):
        return value is None
    try:
        return all(_is_number(number) and re.compile(pattern) for pattern, number in value.items())
    except (re.error, RecursionError, OverflowError):
        return False


def _merge_hint() -> str:
    return "merge it into its base model with PEFT (merge_and_unload, then save_pretrained), and give that directory"


def _update(directory: Path, module: str, sides: Mapping[str, Array], config: Mapping[str, Any]) -> LowRankUpdate:
    a, b = sides.get("A"), sides.get("B")
    if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not len(a):
        raise ModelError(f"{directory / WEIGHTS}: {module} has no two matrices of one rank", "save the adapter again")
    rank = a.shape[0]
    alpha = _of_module(config.get("alpha_pattern"), module, config.get("lora_alpha", rank))
    expected = _of_module(config.get("rank_pattern"), module, config.get("r", rank))
    if expected != rank:
        raise ModelError(
            f"{directory}: {module} has rank {rank}, its configuration says {expected}", "save the adapter again, whole"
        )
    return LowRankUpdate(a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _of_module(patterns: Any, module: str, default: Any) -> Any:
    """PEFT's rule: the first key that, as a regular expression, is the end of the module's name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
