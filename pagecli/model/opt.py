"""OPT (Zhang et al., 2022): learned positions, LayerNorm before (or, in opt-350m, after) attention and MLP."""

from dataclasses import dataclass

import torch

from pagecli import kernels
from pagecli.model.config import OPT_POSITION_OFFSET, ModelConfig
from pagecli.model.layers import LayerNorm, Linear, WeightLoader, Workspace
from pagecli.model.step_inputs import KVCache, StepInputs

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
    """A loaded model; `forward` is one step."""

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
        self.lm_head = Linear(self.embedding if tied else loader.matrix(["lm_head.weight"], [vocab], embed), None)
        self.weight_bytes = loader.num_bytes
        self._scale = config.head_dim**-0.5
        widths = {"hidden": hidden, "normed": hidden, "qkv": config.qkv_size, "attention": config.q_size}
        self._workspace = Workspace(max_batch_tokens, widths | {"mlp": config.intermediate_size, "embedded": embed})

    def forward(self, inputs: StepInputs, kv: KVCache) -> torch.Tensor:
        """logits[R, vocab], float32: a view of a buffer that the next call overwrites."""
        hidden = self._embed(inputs)
        for index, layer in enumerate(self.layers):
            self._attention(layer, hidden, inputs, kv.keys[index], kv.values[index])
            self._mlp(layer, hidden)
        return self._logits(hidden, inputs.logit_rows)

    def _embed(self, inputs: StepInputs) -> torch.Tensor:
        num_tokens = inputs.token_ids.shape[0]
        hidden, positions = self._workspace.rows("hidden", num_tokens), self._workspace.rows("normed", num_tokens)
        if self.project_in is None:
            kernels.embedding(hidden, inputs.token_ids, self.embedding)
        else:
            embedded = self._workspace.rows("embedded", num_tokens)
            kernels.embedding(embedded, inputs.token_ids, self.embedding)
            self.project_in(hidden, embedded)
        kernels.embedding(positions, inputs.positions + OPT_POSITION_OFFSET, self.positions)
        return hidden.add_(positions)

    def _attention(
        self, layer: _Layer, hidden: torch.Tensor, inputs: StepInputs, k_cache: torch.Tensor, v_cache: torch.Tensor
    ) -> None:
        """hidden[T, hidden] += attention(hidden), normed before or after"""
        config, num_tokens = self.config, hidden.shape[0]
        x = self._normed_before(layer.attention_norm, hidden)
        qkv, attended = self._workspace.rows("qkv", num_tokens), self._workspace.rows("attention", num_tokens)
        layer.qkv(qkv, x)
        q, k, v = qkv.view(num_tokens, 3, config.num_heads, config.head_dim).unbind(1)
        kernels.store_kv(k_cache, v_cache, k, v, inputs.slot_ids)
        kernels.paged_attention(
            attended.view(q.shape),
            q,
            k_cache,
            v_cache,
            inputs.block_tables,
            inputs.context_lens,
            inputs.query_start,
            self._scale,
        )
        layer.out(hidden, attended, accumulate=True)
        if not config.pre_norm:
            layer.attention_norm(hidden, hidden)

    def _mlp(self, layer: _Layer, hidden: torch.Tensor) -> None:
        """hidden[T, hidden] += down(activation(up(hidden))), normed before or after"""
        x = self._normed_before(layer.mlp_norm, hidden)
        mlp = self._workspace.rows("mlp", hidden.shape[0])
        layer.up(mlp, x, activation=self.config.activation)
        layer.down(hidden, mlp, accumulate=True)
        if not self.config.pre_norm:
            layer.mlp_norm(hidden, hidden)

    def _normed_before(self, norm: LayerNorm, hidden: torch.Tensor) -> torch.Tensor:
        if not self.config.pre_norm:
            return hidden
        normed = self._workspace.rows("normed", hidden.shape[0])
        norm(normed, hidden)
        return normed

    def _logits(self, hidden: torch.Tensor, logit_rows: torch.Tensor) -> torch.Tensor:
        num_rows = logit_rows.shape[0]
        last = self._workspace.rows("normed", num_rows)
        torch.index_select(hidden, 0, logit_rows, out=last)
        if self.final_norm is not None:
            self.final_norm(last, last)
        if self.project_out is not None:
            embedded = self._workspace.rows("embedded", num_rows)
            self.project_out(embedded, last)
            last = embedded
        logits = self._workspace.grown("logits", num_rows, self.config.vocab_size)
        self.lm_head(logits, last)
        return logits


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
