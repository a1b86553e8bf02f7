"""A model's sizes and settings, normalized from any source (config.json, GGUF metadata, preset). No torch here."""

from dataclasses import dataclass, field
from typing import Literal

Order = Literal["pre", "post", "sandwich", "output", "parallel", "parallel_norms"]


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding (Su et al., 2021) of the first `rotary_dim` dimensions of each head.

    scaling: "default"; "linear" (positions divided by factor); "llama3" (low frequencies divided by factor, smoothly between
    the two frequency factors); "yarn" (Peng et al., 2023: the same, smoothly between beta_slow and beta_fast turns within the
    original context); "divisors" (each frequency by its own: longrope); "frequency_factors" (by its entry of a tensor in the
    weights, as GGUF files of Llama 3.1 and later do). Cosines and sines are multiplied by attention_factor.
    """

    theta: float
    rotary_dim: int
    scaling: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True  # yarn: the bounds of the ramp to whole dimensions
    divisors: tuple[float, ...] = ()
    attention_factor: float = 1.0
    context: int = 0  # positions it is good for as it stands here, 0: all


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsConfig:
    """A mixture of experts: of `num`, each token goes to `chosen`."""

    num: int
    chosen: int
    size: int  # inner features of one
    sparse_layers: tuple[bool, ...]  # layers that have experts, in place of an MLP
    normalized: bool = False  # the weights of a token's experts add up to 1
    shared_size: int = 0  # of the expert that every token goes to, 0: there is none
    limit: float = 0.0  # of the clamped gate, 0: not clamped
    alpha: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationConfig:
    """How a checkpoint holds the linear layers that are quantized in it, as its quantization_config says."""

    method: str  # quant_method, as config.json names it
    layout: Literal["gptq", "awq", "pack-quantized", "plain", "bitsandbytes", "mxfp4"]  # a room of model/weights/packed
    bits: int  # of a number
    block: tuple[int, int] = (0, 0)  # rows and columns that share a scale; 0: all
    is_float: bool = False  # numbers are float8 (e4m3), or of 4 bits those of a table
    has_zeros: bool = False  # each scale has a zero beside it
    zero_added: int = 0  # to a zero as it is stored
    in_order: bool = True  # groups are runs of columns
    left_out: tuple[str, ...] = ()  # modules that are not quantized: names, their ends, or regular expressions


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The sizes and settings of one decoder-only model; its architecture's description (model/decoder.py) says how they are
    used. Sizes count elements, not bytes."""

    architecture: str  # the name transformers gives it, such as "LlamaForCausalLM"
    vocab_size: int
    hidden_size: int
    embedding_size: int  # of a token's row; differs from hidden_size in opt-350m
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float
    activation: str  # a name the kernels know: relu, gelu, gelu_tanh, silu, relu2
    tie_embeddings: bool
    dtype_hint: str  # what the checkpoint says its weights are
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    rope: RopeConfig | None = None  # None: positions are learned, or ALiBi's
    layer_ropes: tuple[RopeConfig | None, ...] = ()  # of each layer where they differ, None: it rotates nothing
    rope_interleaved: bool = False  # rotated pairs lie side by side in the checkpoint's rows
    layer_windows: tuple[int, ...] = ()  # sliding window of each layer in tokens, 0 none; empty: none anywhere
    order: Order = "pre"  # where a layer's norms stand (model/decoder.py)
    final_norm: bool = True  # after the last layer
    norm_affine: bool = True  # norms have weights
    grouped_qkv: bool = False  # fused rows of Q, K and V lie KV head by KV head
    alibi: bool = False
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    attention_scale: float | None = None  # None: head_dim ** -0.5
    attention_cap: float = 0.0  # 0: none
    logits_scale: float = 1.0
    logits_cap: float = 0.0
    experts: ExpertsConfig | None = None
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    trained_order: tuple[bool, bool] | None = None  # of a GGUF file: rope_interleaved, grouped_qkv of checkpoints of the model
    quantization: QuantizationConfig | None = field(default=None, repr=False)  # a way to store it, not another model

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

    def rope_of(self, layer: int) -> RopeConfig | None:
        """The rotary embedding of `layer`, None where it has none."""
        return self.layer_ropes[layer] if self.layer_ropes else self.rope

    def window(self, layer: int) -> int:
        """Sliding window of `layer` in tokens, 0 none."""
        return self.layer_windows[layer] if self.layer_windows else 0
