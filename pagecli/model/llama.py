"""The Llama family: Llama 1 to 3, SmolLM2, Mistral (sliding window), Qwen2 (QKV bias), Qwen3 (QK norm)."""

from dataclasses import dataclass

import torch

from pagecli import kernels
from pagecli.model.config import ModelConfig
from pagecli.model.layers import Linear, RMSNorm, WeightLoader, Workspace
from pagecli.model.rope import RotaryTable
from pagecli.model.step_inputs import KVCache, StepInputs


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
    """A loaded model; `forward` is one step."""

    def __init__(self, config: ModelConfig, loader: WeightLoader, max_batch_tokens: int) -> None:
        assert config.rope is not None
        self.config = config
        vocab, hidden = config.vocab_size, config.hidden_size
        self.embedding = loader.matrix(["model.embed_tokens.weight"], [vocab], hidden)
        self.layers = [_load_layer(config, loader, i) for i in range(config.num_layers)]
        self.final_norm = loader.rms_norm("model.norm", hidden, config.norm_eps)
        tied = config.tie_embeddings
        self.lm_head = Linear(self.embedding if tied else loader.matrix(["lm_head.weight"], [vocab], hidden), None)
        factors = None
        if config.rope.scaling == "frequency_factors":
            factors = loader.vector(["rope_freqs.weight"], [config.rope.rotary_dim // 2])
        self.rotary = RotaryTable(config.rope, config.max_positions, factors)
        self.weight_bytes = loader.num_bytes
        self._scale = config.head_dim**-0.5
        widths = {"hidden": hidden, "normed": hidden, "qkv": config.qkv_size, "attention": config.q_size}
        widths |= {"gate_up": 2 * config.intermediate_size, "mlp": config.intermediate_size}
        self._workspace = Workspace(max_batch_tokens, widths)

    def forward(self, inputs: StepInputs, kv: KVCache) -> torch.Tensor:
        """logits[R, vocab], float32: a view of a buffer that the next call overwrites."""
        hidden = self._workspace.rows("hidden", inputs.token_ids.shape[0])
        kernels.embedding(hidden, inputs.token_ids, self.embedding)
        cos_sin = self.rotary.up_to(int(inputs.context_lens.max()))
        for index, layer in enumerate(self.layers):
            self._attention(layer, hidden, inputs, cos_sin, kv.keys[index], kv.values[index])
            self._mlp(layer, hidden)
        return self._logits(hidden, inputs.logit_rows)

    def _attention(
        self,
        layer: _Layer,
        hidden: torch.Tensor,
        inputs: StepInputs,
        cos_sin: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
    ) -> None:
        """hidden[T, hidden] += attention(norm(hidden))"""
        config, num_tokens = self.config, hidden.shape[0]
        normed, qkv = self._workspace.rows("normed", num_tokens), self._workspace.rows("qkv", num_tokens)
        layer.attention_norm(normed, hidden)
        layer.qkv(qkv, normed)
        heads = qkv.view(num_tokens, -1, config.head_dim)
        q, k, v = heads.split([config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
        if layer.q_norm is not None and layer.k_norm is not None:
            layer.q_norm(q, q)
            layer.k_norm(k, k)
        kernels.rotary_embedding(q, k, inputs.positions, cos_sin)
        kernels.store_kv(k_cache, v_cache, k, v, inputs.slot_ids)
        attended = self._workspace.rows("attention", num_tokens)
        kernels.paged_attention(
            attended.view(q.shape),
            q,
            k_cache,
            v_cache,
            inputs.block_tables,
            inputs.context_lens,
            inputs.query_start,
            self._scale,
            layer.window,
        )
        layer.out(hidden, attended, accumulate=True)

    def _mlp(self, layer: _Layer, hidden: torch.Tensor) -> None:
        """hidden[T, hidden] += down(activation(gate(x)) * up(x)), x = norm(hidden)"""
        num_tokens = hidden.shape[0]
        normed = self._workspace.rows("normed", num_tokens)
        gate_up, product = self._workspace.rows("gate_up", num_tokens), self._workspace.rows("mlp", num_tokens)
        layer.mlp_norm(normed, hidden)
        layer.gate_up(gate_up, normed)
        kernels.gated_activation(product, gate_up, self.config.activation)
        layer.down(hidden, product, accumulate=True)

    def _logits(self, hidden: torch.Tensor, logit_rows: torch.Tensor) -> torch.Tensor:
        num_rows = logit_rows.shape[0]
        last = self._workspace.rows("normed", num_rows)
        torch.index_select(hidden, 0, logit_rows, out=last)
        self.final_norm(last, last)
        logits = self._workspace.grown("logits", num_rows, self.config.vocab_size)
        self.lm_head(logits, last)
        return logits


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
