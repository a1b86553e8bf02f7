"""The quantization_config of a checkpoint: which of the formats that are read it is, and its numbers."""

from dataclasses import dataclass
from typing import Any

from pagecli.errors import ModelError
from pagecli.model.readers.config_fields import Fields

METHODS = ("gptq", "awq", "compressed-tensors")
_GPTQ_FORMATS = {"gptq": 1, "gptq_v2": 0}  # what is added to a zero as it is stored
_REMEDY = "use the unquantized checkpoint, or a GGUF file"


@dataclass(frozen=True, slots=True)
class Quantization:
    """Linear layers of 4 bits in groups of a row's columns."""

    method: str
    group_size: int  # -1: a row
    zero_added: int = 0


def read_quantization(config: dict[str, Any], where: str) -> Quantization | None:
    """None where the config has none. Raises ModelError, which names what is not supported."""
    if not config.get("quantization_config"):
        return None
    fields = Fields(config, where).child("quantization_config")
    found = fields.config
    method = str(found.get("quant_method") or "unknown")
    if method not in METHODS:
        raise ModelError(f"{where}: weights quantized with {method} are not supported", _REMEDY)
    read = {"gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed_tensors}[method]
    quantization = read(found, where)
    if quantization.group_size != -1 and (quantization.group_size < 32 or quantization.group_size % 32):
        raise _refused(where, method, f"groups of {quantization.group_size}")
    return quantization


def _gptq(found: dict[str, Any], where: str) -> Quantization:
    kind = str(found.get("checkpoint_format") or "gptq")
    _check(where, "gptq", {"bits": (found.get("bits"), 4)})
    if kind not in _GPTQ_FORMATS:
        raise _refused(where, "gptq", f"checkpoint_format {kind}")
    return Quantization("gptq", _group_size(found, where), _GPTQ_FORMATS[kind])


def _awq(found: dict[str, Any], where: str) -> Quantization:
    _check(where, "awq", {"bits": (found.get("bits"), 4), "version": (str(found.get("version", "gemm")).lower(), "gemm")})
    return Quantization("awq", _group_size(found, where))


def _compressed_tensors(found: dict[str, Any], where: str) -> Quantization:
    name = "compressed-tensors"
    groups = found.get("config_groups")
    only = next(iter(groups.values())) if isinstance(groups, dict) and len(groups) == 1 else None
    weights = only.get("weights") if isinstance(only, dict) else None
    if not isinstance(only, dict) or not isinstance(weights, dict):
        raise _refused(where, name, "other than one group of layers")
    asked = {
        "format": (found.get("format"), "pack-quantized"),
        "num_bits": (weights.get("num_bits"), 4),
        "type": (weights.get("type", "int"), "int"),
        "input_activations": (only.get("input_activations"), None),
        "kv_cache_scheme": (found.get("kv_cache_scheme"), None),
    }
    _check(where, name, asked)
    if weights.get("strategy") == "channel":
        return Quantization(name, -1)
    _check(where, name, {"strategy": (weights.get("strategy"), "group")})
    return Quantization(name, _group_size(weights, where))


def _group_size(found: dict[str, Any], where: str) -> int:
    size = found.get("group_size", 128)
    if not isinstance(size, int) or isinstance(size, bool):
        raise ModelError(f"{where}: quantization_config.group_size is {size!r}", "expected a number")
    return size


def _check(where: str, method: str, asked: dict[str, tuple[Any, Any]]) -> None:
    for key, (value, wanted) in asked.items():
        if value != wanted:
            raise _refused(where, method, f"{key} {value!r} ({wanted!r} is read)")


def _refused(where: str, method: str, what: str) -> ModelError:
    return ModelError(f"{where}: weights quantized with {method}, {what}, are not supported", _REMEDY)
