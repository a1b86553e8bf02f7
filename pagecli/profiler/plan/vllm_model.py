"""What vLLM keeps of a model in a GPU's memory, by its config.json and, where they are known, its checkpoint's headers.

Weights are those of the checkpoint: what is quantized there stays so, everything else is in --dtype. With multi-head latent
attention (DeepSeek-V2, section 2.1) a layer keeps kv_lora_rank + qk_rope_head_dim numbers of a token, and every GPU has all of
them; its down projections are whole on every GPU too, and kv_b_proj is there a second time, in 16 bits, as two matrices.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pagecli.core.model_config import ModelConfig
from pagecli.errors import ModelError, short_repr
from pagecli.model.build_program import build
from pagecli.model.decoder import Key
from pagecli.model.readers.config_fields import Fields, check_num_layers
from pagecli.model.readers.hf_config import from_hf_config
from pagecli.model.stored_tensors import StoredTensors

_WHOLE = re.compile(r"self_attn\.(q_a_proj|kv_a_proj_with_mqa)|\.(gate|router)$")  # on every GPU
_IN_A_LAYER = re.compile(r"\.\d+\.")
_ROUTER = re.compile(r"\.(gate|router)(\.|$)")
_FLOATS = ("F64", "F32", "F16", "BF16")
_SCALES = re.compile(r"(scale|scales|scale_inv|zeros|absmax|g_idx|quant_map)$")
_MOST_BYTES = 16  # of a quantized number and its part of scales
_MXFP4_HIDDEN, _MXFP4_INNER = 256, 128  # multiples that experts in MXFP4 are padded to
_LATENT = (
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "hidden_size",
    "intermediate_size",
    "vocab_size",
)
_LATENT_OPTIONS = (
    *("q_lora_rank", "n_routed_experts", "n_shared_experts", "moe_intermediate_size", "moe_layer_freq"),
    "first_k_dense_replace",
)
_LATENT_SIZES = (*_LATENT, "num_hidden_layers", "num_attention_heads", "max_position_embeddings")


@dataclass(frozen=True, slots=True)
class _Part:
    """Numbers of the checkpoint under one name. `is_matrix`: of a linear layer, which formats quantize."""

    name: str
    num_elements: int
    is_matrix: bool


@dataclass(frozen=True, slots=True)
class Weights:
    """Split over GPUs, and on each of them whole: numbers in --dtype, and bytes of what is quantized."""

    num_split: float
    num_whole: float
    split_bytes: float
    whole_bytes: float
    source: str  # "computed", or what they were read in

    def bytes_on_each(self, dtype_bytes: float, num_gpus: int) -> int:
        split = self.num_split * dtype_bytes + self.split_bytes
        return int(split / num_gpus + self.num_whole * dtype_bytes + self.whole_bytes)


@dataclass(frozen=True, slots=True)
class VllmModel:
    """Sizes of the model. kv_width: numbers that a layer keeps of a token, of one KV head, or with `latent` of all heads."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    num_heads: int
    num_kv_heads: int
    kv_width: int
    latent: bool
    max_positions: int
    layer_windows: tuple[int, ...]
    weights: Weights
    format: str  # of quantized weights; "": none are

    def window(self, layer: int) -> int:
        """Sliding window of `layer` in tokens, 0 none."""
        return self.layer_windows[layer] if self.layer_windows else 0


def vllm_model(config: dict[str, Any], where: str, stored: StoredTensors | None = None) -> VllmModel:
    """The model of a config.json, whose weights are those of `stored` if it is given. Raises ModelError."""
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    quantization = config.get("quantization_config") or text.get("quantization_config") or {}
    if not isinstance(quantization, dict):
        what = f"{where}: quantization_config is {short_repr(quantization)}, expected an object"
        raise ModelError(what, "is the file complete?")
    if text.get("kv_lora_rank"):
        return _latent_model(text, quantization, where, stored)
    plain = {name: value for name, value in config.items() if name != "quantization_config"}
    if text is not config:
        plain["text_config"] = {name: value for name, value in text.items() if name != "quantization_config"}
    model = from_hf_config(plain, where)
    padding = _padding(model) if quantization.get("quant_method") == "mxfp4" else 1.0
    return VllmModel(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        vocab_size=model.vocab_size,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        kv_width=2 * model.head_dim,
        latent=False,
        max_positions=model.max_positions,
        layer_windows=model.layer_windows,
        weights=_weights(list(_parts(model)), quantization, where, stored, model.num_layers, padding),
        format=str(quantization.get("quant_method", "")),
    )


