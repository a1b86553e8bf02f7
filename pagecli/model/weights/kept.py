"""How much of a quantized checkpoint can stay so in memory, by its config alone; of GGUF files see readers/gguf_header.py."""

import re

from pagecli.core.model_config import ModelConfig, QuantizationConfig
from pagecli.model.build_program import build
from pagecli.model.program import ExpertLinear, Head, Linear, Weight
from pagecli.model.source import QuantizedPart
from pagecli.model.weights.packed.layer import kept_group

_SCALE_BYTES, _FLOAT8_SCALE_BYTES = 2, 4
_BOUNDARY = r"(?:(?<=\.)|(?=\.|$))"  # of modules' names, as transformers has it


def kept_part(config: ModelConfig) -> QuantizedPart | None:
    """The weights that can stay quantized, if any; they do where scales with zeros are halves, which their files say."""
    found = config.quantization
    if found is None or not _can_stay(found):
        return None
    weights = [weight for weight in _multiplied(config) if _is_quantized(weight, found)]
    groups = {weight: kept_group(found.block[1] or weight.columns) for weight in weights}
    kept = {weight: group for weight, group in groups.items() if group and weight.columns % group == 0}
    of_scale = _FLOAT8_SCALE_BYTES if found.layout == "plain" and found.is_float else _SCALE_BYTES
    sizes = {
        weight: weight.num_elements * found.bits // 8 + weight.num_elements // group * of_scale * (2 if found.has_zeros else 1)
        for weight, group in kept.items()
    }
    experts = [weight for weight in kept if weight.experts]
    of_experts = sum(weight.num_elements for weight in experts), sum(sizes[weight] for weight in experts)
    elements = sum(weight.num_elements for weight in kept)
    is_even = found.bits in (4, 8) and found.layout != "mxfp4"
    num_uneven = 0 if is_even else elements
    return QuantizedPart(elements, sum(sizes.values()), of_experts=of_experts, num_uneven=num_uneven) if kept else None


def _can_stay(found: QuantizationConfig) -> bool:
    if found.layout == "plain":
        return not found.has_zeros and found.method != "bitsandbytes"
    return found.layout != "bitsandbytes" and found.in_order


def _multiplied(config: ModelConfig) -> list[Weight]:
    """Matrices of linear layers that are packed as their numbers are."""
    program = build(config)
    linear = [operation.weight for operation in program.operations() if isinstance(operation, Linear | ExpertLinear | Head)]
    tied = {program.head_weight} if config.tie_embeddings else set()
    return [weight for weight in dict.fromkeys(linear) if not weight.exact and weight.scale == 1.0 and weight not in tied]


def _is_quantized(weight: Weight, found: QuantizationConfig) -> bool:
    if found.layout == "mxfp4" and not weight.experts:
        return False
    modules = [name.removesuffix(".weight") for name in weight.names]
    return not any(_matches(pattern, module) for pattern in found.left_out for module in modules)


def _matches(pattern: str, module: str) -> bool:
    """A name, the end of one, or a regular expression from a name's start to where one of its parts ends."""
    expression = pattern[3:] if pattern.startswith("re:") else rf"(?:{pattern}){_BOUNDARY}"
    try:
        return module.endswith(pattern) or re.match(expression, module) is not None
    except re.error:
        return False
