"""ModelConfig from the metadata of a GGUF file (keys: github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""

from pagecli.core.model_config import ModelConfig, RopeConfig
from pagecli.errors import ModelError
from pagecli.model import families
from pagecli.model.readers.gguf_header import GgufHeader
from pagecli.model.readers.hf_config import check_num_layers, token_id_tuple


def from_gguf_header(header: GgufHeader) -> ModelConfig:
    """Raises ModelError for an architecture, mixture of experts or rope scaling that pagecli does not support."""
    where, architecture = header.path, header.architecture
    decoder = families.find_gguf(architecture)
    if decoder is None:
        supported = ", ".join(families.gguf_names())
        raise ModelError(f"{where}: GGUF architecture {architecture!r} is not supported", f"supported: {supported}")
    if header.get("expert_count", 0):
        raise ModelError(f"{where}: mixture-of-experts models are not supported")
    num_heads = _size(header, "attention.head_count")
    num_kv_heads = _size(header, "attention.head_count_kv", num_heads)
    hidden = _size(header, "embedding_length")
    head_dim = _size(header, "attention.key_length", hidden // num_heads)
    if num_heads % num_kv_heads or header.get("attention.value_length", head_dim) != head_dim:
        raise ModelError(f"{where}: {num_heads} attention heads with {num_kv_heads} KV heads of unlike sizes are not supported")
    num_layers = check_num_layers(_size(header, "block_count"), where)
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{where}: no tensor token_embd.weight", "is the file complete?")
    window = header.get("attention.sliding_window", 0)
    return ModelConfig(
        architecture=decoder.architectures[0],
        vocab_size=embedding.shape[0],
        hidden_size=hidden,
        embedding_size=hidden,
        intermediate_size=_size(header, "feed_forward_length"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_positions=_size(header, "context_length"),
        norm_eps=float(header.get("attention.layer_norm_rms_epsilon", 1e-6)),
        activation=decoder.mlp.activation.default,  # GGUF files name none
        tie_embeddings="output.weight" not in header.tensors,
        dtype_hint="gguf",
        qkv_bias="blk.0.attn_q.bias" in header.tensors,
        out_bias="blk.0.attn_output.bias" in header.tensors,
        mlp_bias="blk.0.ffn_down.bias" in header.tensors,
        rope=_rope(header, head_dim),
        layer_windows=(window,) * num_layers if window else (),
        eos_token_ids=_eos_token_ids(header),
        bos_token_id=header.metadata.get("tokenizer.ggml.bos_token_id"),
    )


def _size(header: GgufHeader, key: str, default: int | None = None) -> int:
    value = header.get(key, default)
    if isinstance(value, list) and len(set(value)) == 1:
        value = value[0]  # some converters write one number a layer
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise ModelError(
            f"{header.path}: {header.architecture}.{key} is {value!r}, expected a positive integer", "is the file complete?"
        )
    return value


def _rope(header: GgufHeader, head_dim: int) -> RopeConfig:
    theta = float(header.get("rope.freq_base", 10000.0))
    kind = header.get("rope.scaling.type", "none")
    factor = float(header.get("rope.scaling.factor", header.get("rope.scale_linear", 1.0)))
    if header.get("rope.dimension_count", head_dim) != head_dim:
        raise ModelError(f"{header.path}: rotating a part of each head is not supported")
    if "rope_freqs.weight" in header.tensors:
        return RopeConfig(theta, head_dim, "frequency_factors")
    if kind == "linear" or (kind == "none" and factor != 1.0):
        return RopeConfig(theta, head_dim, "linear", factor)
    if kind != "none":
        raise ModelError(f"{header.path}: rope scaling {kind!r} is not supported", "supported: none, linear, frequency factors")
    return RopeConfig(theta, head_dim)


def _eos_token_ids(header: GgufHeader) -> tuple[int, ...]:
    """End of text and, where the file names one, end of turn."""
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    return tuple(dict.fromkeys(i for key in keys for i in token_id_tuple(header.metadata.get(key))))