def _parts(model: ModelConfig) -> Iterator[_Part]:
    for weight in build(model).weights():
        name = weight.names[0].removesuffix(".weight")
        is_matrix = weight.columns > 0 and _IN_A_LAYER.search(name) is not None and _ROUTER.search(name) is None
        yield _Part(name, weight.num_elements, is_matrix)


def _padding(model: ModelConfig) -> float:
    """By how many times experts in MXFP4 grow, whose sizes become multiples."""
    if model.experts is None:
        return 1.0
    grown = 1.0
    for size, multiple in ((model.hidden_size, _MXFP4_HIDDEN), (model.experts.size, _MXFP4_INNER)):
        grown *= -(-size // multiple) * multiple / size
    return grown


def _latent_model(text: dict[str, Any], quantization: dict[str, Any], where: str, stored: StoredTensors | None) -> VllmModel:
    fields = Fields(text, where)
    for name in _LATENT_SIZES:
        fields.size(Key(name))
    for name in _LATENT_OPTIONS:
        if text.get(name):
            fields.size(Key(name))
    check_num_layers(text["num_hidden_layers"], where)
    if "index_topk" in text:
        raise ModelError(f"{where}: the index of sparse attention (index_topk) is not known", "DeepSeek-V2, -V3 and -R1 are")
    rank, rope, num_layers = text["kv_lora_rank"], text["qk_rope_head_dim"], text["num_hidden_layers"]
    weights = _weights(list(_latent_parts(text)), quantization, where, stored, num_layers, 1.0)
    absorbed = num_layers * rank * text["num_attention_heads"] * (text["qk_nope_head_dim"] + text["v_head_dim"])
    again = 2.0 * absorbed if quantization else 0.0  # in --dtype it takes the place of kv_b_proj's own
    weights = Weights(weights.num_split, weights.num_whole, weights.split_bytes + again, weights.whole_bytes, weights.source)
    return VllmModel(
        num_layers=num_layers,
        hidden_size=text["hidden_size"],
        intermediate_size=text["intermediate_size"],
        vocab_size=text["vocab_size"],
        num_heads=text["num_attention_heads"],
        num_kv_heads=1,
        kv_width=rank + rope,
        latent=True,
        max_positions=text["max_position_embeddings"],
        layer_windows=(),
        weights=weights,
        format=str(quantization.get("quant_method", "")),
    )


def _latent_parts(text: dict[str, Any]) -> Iterator[_Part]:
    hidden, rank, rope, value = (text[name] for name in ("hidden_size", "kv_lora_rank", "qk_rope_head_dim", "v_head_dim"))
    heads, query = text["num_attention_heads"], text["qk_nope_head_dim"] + rope
    compressed = text.get("q_lora_rank") or 0
    num_experts, inner = text.get("n_routed_experts") or 0, text.get("moe_intermediate_size") or 0
    dense = text.get("first_k_dense_replace") or 0 if num_experts else text["num_hidden_layers"]
    yield _Part("model.embed_tokens", text["vocab_size"] * hidden, False)
    if not text.get("tie_word_embeddings", False):
        yield _Part("lm_head", text["vocab_size"] * hidden, False)
    yield _Part("model.norm", hidden, False)
    for layer in range(text["num_hidden_layers"]):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        if compressed:
            yield _Part(f"{attention}.q_a_proj", hidden * compressed, True)
        yield _Part(f"{attention}.q_b_proj", (compressed or hidden) * heads * query, True)
        yield _Part(f"{attention}.kv_a_proj_with_mqa", hidden * (rank + rope), True)
        yield _Part(f"{attention}.kv_b_proj", rank * heads * (query - rope + value), True)
        yield _Part(f"{attention}.o_proj", heads * value * hidden, True)
        yield _Part(f"model.layers.{layer}.norms", 2 * hidden + rank + compressed, False)
        if layer < dense or layer % (text.get("moe_layer_freq") or 1):
            yield _Part(f"{mlp}.gate_up_down_proj", 3 * hidden * text["intermediate_size"], True)
            continue
        yield _Part(f"{mlp}.gate", num_experts * hidden + (num_experts if text.get("topk_method") == "noaux_tc" else 0), False)
        yield _Part(f"{mlp}.experts.proj", 3 * hidden * inner * num_experts, True)
        if shared := text.get("n_shared_experts") or 0:
            yield _Part(f"{mlp}.shared_experts.proj", 3 * hidden * inner * shared, True)


def _weights(
    parts: list[_Part], quantization: dict[str, Any], where: str, stored: StoredTensors | None, num_layers: int, padding: float
) -> Weights:
    if stored is not None:
        return _stored_weights(stored, bool(quantization), num_layers, padding)
    try:
        return _computed_weights(parts, quantization, where, padding)
    except (TypeError, ValueError, AttributeError, ArithmeticError, re.error) as error:  # of values of any type
        what = f"{where}: quantization_config is not as {short_repr(quantization.get('quant_method'))} writes it ({error})"
        raise ModelError(what, "is the file complete?") from error


def _computed_weights(parts: list[_Part], quantization: dict[str, Any], where: str, padding: float) -> Weights:
    each = _bytes_of_a_number(quantization, where) if quantization else 0.0
    if not 0 <= each <= _MOST_BYTES:
        raise ValueError(f"a number would take {each:g} bytes")
    sums = dict.fromkeys(("num_split", "num_whole", "split_bytes", "whole_bytes"), 0.0)
    for part in parts:
        on_each = "whole" if _WHOLE.search(part.name) else "split"
        if quantization and part.is_matrix and not _is_left_out(part.name, quantization):
            sums[f"{on_each}_bytes"] += part.num_elements * each * padding
        else:
            sums[f"num_{on_each}"] += part.num_elements
    return Weights(**sums, source="computed")


def _stored_weights(stored: StoredTensors, is_quantized: bool, num_layers: int, padding: float) -> Weights:
    """What the checkpoint has, without layers behind the last one (they draft tokens)."""
    sums = dict.fromkeys(("num_split", "num_whole", "split_bytes", "whole_bytes"), 0.0)
    for name, tensor in stored.tensors.items():
        layer = re.search(r"layers\.(\d+)\.", name)
        if layer is not None and int(layer[1]) >= num_layers:
            continue
        on_each = "whole" if _WHOLE.search(name.removesuffix(".weight")) else "split"
        if tensor.dtype in _FLOATS and not (is_quantized and _SCALES.search(name)):
            sums[f"num_{on_each}"] += tensor.num_elements
        else:
            sums[f"{on_each}_bytes"] += tensor.num_bytes * (padding if "experts" in name else 1.0)
    return Weights(**sums, source=stored.source)


def _is_left_out(name: str, quantization: dict[str, Any]) -> bool:
    """Whether the config names the layer among those that are not quantized: a part of its name, or a pattern re:..."""
    given = quantization.get("modules_to_not_convert") or quantization.get("ignore") or []
    for pattern in map(str, given):
        if pattern.startswith("re:"):
            found = re.match(pattern.removeprefix("re:"), name)
        else:
            found = re.search(rf"(^|\.){re.escape(pattern).replace(re.escape('*'), '[^.]+')}(\.|$)", name)
        if found is not None:
            return True
    return False


def _bytes_of_a_number(quantization: dict[str, Any], where: str) -> float:
    """Of a quantized linear layer, its scales included. Raises ModelError for a format that is not known."""
    method = str(quantization.get("quant_method", "")).replace("_", "-")
    group = quantization.get("group_size", quantization.get("q_group_size", 128))
    if method in ("awq", "gptq"):
        bits = quantization.get("bits", quantization.get("w_bit", 4))
        return bits / 8 + (2 + bits / 8) / group if group > 0 else bits / 8
    if method in ("fp8", "fbgemm-fp8"):
        rows, columns = quantization.get("weight_block_size") or (0, 0)
        return 1 + (4 / (rows * columns) if rows and columns else 0)
    if method == "mxfp4":
        return 0.5 + 1 / 32
    if method == "bitsandbytes":
        return 0.5 + 4 / 64 if quantization.get("load_in_4bit") else 1.0
    if method == "modelopt":
        return 0.5 + 1 / 16 if "FP4" in str(quantization.get("quant_algo")) else 1.0
    if method == "compressed-tensors":
        groups = quantization.get("config_groups")
        first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
        found = (first.get("weights") if isinstance(first, dict) else None) or {}
        bits, group = found.get("num_bits", 8), found.get("group_size")
        scale = 1 if found.get("type") == "float" and bits == 4 else 2
        return bits / 8 + (scale / group if group else 0)
    raise ModelError(
        f"{where}: the size of weights quantized with {short_repr(method) if method else 'an unknown method'} is not known"
    )
