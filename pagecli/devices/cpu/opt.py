"""OPT (Zhang et al., 2022): learned positions, LayerNorm before (or, in opt-350m, after) attention and MLP."""

from dataclasses import dataclass

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.model_config import OPT_POSITION_OFFSET, ModelConfig
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.layers import LayerNorm, Linear, WeightLoader
from pagecli.devices.cpu.recorded_layers import RecordedLayers
from pagecli.devices.cpu.step_buffers import StepBuffers, cut_buffers, make_workspace
from pagecli.devices.step_inputs import KVCache, StepInputs

_DECODER = "model.decoder"


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: LayerNorm
    qkv: Linear
    out: Linear
    mlp_norm: LayerNorm
    up: Linear
    down: Linear


class OPTModel:
    """A loaded model; `forward` or `most_likely` is one step."""

    def __init__(self, config: ModelConfig, loader: WeightLoader, max_batch_tokens: int) -> None:
        self.config = config
        vocab, hidden, embed = config.vocab_size, config.hidden_size, config.embed_dim
        self.embedding = loader.matrix([f"{_DECODER}.embed_tokens.weight"], [vocab], embed)
        num_positions = config.max_positions + OPT_POSITION_OFFSET
        self.positions = loader.matrix([f"{_DECODER}.embed_positions.weight"], [num_positions], hidden)
        self.project_in = self.project_out = None
        if embed != hidden:
            self.project_in = loader.linear([f"{_DECODER}.project_in"], [hidden], embed, bias=False)
            self.project_out = loader.linear([f"{_DECODER}.project_out"], [embed], hidden, bias=False)
        self.layers = [_load_layer(config, loader, i) for i in range(config.num_layers)]
        self.final_norm = None
        if config.final_norm:
            self.final_norm = loader.layer_norm(f"{_DECODER}.final_layer_norm", hidden, config.norm_eps, config.norm_affine)
        tied = config.tie_embeddings
        self.lm_head = loader.lm_head(self.embedding if tied else loader.matrix(["lm_head.weight"], [vocab], embed))
        self.weight_bytes = loader.num_bytes
        self._scale = config.head_dim**-0.5
        self._workspace = make_workspace(config, max_batch_tokens, {"embedded": embed})
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
        """hidden[R, embed] of the rows whose next tokens are wanted, as the LM head takes them."""
        buffers = cut_buffers(self._workspace, self.config, inputs.token_ids.shape[0])
        self._embed(inputs, buffers)
        self.recorded.run(self._layers, inputs, None, kv)
        return self._normed_after(buffers.hidden, inputs.logit_rows)

    def _layers(self, inputs: StepInputs[Array], cos_sin: Array | None, kv: KVCache[Array]) -> None:
        """hidden, embedded token by token, goes through all layers; in `recorded` it is run without Python."""
        buffers = cut_buffers(self._workspace, self.config, inputs.token_ids.shape[0])
        for layer, k_cache, v_cache in zip(self.layers, kv.keys, kv.values, strict=True):
            self._attention(layer, buffers, inputs, k_cache, v_cache)
            self._mlp(layer, buffers)

    def _embed(self, inputs: StepInputs[Array], buffers: StepBuffers) -> None:
        hidden, positions = buffers.hidden, buffers.normed
        if self.project_in is None:
            kernels.embedding(hidden, inputs.token_ids, self.embedding)
        else:
            embedded = self._workspace.rows("embedded", hidden.shape[0])
            kernels.embedding(embedded, inputs.token_ids, self.embedding)
            self.project_in(hidden, embedded)
        kernels.embedding(positions, inputs.positions + OPT_POSITION_OFFSET, self.positions)
        np.add(hidden, positions, out=hidden)

    def _attention(
        self, layer: _Layer, buffers: StepBuffers, inputs: StepInputs[Array], k_cache: Array, v_cache: Array
    ) -> None:
        """hidden += attention(hidden), normed before or after"""
        layer.qkv(buffers.qkv, self._normed_before(layer.attention_norm, buffers))
        kernels.store_kv(k_cache, v_cache, buffers.k, buffers.v, inputs.slot_ids)
        kernels.paged_attention(
            buffers.attended,
            buffers.q,
            k_cache,
            v_cache,
            inputs.block_tables,
            inputs.context_lens,
            inputs.query_start,
            self._scale,
        )
        layer.out(buffers.hidden, buffers.joined, accumulate=True)
        if not self.config.pre_norm:
            layer.attention_norm(buffers.hidden, buffers.hidden)

    def _mlp(self, layer: _Layer, buffers: StepBuffers) -> None:
        """hidden += down(activation(up(hidden))), normed before or after"""
        layer.up(buffers.mlp, self._normed_before(layer.mlp_norm, buffers), activation=self.config.activation)
        layer.down(buffers.hidden, buffers.mlp, accumulate=True)
        if not self.config.pre_norm:
            layer.mlp_norm(buffers.hidden, buffers.hidden)

    def _normed_before(self, norm: LayerNorm, buffers: StepBuffers) -> Array:
        if not self.config.pre_norm:
            return buffers.hidden
        norm(buffers.normed, buffers.hidden)
        return buffers.normed

    def _normed_after(self, hidden: Array, logit_rows: Array) -> Array:
        """The final norm and projection of some rows of hidden."""
        num_rows = logit_rows.shape[0]
        last = self._workspace.rows("normed", num_rows)
        np.take(hidden, logit_rows, axis=0, out=last, mode="clip")
        if self.final_norm is not None:
            self.final_norm(last, last)
        if self.project_out is not None:
            embedded = self._workspace.rows("embedded", num_rows)
            self.project_out(embedded, last)
            last = embedded
        return last


def _load_layer(config: ModelConfig, loader: WeightLoader, index: int) -> _Layer:
    name, hidden, eps, affine = f"{_DECODER}.layers.{index}", config.hidden_size, config.norm_eps, config.norm_affine
    attention = f"{name}.self_attn"
    return _Layer(
        attention_norm=loader.layer_norm(f"{name}.self_attn_layer_norm", hidden, eps, affine),
        qkv=loader.linear(
            [f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"], [hidden] * 3, hidden, config.qkv_bias
        ),
        out=loader.linear([f"{attention}.out_proj"], [hidden], hidden, config.out_bias),
        mlp_norm=loader.layer_norm(f"{name}.final_layer_norm", hidden, eps, affine),
        up=loader.linear([f"{name}.fc1"], [config.intermediate_size], hidden, config.mlp_bias),
        down=loader.linear([f"{name}.fc2"], [hidden], config.intermediate_size, config.mlp_bias),
    )
