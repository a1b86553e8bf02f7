"""The Llama family: Llama 1 to 3, SmolLM2, Mistral (sliding window), Qwen2 (QKV bias), Qwen3 (QK norm)."""

from dataclasses import dataclass

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.model_config import ModelConfig
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.layers import Linear, RMSNorm, WeightLoader
from pagecli.devices.cpu.recorded_layers import RecordedLayers
from pagecli.devices.cpu.step_buffers import StepBuffers, cut_buffers, make_workspace
from pagecli.devices.step_inputs import KVCache, StepInputs
from pagecli.model.rope import RotaryTable


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: RMSNorm
    qkv: Linear
    q_norm: RMSNorm | None
    k_norm: RMSNorm | None
    out: Linear
    mlp_norm: RMSNorm
    gate_up: Linear
    down: Linear
    window: int


class LlamaModel:
    """A loaded model; `forward` or `most_likely` is one step."""

    def __init__(self, config: ModelConfig, loader: WeightLoader, max_batch_tokens: int) -> None:
        assert config.rope is not None
        self.config = config
        vocab, hidden = config.vocab_size, config.hidden_size
        self.embedding = loader.matrix(["model.embed_tokens.weight"], [vocab], hidden)
        self.layers = [_load_layer(config, loader, i) for i in range(config.num_layers)]
        self.final_norm = loader.rms_norm("model.norm", hidden, config.norm_eps)
        tied = config.tie_embeddings
        self.lm_head = loader.lm_head(self.embedding if tied else loader.matrix(["lm_head.weight"], [vocab], hidden))
        factors = None
        if config.rope.scaling == "frequency_factors":
            factors = loader.vector(["rope_freqs.weight"], [config.rope.rotary_dim // 2])
        self.rotary = RotaryTable(config.rope, config.max_positions, factors)
        self.weight_bytes = loader.num_bytes
        self._scale = config.head_dim**-0.5
        self._workspace = make_workspace(config, max_batch_tokens, {"gate_up": 2 * config.intermediate_size})
        self.recorded = RecordedLayers(max_batch_tokens)

    def forward(self, inputs: StepInputs[Array], kv: KVCache[Array]) -> Array:
        """logits[R, vocab], float32: a view of a buffer that the next call overwrites."""
        last = self._last_hidden(inputs, kv)
        logits = self._workspace.grown("logits", last.shape[0], self.config.vocab_size)
        self.lm_head(logits, last)
        return logits

    def most_likely(self, inputs: StepInputs[Array], kv: KVCache[Array]) -> Array:
        """token_ids[R], int64: the argmax of what `forward` gives, without the logits."""
        return self.lm_head.argmax(self._last_hidden(inputs, kv))

    def _last_hidden(self, inputs: StepInputs[Array], kv: KVCache[Array]) -> Array:
        """hidden[R, hidden] of the rows whose next tokens are wanted, as the LM head takes them."""
        hidden = self._workspace.rows("hidden", inputs.token_ids.shape[0])
        kernels.embedding(hidden, inputs.token_ids, self.embedding)
        self.recorded.run(self._layers, inputs, self.rotary.up_to(int(inputs.context_lens.max())), kv)
        last = self._workspace.rows("normed", inputs.logit_rows.shape[0])
        np.take(hidden, inputs.logit_rows, axis=0, out=last, mode="clip")
        self.final_norm(last, last)
        return last

    def _layers(self, inputs: StepInputs[Array], cos_sin: Array | None, kv: KVCache[Array]) -> None:
        """hidden, embedded token by token, goes through all layers; in `recorded` it is run without Python."""
        assert cos_sin is not None
        num_tokens = inputs.token_ids.shape[0]
        buffers = cut_buffers(self._workspace, self.config, num_tokens)
        gate_up = self._workspace.rows("gate_up", num_tokens)
        for layer, k_cache, v_cache in zip(self.layers, kv.keys, kv.values, strict=True):
            self._attention(layer, buffers, inputs, cos_sin, k_cache, v_cache)
            self._mlp(layer, buffers, gate_up)

    def _attention(
        self,
        layer: _Layer,
        buffers: StepBuffers,
        inputs: StepInputs[Array],
        cos_sin: Array,
        k_cache: Array,
        v_cache: Array,
    ) -> None:
        """hidden += attention(norm(hidden))"""
        q, k = buffers.q, buffers.k
        layer.attention_norm(buffers.normed, buffers.hidden)
        layer.qkv(buffers.qkv, buffers.normed)
        if layer.q_norm is not None and layer.k_norm is not None:
            layer.q_norm(q, q)
            layer.k_norm(k, k)
        kernels.rotary_embedding(q, k, inputs.positions, cos_sin)
        kernels.store_kv(k_cache, v_cache, k, buffers.v, inputs.slot_ids)
        kernels.paged_attention(
            buffers.attended,
            q,
            k_cache,
            v_cache,
            inputs.block_tables,
            inputs.context_lens,
            inputs.query_start,
            self._scale,
            layer.window,
        )
        layer.out(buffers.hidden, buffers.joined, accumulate=True)

    def _mlp(self, layer: _Layer, buffers: StepBuffers, gate_up: Array) -> None:
        """hidden += down(activation(gate(x)) * up(x)), x = norm(hidden); gate_up[T, 2 * intermediate]"""
        layer.mlp_norm(buffers.normed, buffers.hidden)
        layer.gate_up(gate_up, buffers.normed)
        kernels.gated_activation(buffers.mlp, gate_up, self.config.activation)
        layer.down(buffers.hidden, buffers.mlp, accumulate=True)


def _load_layer(config: ModelConfig, loader: WeightLoader, index: int) -> _Layer:
    name, hidden, intermediate = f"model.layers.{index}", config.hidden_size, config.intermediate_size
    attention = f"{name}.self_attn"
    q_norm = k_norm = None
    if config.qk_norm:
        q_norm = loader.rms_norm(f"{attention}.q_norm", config.head_dim, config.norm_eps)
        k_norm = loader.rms_norm(f"{attention}.k_norm", config.head_dim, config.norm_eps)
    return _Layer(
        attention_norm=loader.rms_norm(f"{name}.input_layernorm", hidden, config.norm_eps),
        qkv=loader.linear(
            [f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"],
            [config.q_size, config.kv_size, config.kv_size],
            hidden,
            config.qkv_bias,
        ),
        q_norm=q_norm,
        k_norm=k_norm,
        out=loader.linear([f"{attention}.o_proj"], [hidden], config.q_size, config.out_bias),
        mlp_norm=loader.rms_norm(f"{name}.post_attention_layernorm", hidden, config.norm_eps),
        gate_up=loader.linear(
            [f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj"], [intermediate, intermediate], hidden, config.mlp_bias
        ),
        down=loader.linear([f"{name}.mlp.down_proj"], [hidden], intermediate, config.mlp_bias),
        window=config.window(index),
    )
