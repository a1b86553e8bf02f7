"""Tiny models as GGUF files, as llama.cpp's convert_hf_to_gguf.py writes each architecture."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import numpy as np

Values = np.ndarray
Change = Callable[[str, Values, Any], Values]  # of a tensor by its name, with the model's config
# Our families that are several of transformers' keep one name for a number.
_ALIASES = {
    "block_count": ("num_hidden_layers", "n_layer"),
    "embedding_length": ("hidden_size", "n_embd"),
    "context_length": ("max_position_embeddings", "n_positions", "seq_length"),
    "feed_forward_length": ("intermediate_size", "ffn_hidden_size"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "expert_count": ("num_local_experts", "num_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
}


@dataclass(frozen=True)
class Layout:
    """An architecture's GGUF name, the keys it has beside the usual ones, and what the converter does to its tensors."""

    name: str
    keys: dict[str, str] = field(default_factory=dict)  # key of the file -> attribute of the config
    changes: tuple[Change, ...] = ()
    others: Callable[[str, Values], dict[str, Values]] | None = None  # tensors in place of one
    quantized: dict[str, gguf.GGMLQuantizationType] = field(default_factory=dict)  # part of a tensor's name -> its type


def interleaved(name: str, values: Values, config: Any) -> Values:
    """Halves of each head of Q and K become pairs side by side."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((count for part, count in heads.items() if f".{part}." in name), 0)
    return values.reshape(count, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape) if count else values


def norms_plus_one(name: str, values: Values, config: Any) -> Values:
    return values + 1 if name.endswith("norm.weight") else values


def transposed(name: str, values: Values, config: Any) -> Values:
    """GPT-2's Conv1D."""
    return values.T if values.ndim == 2 and name.split(".")[-2].startswith("c_") else values


def by_kind(name: str, values: Values, config: Any) -> Values:
    """Rows of Q, K and V that lie head by head."""
    if "query_key_value" not in name:
        return values
    num_groups = getattr(config, "num_kv_heads", config.num_attention_heads)
    parts = config.num_attention_heads // num_groups + 2
    heads = values.reshape(num_groups, parts, -1, *values.shape[1:])
    kinds = heads[:, :-2], heads[:, -2], heads[:, -1]
    return np.concatenate([kind.reshape(-1, *values.shape[1:]) for kind in kinds])


def experts_apart(name: str, values: Values) -> dict[str, Values]:
    """gpt-oss's: gates and ups, side by side there, in tensors of their own, and outputs as rows."""
    first, _, last = name.partition(".experts.")
    if name.endswith("sinks"):
        return {f"{name}.weight": values}
    if not last:
        return {name: values}
    kind = "bias" if last.endswith("_bias") else "weight"
    rows = values if kind == "bias" else values.swapaxes(1, 2)
    if last.startswith("down"):
        return {f"{first}.experts.down_proj.{kind}": rows}
    return {f"{first}.experts.{part}_proj.{kind}": rows[:, at::2] for at, part in enumerate(("gate", "up"))}


def gates_apart(name: str, values: Values) -> dict[str, Values]:
    """Granite's: gates before ups in one tensor of all experts."""
    first, _, last = name.partition("block_sparse_moe.input_linear")
    if not last:
        return {name: values}
    return {f"{first}mlp.experts.{part}_proj.weight": np.split(values, 2, 1)[at] for at, part in enumerate(("gate", "up"))}


def write_gguf(path: Path, model: Any, layout: Layout) -> Path:
    config, writer = model.config, gguf.GGUFWriter(path, layout.name)
    names = gguf.get_tensor_name_map(next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == layout.name), 8)
    found = {key: _first(config, attributes) for key, attributes in _ALIASES.items()}
    found |= {key: getattr(config, attribute) for key, attribute in layout.keys.items()}
    found["feed_forward_length"] = found["feed_forward_length"] or 4 * found["embedding_length"]
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    head = getattr(config, "head_dim", None)
    found["attention.key_length"] = found["attention.value_length"] = head
    size = head or found["embedding_length"] // found["attention.head_count"]
    if rope:
        found |= {"rope.freq_base": rope["rope_theta"]}
        found |= {"rope.dimension_count": int(size * rope.get("partial_rotary_factor", 1.0))}
    if rope.get("rope_type") == "yarn":
        found |= {"rope.scaling.type": "yarn", "rope.scaling.factor": rope["factor"]}
        found |= {"rope.scaling.original_context_length": rope["original_max_position_embeddings"]}
    for key, value in found.items():
        if value is not None:
            _add(writer, f"{layout.name}.{key}", value)
    for name, tensor in _stored(model, layout).items():
        values = tensor
        for change in layout.changes:
            values = change(name, values, config)
        written = names.get_name(name, (".weight", ".bias")) or names.get_name(
            name.removeprefix("transformer."), (".weight", ".bias")
        )
        values = np.ascontiguousarray(values.squeeze() if values.shape[0] == 1 else values)
        kind = next((kind for part, kind in layout.quantized.items() if part in written), None)
        if kind is None:
            writer.add_tensor(written, values)
        else:
            writer.add_tensor(written, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _first(config: Any, attributes: tuple[str, ...]) -> Any:
    own = config.to_dict()
    return next((own[name] for name in attributes if own.get(name) is not None), None)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, list):
        writer.add_array(key, [each == "sliding_attention" for each in value])
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    else:
        writer.add_float32(key, float(value))


def _stored(model: Any, layout: Layout) -> dict[str, Values]:
    """The tensors of the checkpoint's files by their names there, experts' joined as [experts, ...]."""
    from safetensors.numpy import load_file

    found: dict[str, Values] = {}
    experts: dict[str, dict[int, Values]] = {}
    for name, values in load_file(Path(model.name_or_path) / "model.safetensors").items():
        before, _, after = name.partition(".experts.")
        number, _, part = after.partition(".")
        if number.isdigit():
            experts.setdefault(f"{before}.experts.{part}", {})[int(number)] = values
        else:
            found[name] = values
    found |= {name: np.stack([parts[e] for e in sorted(parts)]) for name, parts in experts.items()}
    if layout.others is None:
        return found
    return {other: part for name, values in found.items() for other, part in layout.others(name, values).items()}
