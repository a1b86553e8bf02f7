"""Tiny random models in the transformers layout, with a tokenizer: real in everything but size."""

from pathlib import Path
from typing import Any

TINY_MODELS = ("opt", "opt-post-norm", "llama", "llama-tied", "mistral", "qwen2", "qwen3")
TINY_VOCAB_SIZE = 384  # more than the tokenizer's, as in Qwen

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TRAINING_TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "A paged cache keeps the keys and the values of a sequence in blocks.",
    "What is the capital of France? The capital of France is Paris.",
    "system user assistant: answer the question, then stop.",
]


def build(name: str, directory: Path) -> Path:
    import torch

    model = make_model(name)
    with torch.no_grad():
        _randomize(model, torch.Generator().manual_seed(len(name)))
    model.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


def make_model(name: str, **changes: Any) -> Any:
    """A transformers model of one of the tiny architectures, its config changed by `changes`."""
    import transformers as tf

    shared = {"vocab_size": TINY_VOCAB_SIZE, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": None}
    if name.startswith("opt"):
        sizes = {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 128,
            "max_position_embeddings": 256,
        }
        post = {"do_layer_norm_before": False, "word_embed_proj_dim": 32} if name == "opt-post-norm" else {}
        return tf.OPTForCausalLM(tf.OPTConfig(**(shared | sizes | post | changes))).eval()
    shared |= {
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "max_position_embeddings": 512,
        "head_dim": 32,
    }
    shared |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    llama3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    llama3 |= {"original_max_position_embeddings": 64}
    config_class, model_class, own = {
        "llama": (tf.LlamaConfig, tf.LlamaForCausalLM, {"rope_parameters": llama3, "attention_bias": True, "mlp_bias": True}),
        "llama-tied": (tf.LlamaConfig, tf.LlamaForCausalLM, {"tie_word_embeddings": True, "num_key_value_heads": 1}),
        "mistral": (tf.MistralConfig, tf.MistralForCausalLM, {"sliding_window": 16}),
        "qwen2": (tf.Qwen2Config, tf.Qwen2ForCausalLM, {"hidden_size": 128}),
        "qwen3": (tf.Qwen3Config, tf.Qwen3ForCausalLM, {}),
    }[name]
    return model_class(config_class(**(shared | own | changes))).eval()


def _randomize(model: Any, generator: Any) -> None:
    """Weights of the size that keeps activations near 1, so that logits differ and mistakes show."""
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.normal_(1.0, 0.1, generator=generator)
        elif parameter.dim() == 1 or "embed_positions" in name:
            parameter.normal_(0.0, 0.1, generator=generator)
        else:
            parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)


def make_tokenizer() -> Any:
    """Byte-level BPE of about 340 tokens; 0 <|endoftext|>, 1 <|im_start|>, 2 <|im_end|>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_TRAINING_TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[2])
    fast.chat_template = _CHAT_TEMPLATE
    return fast
