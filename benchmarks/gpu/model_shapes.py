"""The models that are run with dummy weights, as directories with a config.json that pagecli, transformers and vLLM all read,
and the requests they are given."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagecli.model.presets import find_preset
from pagecli.profiler.workloads import drawn_lengths
from pagecli.profiler.workloads.prompt_tokens import uniform_ids

_TYPES = {"OPTForCausalLM": "opt", "LlamaForCausalLM": "llama"}
_TINY: dict[str, dict[str, Any]] = {
    "opt-13b": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "llama": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 64,
    },
}
_TINY_SHARED = {"vocab_size": 300, "max_position_embeddings": 256}
TINY_LENGTHS = drawn_lengths.Lengths(9, 0.5, 6, 0.5, 2, 16)


@dataclass(frozen=True, slots=True)
class Workload:
    """prompts[i] is answered with exactly outputs[i] tokens."""

    prompts: list[list[int]]
    outputs: list[int]


def model_directory(name: str, tiny: bool) -> Path:
    """A new directory with the preset's config.json; `tiny` keeps its architecture alone. Raises KeyError."""
    preset = find_preset(name)
    if preset is None:
        raise KeyError(name)
    config = preset.config | {"model_type": _TYPES[preset.config["architectures"][0]]}
    if tiny:
        config |= _TINY_SHARED | (_TINY["opt-13b"] if config["model_type"] == "opt" else _TINY["llama"])
        config |= {"bos_token_id": 1, "eos_token_id": 2}
    directory = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def requests(num_requests: int, vocab_size: int, tiny: bool, kind: str = "sharegpt") -> Workload:
    """ShareGPT-like or Alpaca-like requests (pagecli.profiler.workloads.drawn_lengths), the same in every process."""
    lengths = {"sharegpt": drawn_lengths.SHAREGPT, "alpaca": drawn_lengths.ALPACA}[kind]
    drawn = drawn_lengths.draw(TINY_LENGTHS if tiny else lengths, num_requests)
    return Workload(uniform_ids(drawn, vocab_size), [output for _, output in drawn])
