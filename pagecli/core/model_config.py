"""What a model is, normalized from any source (config.json, GGUF metadata, preset). No torch here."""

from dataclasses import dataclass

SUPPORTED_ARCHITECTURES = {
    "OPTForCausalLM": "opt",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "llama",
    "Qwen3ForCausalLM": "llama",
}


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding (Su et al., 2021) of the first `rotary_dim` dimensions of each head.

    scaling: "default"; "linear" (positions divided by factor); "llama3" (low frequencies divided by factor, smoothly between
    the two frequency factors); "frequency_factors" (each frequency divided by its entry of a tensor in the weights, as GGUF
    files of Llama 3.1 and later do).
    """

    theta: float
    rotary_dim: int
    scaling: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Normalized architecture of one decoder-only model. Sizes count elements, not bytes."""

    architecture: str  # the name transformers gives it, such as "LlamaForCausalLM"
    family: str  # "opt" or "llama"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float
    activation: str  # a name the kernels know: relu, gelu, gelu_tanh, silu
    tie_embeddings: bool
    dtype_hint: str  # what the checkpoint says its weights are
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool = False  # RMSNorm of each query and key head before rotation (Qwen3)
    rope: RopeConfig | None = None  # None: learned positions (OPT)
    layer_windows: tuple[int, ...] = ()  # sliding window of each layer in tokens, 0 none; empty: none anywhere
    embed_dim: int = 0  # OPT: width of the token embedding; differs from hidden_size in opt-350m
    pre_norm: bool = True  # OPT: LayerNorm before attention and MLP; False: after (opt-350m)
    final_norm: bool = True  # OPT: LayerNorm after the last layer
    norm_affine: bool = True  # OPT: LayerNorms have weight and bias
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None

    @property
    def q_size(self) -> int:
        """Width of all query heads."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads, or of all value heads."""
        return self.num_kv_heads * self.head_dim

    @property
    def qkv_size(self) -> int:
        return self.q_size + 2 * self.kv_size

    @property
    def sliding_window(self) -> int:
        """The largest window of any layer in tokens, 0 when some layer sees everything."""
        return 0 if not self.layer_windows or 0 in self.layer_windows else max(self.layer_windows)

    def window(self, layer: int) -> int:
        """Sliding window of `layer` in tokens, 0 none."""
        return self.layer_windows[layer] if self.layer_windows else 0

    def kv_bytes_per_token(self, dtype_bytes: int, scale_bytes: int = 0) -> int:
        """Bytes of K and V of one token in all layers; OPT-13B at 2 bytes: 2 x 40 x 5120 x 2 = 819,200 (Kwon et al., §3).

        scale_bytes: of a KV head's K, or V, of a token, beside its numbers.
        """
        return 2 * self.num_layers * (self.kv_size * dtype_bytes + self.num_kv_heads * scale_bytes)

    @property
    def num_parameters(self) -> int:
        """Parameters, tied embeddings counted once."""
        return self._num_embedding_parameters + self.num_layers * self._num_layer_parameters

    @property
    def _num_layer_parameters(self) -> int:
        hidden, intermediate = self.hidden_size, self.intermediate_size
        count = hidden * self.qkv_size + (self.qkv_size if self.qkv_bias else 0)
        count += self.q_size * hidden + (hidden if self.out_bias else 0)
        if self.family == "opt":
            count += 2 * hidden * intermediate + (intermediate + hidden if self.mlp_bias else 0)
            return count + (4 * hidden if self.norm_affine else 0)
        count += 3 * hidden * intermediate + (2 * intermediate + hidden if self.mlp_bias else 0)
        return count + 2 * hidden + (2 * self.head_dim if self.qk_norm else 0)

    @property
    def _num_embedding_parameters(self) -> int:
        """Embeddings, projections around them, final norm, LM head."""
        hidden = self.hidden_size
        if self.family == "llama":
            return self.vocab_size * hidden * (1 if self.tie_embeddings else 2) + hidden
        count = self.vocab_size * self.embed_dim * (1 if self.tie_embeddings else 2)
        count += (self.max_positions + OPT_POSITION_OFFSET) * hidden
        count += 2 * self.embed_dim * hidden if self.embed_dim != hidden else 0
        return count + (2 * hidden if self.final_norm and self.norm_affine else 0)


OPT_POSITION_OFFSET = 2  # OPT's learned positions start at row 2 of their table
