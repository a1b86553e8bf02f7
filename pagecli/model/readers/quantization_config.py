"""The quantization_config of a checkpoint: which of the formats that are read it is, and its numbers."""

from collections.abc import Callable
from typing import Any, NoReturn

from pagecli.core.model_config import QuantizationConfig
from pagecli.errors import ModelError, short_repr

_KEY = "quantization_config"
_GPTQ_FORMATS = {"gptq": 1, "gptq_v2": 0}  # what is added to a zero as it is stored
_HEAD = "lm_head"
_LEFT_OUT = ("modules_to_not_convert", "ignored_layers", "llm_int8_skip_modules", "ignore")
_PLAIN = ("float-quantized", "int-quantized", "naive-quantized")
_COMPRESSED = {"pack-quantized": "pack-quantized"} | dict.fromkeys(_PLAIN, "plain")
_MOST_BLOCK = 1 << 20


def read_quantization(config: dict[str, Any], where: str) -> QuantizationConfig | None:
    """None where the config has none. Raises ModelError, which names the key that is not supported and what is."""
    found = config.get(_KEY)
    if not found:
        return None
    if not isinstance(found, dict):
        raise ModelError(f"{where}: {_KEY} is {short_repr(found)}, expected an object", "is the file complete?")
    read = _METHODS.get(str(found.get("quant_method")))
    if read is None:
        _Asked(found, where, "").refuse("quant_method", found.get("quant_method"), ", ".join(_METHODS))
    return read(_Asked(found, where, str(found["quant_method"])))


