"""Named models: their hub ids and full configs, so that shapes can be measured (--load-format dummy) without a network.

Numbers as in each hub repository's config.json; the parameter counts they give are tested against the published ones.
"""

import functools
import re
from dataclasses import dataclass
from typing import Any

_OPT: dict[str, dict[str, Any]] = {  # Zhang et al., 2022, table 1
    "opt-125m": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "ffn_dim": 3072},
    "opt-350m": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "ffn_dim": 4096,
        "word_embed_proj_dim": 512,
        "do_layer_norm_before": False,
    },
    "opt-1.3b": {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32, "ffn_dim": 8192},
    "opt-2.7b": {"hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32, "ffn_dim": 10240},
    "opt-6.7b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "ffn_dim": 16384},
    "opt-13b": {"hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "ffn_dim": 20480},
    "opt-30b": {"hidden_size": 7168, "num_hidden_layers": 48, "num_attention_heads": 56, "ffn_dim": 28672},
    "opt-66b": {"hidden_size": 9216, "num_hidden_layers": 64, "num_attention_heads": 72, "ffn_dim": 36864},
    "opt-175b": {"hidden_size": 12288, "num_hidden_layers": 96, "num_attention_heads": 96, "ffn_dim": 49152},
}

_LLAMA_1 = {"vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "bos": 1, "eos": 2}
_LLAMA_2 = {"vocab_size": 32000, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "bos": 1, "eos": 2}
_LLAMA_3 = {
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
    "bos": 128000,
    "eos": 128001,
}
_ROPE_3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_LLAMA_3_1 = _LLAMA_3 | {"max_position_embeddings": 131072, "rope_scaling": _ROPE_3 | {"factor": 8.0}}
_LLAMA_3_3 = _LLAMA_3_1 | {"eos": [128001, 128008, 128009]}
_LLAMA_3_2 = _LLAMA_3_1 | {"rope_scaling": _ROPE_3 | {"factor": 32.0}, "tie_word_embeddings": True}
_MISTRAL = {
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "sliding_window": 4096,
    "bos": 1,
    "eos": 2,
}
_MISTRAL_3 = _MISTRAL | {"vocab_size": 32768, "rope_theta": 1e6, "sliding_window": None}
_MISTRAL_NEMO = _MISTRAL_3 | {"vocab_size": 131072, "head_dim": 128, "max_position_embeddings": 131072}
_MISTRAL_SMALL = _MISTRAL_NEMO | {"max_position_embeddings": 32768, "rope_theta": 1e8}
_QWEN = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "bos": 151643, "eos": 151643}
_QWEN_SMALL = _QWEN | {"vocab_size": 151936, "max_position_embeddings": 32768, "tie_word_embeddings": True}
_QWEN_LARGE = _QWEN | {"vocab_size": 152064, "max_position_embeddings": 131072}
_QWEN_LARGE_5 = _QWEN_LARGE | {"rms_norm_eps": 1e-5}
_QWEN_3 = _QWEN | {"vocab_size": 151936, "max_position_embeddings": 40960, "head_dim": 128, "eos": [151645, 151643]}
_QWEN_3_TIED = _QWEN_3 | {"tie_word_embeddings": True}
_SMOLLM2 = {
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e5,
    "bos": 1,
    "eos": 2,
} | {"tie_word_embeddings": True}

_MIXTRAL: dict[str, Any] = {
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "bos": 1,
    "eos": 2,
}
_MIXTRAL |= {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}
_MIXTRAL_LARGE = _MIXTRAL | {"vocab_size": 32768, "max_position_embeddings": 65536}
_QWEN_3_MOE = _QWEN_3 | {"num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True}
_OLMOE = {"vocab_size": 50304, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "bos": None, "eos": 50279}
_OLMOE |= {"num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": False}
_GPT_OSS = {
    "vocab_size": 201088,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    "head_dim": 64,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "num_experts_per_tok": 4,
    "bos": 199998,
    "eos": [200002, 199999, 200012],
}

# name: (hub id, architecture, settings of its series, hidden, intermediate, layers, heads, KV heads)
_LLAMA: dict[str, tuple[str, str, dict[str, Any], int, int, int, int, int]] = {
    "llama-7b": ("huggyllama/llama-7b", "Llama", _LLAMA_1, 4096, 11008, 32, 32, 32),
    "llama-13b": ("huggyllama/llama-13b", "Llama", _LLAMA_1, 5120, 13824, 40, 40, 40),
    "llama-30b": ("huggyllama/llama-30b", "Llama", _LLAMA_1, 6656, 17920, 60, 52, 52),
    "llama-65b": ("huggyllama/llama-65b", "Llama", _LLAMA_1 | {"rms_norm_eps": 1e-5}, 8192, 22016, 80, 64, 64),
    "llama-2-7b": ("meta-llama/Llama-2-7b-hf", "Llama", _LLAMA_2, 4096, 11008, 32, 32, 32),
    "llama-2-13b": ("meta-llama/Llama-2-13b-hf", "Llama", _LLAMA_2, 5120, 13824, 40, 40, 40),
    "llama-2-70b": ("meta-llama/Llama-2-70b-hf", "Llama", _LLAMA_2, 8192, 28672, 80, 64, 8),
    "llama-3-8b": ("meta-llama/Meta-Llama-3-8B", "Llama", _LLAMA_3, 4096, 14336, 32, 32, 8),
    "llama-3-70b": ("meta-llama/Meta-Llama-3-70B", "Llama", _LLAMA_3, 8192, 28672, 80, 64, 8),
    "llama-3.1-8b": ("meta-llama/Llama-3.1-8B", "Llama", _LLAMA_3_1, 4096, 14336, 32, 32, 8),
    "llama-3.1-70b": ("meta-llama/Llama-3.1-70B", "Llama", _LLAMA_3_1, 8192, 28672, 80, 64, 8),
    "llama-3.1-405b": ("meta-llama/Llama-3.1-405B", "Llama", _LLAMA_3_1, 16384, 53248, 126, 128, 8),
    "llama-3.2-1b": ("meta-llama/Llama-3.2-1B", "Llama", _LLAMA_3_2, 2048, 8192, 16, 32, 8),
    "llama-3.2-3b": ("meta-llama/Llama-3.2-3B", "Llama", _LLAMA_3_2, 3072, 8192, 28, 24, 8),
    "llama-3.3-70b": ("meta-llama/Llama-3.3-70B-Instruct", "Llama", _LLAMA_3_3, 8192, 28672, 80, 64, 8),
    "mistral-7b": ("mistralai/Mistral-7B-v0.1", "Mistral", _MISTRAL, 4096, 14336, 32, 32, 8),
    "mistral-7b-v0.3": ("mistralai/Mistral-7B-v0.3", "Mistral", _MISTRAL_3, 4096, 14336, 32, 32, 8),
    "mistral-nemo-12b": ("mistralai/Mistral-Nemo-Base-2407", "Mistral", _MISTRAL_NEMO, 5120, 14336, 40, 32, 8),
    "mistral-small-24b": ("mistralai/Mistral-Small-24B-Base-2501", "Mistral", _MISTRAL_SMALL, 5120, 32768, 40, 32, 8),
    "qwen2.5-0.5b": ("Qwen/Qwen2.5-0.5B", "Qwen2", _QWEN_SMALL, 896, 4864, 24, 14, 2),
    "qwen2.5-1.5b": ("Qwen/Qwen2.5-1.5B", "Qwen2", _QWEN_SMALL | {"max_position_embeddings": 131072}, 1536, 8960, 28, 12, 2),
    "qwen2.5-3b": ("Qwen/Qwen2.5-3B", "Qwen2", _QWEN_SMALL, 2048, 11008, 36, 16, 2),
    "qwen2.5-7b": ("Qwen/Qwen2.5-7B", "Qwen2", _QWEN_LARGE, 3584, 18944, 28, 28, 4),
    "qwen2.5-14b": ("Qwen/Qwen2.5-14B", "Qwen2", _QWEN_LARGE_5, 5120, 13824, 48, 40, 8),
    "qwen2.5-32b": ("Qwen/Qwen2.5-32B", "Qwen2", _QWEN_LARGE_5, 5120, 27648, 64, 40, 8),
    "qwen2.5-72b": ("Qwen/Qwen2.5-72B", "Qwen2", _QWEN_LARGE_5, 8192, 29568, 80, 64, 8),
    "qwen3-0.6b": ("Qwen/Qwen3-0.6B", "Qwen3", _QWEN_3_TIED, 1024, 3072, 28, 16, 8),
    "qwen3-1.7b": ("Qwen/Qwen3-1.7B", "Qwen3", _QWEN_3_TIED, 2048, 6144, 28, 16, 8),
    "qwen3-4b": ("Qwen/Qwen3-4B", "Qwen3", _QWEN_3_TIED, 2560, 9728, 36, 32, 8),
    "qwen3-8b": ("Qwen/Qwen3-8B", "Qwen3", _QWEN_3, 4096, 12288, 36, 32, 8),
    "qwen3-14b": ("Qwen/Qwen3-14B", "Qwen3", _QWEN_3, 5120, 17408, 40, 40, 8),
    "qwen3-32b": ("Qwen/Qwen3-32B", "Qwen3", _QWEN_3, 5120, 25600, 64, 64, 8),
    "mixtral-8x7b": ("mistralai/Mixtral-8x7B-v0.1", "Mixtral", _MIXTRAL, 4096, 14336, 32, 32, 8),
    "mixtral-8x22b": ("mistralai/Mixtral-8x22B-v0.1", "Mixtral", _MIXTRAL_LARGE, 6144, 16384, 56, 48, 8),
    "qwen3-30b-a3b": ("Qwen/Qwen3-30B-A3B", "Qwen3Moe", _QWEN_3_MOE | {"moe_intermediate_size": 768}, 2048, 6144, 48, 32, 4),
    "qwen3-235b-a22b": (
        "Qwen/Qwen3-235B-A22B",
        "Qwen3Moe",
        _QWEN_3_MOE | {"moe_intermediate_size": 1536},
        4096,
        12288,
        94,
        64,
        4,
    ),
    "olmoe-1b-7b": ("allenai/OLMoE-1B-7B-0924", "Olmoe", _OLMOE, 2048, 1024, 16, 16, 16),
    "gpt-oss-20b": ("openai/gpt-oss-20b", "GptOss", _GPT_OSS | {"num_local_experts": 32}, 2880, 2880, 24, 64, 8),
    "gpt-oss-120b": ("openai/gpt-oss-120b", "GptOss", _GPT_OSS | {"num_local_experts": 128}, 2880, 2880, 36, 64, 8),
    "smollm2-135m": ("HuggingFaceTB/SmolLM2-135M-Instruct", "Llama", _SMOLLM2, 576, 1536, 30, 9, 3),
    "smollm2-360m": ("HuggingFaceTB/SmolLM2-360M-Instruct", "Llama", _SMOLLM2, 960, 2560, 32, 15, 5),
    "smollm2-1.7b": (
        "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        "Llama",
        _SMOLLM2 | {"rope_theta": 130000.0},
        2048,
        8192,
        24,
        32,
        32,
    ),
}
_LLAMA["llama-33b"] = _LLAMA["llama-30b"]  # the paper says 33B, the files say 30b


# Qwen3 says "Base" of those that were not; gpt-oss has no others.
_CHAT = re.compile(r"instruct|chat|-it\b|qwen3(?!.*base)|gpt-oss", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Preset:
    """A named model: hub_id is None when its weights are not public (opt-175b); config as in config.json."""

    name: str
    hub_id: str | None
    config: dict[str, Any]

    @property
    def is_chat(self) -> bool:
        """Whether it was trained to answer messages: by the name of its repository."""
        return self.hub_id is not None and _CHAT.search(self.hub_id) is not None


def find_preset(name: str) -> Preset | None:
    """The preset of that name, or whose repository on the hub has that name (case does not matter); None if there is none."""
    name = name.lower()
    name = _names_by_repository().get(name, name)
    if name in _OPT:
        return Preset(name, None if name == "opt-175b" else f"facebook/{name}", _opt_config(_OPT[name]))
    if name in _LLAMA:
        hub_id, architecture, series, *sizes = _LLAMA[name]
        return Preset(name, hub_id, _llama_config(architecture, series, sizes))
    return None


def preset_names() -> list[str]:
    return [*_OPT, *_LLAMA]


@functools.cache
def _names_by_repository() -> dict[str, str]:
    """Name of a repository without its organization -> name of the preset, where no preset itself is called so."""
    repositories = {hub_id.partition("/")[2].lower(): name for name, (hub_id, *_) in reversed(_LLAMA.items())}
    return {repository: name for repository, name in repositories.items() if repository not in preset_names()}


def _opt_config(sizes: dict[str, Any]) -> dict[str, Any]:
    shared = {
        "architectures": ["OPTForCausalLM"],
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
        "torch_dtype": "float16",
    }
    return shared | {"bos_token_id": 2, "eos_token_id": 2} | sizes


def _llama_config(architecture: str, series: dict[str, Any], sizes: list[int]) -> dict[str, Any]:
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    config = {"architectures": [f"{architecture}ForCausalLM"], "torch_dtype": "bfloat16"} | series
    config |= {"bos_token_id": config.pop("bos"), "eos_token_id": config.pop("eos")}
    return config | dict(zip(keys, sizes, strict=True))


def find_preset_by_hub_id(hub_id: str) -> Preset | None:
    """The preset whose weights are at `hub_id`, or None."""
    return next((p for p in map(find_preset, preset_names()) if p is not None and p.hub_id == hub_id), None)