class _Asked:
    """The keys of a quantization_config, or of an object in it."""

    def __init__(self, found: dict[str, Any], where: str, method: str, prefix: str = "") -> None:
        self.found, self.where, self.method, self.prefix = found, where, method, prefix

    def refuse(self, key: str, value: Any, supported: str) -> NoReturn:
        of = f" of {self.method}" if self.method else ""
        raise ModelError(
            f"{self.where}: {_KEY}.{self.prefix}{key}{of} is {short_repr(value)}; supported: {supported}",
            "use the unquantized checkpoint, a GGUF file, or --model-impl transformers",
        )

    def one_of(self, key: str, values: tuple[Any, ...], default: Any = None) -> Any:
        value = self.found.get(key, default)
        if isinstance(value, bool) or not any(value == each for each in values):
            self.refuse(key, value, " or ".join(map(str, values)))
        return value

    def group_size(self, default: int | None = None) -> tuple[int, int]:
        """As a block."""
        size = self.found.get("group_size", default)
        if size == -1:
            return 1, 0
        if isinstance(size, bool) or not isinstance(size, int) or size < 32 or size % 32 or size > _MOST_BLOCK:
            self.refuse("group_size", size, "multiples of 32, and -1")
        return 1, size

    def left_out(self) -> tuple[str, ...]:
        names: Any = next((self.found[key] for key in _LEFT_OUT if self.found.get(key)), [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.refuse("modules_to_not_convert", names, "lists of names")
        return tuple(names)


def _gptq(asked: _Asked) -> QuantizationConfig:
    kind = asked.one_of("checkpoint_format", (*_GPTQ_FORMATS,), "gptq")
    rules = asked.found.get("dynamic") or {}  # GPTQModel's, of single modules; "-:" leaves them out
    if not isinstance(rules, dict) or not all(rule.startswith("-:") for rule in rules):
        asked.refuse("dynamic", rules, "modules that are left out")
    head = () if asked.found.get("lm_head") is True else (_HEAD,)
    return QuantizationConfig(
        method=asked.method,
        layout="gptq",
        bits=asked.one_of("bits", (4, 8)),
        block=asked.group_size(128),
        has_zeros=True,
        zero_added=_GPTQ_FORMATS[kind],
        in_order=not asked.found.get("desc_act"),
        left_out=(*asked.left_out(), *(f"re:{rule[2:]}" for rule in rules), *head),
    )


def _awq(asked: _Asked) -> QuantizationConfig:
    asked.one_of("version", ("gemm", "GEMM"), "gemm")
    bits, block = asked.one_of("bits", (4,)), asked.group_size(128)
    return QuantizationConfig(
        method=asked.method, layout="awq", bits=bits, block=block, has_zeros=True, left_out=(*asked.left_out(), _HEAD)
    )


def _compressed_tensors(asked: _Asked) -> QuantizationConfig:
    groups = asked.found.get("config_groups")
    schemes = [group.get("weights") for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
    if not schemes or not isinstance(schemes[0], dict) or any(scheme != schemes[0] for scheme in schemes):
        asked.refuse("config_groups", groups, "groups of layers whose weights are quantized in one way")
    for key in ("sparsity_config", "transform_config"):  # weights of which half are left out; activations that are rotated
        if (beside := asked.found.get(key)) and beside != {"format": "dense"}:
            asked.refuse(key, beside, "none")
    layout = _COMPRESSED[asked.one_of("format", (*_COMPRESSED,))]
    weights = _Asked(schemes[0], asked.where, asked.method, "config_groups.weights.")
    is_float = weights.one_of("type", ("int", "float"), "int") == "float"
    packed = layout == "pack-quantized"
    bits = weights.one_of("num_bits", (4, 8) if packed else (8,))
    if packed and is_float:
        weights.refuse("type", "float", "int, where weights are pack-quantized")
    strategies: dict[str, Callable[[], tuple[int, int]]] = {
        "channel": lambda: (1, 0),
        "group": weights.group_size,
        "tensor": lambda: (0, 0),
        "block": lambda: _block(weights, "block_structure"),
    }
    strategy = weights.one_of("strategy", ("channel", "group") if packed else (*strategies,))
    return QuantizationConfig(
        method=asked.method,
        layout="pack-quantized" if packed else "plain",
        bits=bits,
        block=strategies[strategy](),
        is_float=is_float,
        has_zeros=packed or not weights.found.get("symmetric", True),
        in_order=weights.found.get("actorder") not in ("group", True),
        left_out=asked.left_out(),
    )


def _float8(asked: _Asked) -> QuantizationConfig:
    asked.one_of("fmt", ("e4m3", None))
    asked.one_of("expert_dtype", ("fp8", None))
    block = (0, 0) if asked.found.get("weight_block_size") is None else _block(asked, "weight_block_size")
    return _of_float8(asked, block)


def _fbgemm(asked: _Asked) -> QuantizationConfig:
    return _of_float8(asked, (1, 0))


def _of_float8(asked: _Asked, block: tuple[int, int]) -> QuantizationConfig:
    left_out = (*asked.left_out(), _HEAD)
    return QuantizationConfig(method=asked.method, layout="plain", bits=8, block=block, is_float=True, left_out=left_out)


def _bitsandbytes(asked: _Asked) -> QuantizationConfig:
    left_out = (*asked.left_out(), _HEAD)
    if asked.found.get("load_in_8bit") or asked.found.get("_load_in_8bit"):
        return QuantizationConfig(method=asked.method, layout="plain", bits=8, block=(1, 0), left_out=left_out)
    asked.one_of("bnb_4bit_quant_type", ("nf4", "fp4"), "fp4")
    return QuantizationConfig(method=asked.method, layout="bitsandbytes", bits=4, is_float=True, left_out=left_out)


def _mxfp4(asked: _Asked) -> QuantizationConfig:
    left_out = (*asked.left_out(), _HEAD)
    return QuantizationConfig(method=asked.method, layout="mxfp4", bits=4, block=(1, 32), is_float=True, left_out=left_out)


def _block(asked: _Asked, key: str) -> tuple[int, int]:
    sizes = asked.found.get(key)
    if not isinstance(sizes, list) or len(sizes) != 2 or not all(type(n) is int and 0 < n <= _MOST_BLOCK for n in sizes):
        asked.refuse(key, sizes, "two numbers, rows and columns")
    return sizes[0], sizes[1]


_METHODS: dict[str, Callable[[_Asked], QuantizationConfig]] = {
    "gptq": _gptq,
    "awq": _awq,
    "compressed-tensors": _compressed_tensors,
    "fp8": _float8,
    "fbgemm_fp8": _fbgemm,
    "bitsandbytes": _bitsandbytes,
    "mxfp4": _mxfp4,
}
