"""The Llama family on a GPU: LlamaModel's computation in the model's own type, with the CUDA kernels."""

from dataclasses import dataclass

import torch

from pagecli.core.model_config import ModelConfig
from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.attention import paged_attention
from pagecli.devices.cuda.layers import CudaModel, CudaNorm, CudaStep, CudaWeightLoader
from pagecli.devices.cuda.linear import CudaLinear
from pagecli.devices.rotary_table import RotaryTable
from pagecli.devices.step_inputs import KVCache


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: CudaNorm
    qkv: CudaLinear
    q_norm: CudaNorm | None
    k_norm: CudaNorm | None
    out: CudaLinear
    mlp_norm: CudaNorm
    gate_up: CudaLinear
    down: CudaLinear
    window: int


class CudaLlamaModel(CudaModel):
    """A loaded model. The cache lies on the GPU."""

    def __init__(self, config: ModelConfig, loader: CudaWeightLoader) -> None:
        assert config.rope is not None
        super().__init__(config, loader)
        vocab, hidden = config.vocab_size, config.hidden_size
        self.embedding = loader.tensor(["model.embed_tokens.weight"], [vocab], hidden)
        self.layers = [_load_layer(config, loader, i) for i in range(config.num_layers)]
        self.final_norm = loader.cuda_norm("model.norm", hidden, config.norm_eps, bias=False)
        tied = config.tie_embeddings
        self.lm_head = CudaLinear(self.embedding if tied else loader.tensor(["lm_head.weight"], [vocab], hidden), None)
        factors = None
        if config.rope.scaling == "frequency_factors":
            factors = loader.vector(["rope_freqs.weight"], [config.rope.rotary_dim // 2]).cpu().numpy()
        self._rotary = RotaryTable(config.rope, config.max_positions, factors)
        self._cos_sin = torch.empty(0, 0)
        self.weight_bytes = loader.num_bytes

    def compute(self, step: CudaStep, kv: KVCache[torch.Tensor], out: torch.Tensor) -> None:
        """See CudaModel."""
        inputs, cos_sin = step.inputs, self._cos_sin
        hidden = torch.empty(inputs.token_ids.shape[0], self.config.hidden_size, dtype=self.embedding.dtype, device=self.device)
        kernels.embedding(hidden, inputs.token_ids, self.embedding)
        added: torch.Tensor | None = None
        for index, layer in enumerate(self.layers):
            normed = layer.attention_norm(hidden, added)
            added = self._attention(layer, normed, step, cos_sin, kv.keys[index], kv.values[index])
            gate_up = layer.gate_up(layer.mlp_norm(hidden, added))
            product = torch.empty_like(gate_up[:, : self.config.intermediate_size], memory_format=torch.contiguous_format)
            kernels.gated_activation(product, gate_up, self.config.activation)
            added = layer.down(product)
        rows = inputs.logit_rows
        last = hidden.index_select(0, rows)
        out.copy_(self.lm_head(self.final_norm(last, added.index_select(0, rows) if added is not None else None)))

    def _attention(
        self,
        layer: _Layer,
        normed: torch.Tensor,
        step: CudaStep,
        cos_sin: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
    ) -> torch.Tensor:
        config, inputs = self.config, step.inputs
        heads = layer.qkv(normed).view(normed.shape[0], -1, config.head_dim)
        q, k, v = heads.split([config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
        if layer.q_norm is not None and layer.k_norm is not None:
            layer.q_norm(q, out=q)
            layer.k_norm(k, out=k)
        kernels.rotary_store_kv(k_cache, v_cache, q, k, v, inputs.slot_ids, inputs.positions, cos_sin)
        attended = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        plan, scale = step.plans[layer.window], config.head_dim**-0.5
        paged_attention(attended, q, k_cache, v_cache, inputs.block_tables, plan, scale)
        return layer.out(attended.flatten(1))

    def reserve_positions(self, num_positions: int) -> None:
        """The rotary table on the GPU, moved again where longer sequences come than it was made for."""
        if num_positions > self._cos_sin.shape[0]:
            self._cos_sin = torch.from_numpy(self._rotary.up_to(num_positions)).to(self.device)


def _load_layer(config: ModelConfig, loader: CudaWeightLoader, index: int) -> _Layer:
    name, hidden, intermediate = f"model.layers.{index}", config.hidden_size, config.intermediate_size
    attention, eps = f"{name}.self_attn", config.norm_eps
    q_norm = k_norm = None
    if config.architecture == "Qwen3ForCausalLM":
        q_norm = loader.cuda_norm(f"{attention}.q_norm", config.head_dim, eps, bias=False)
        k_norm = loader.cuda_norm(f"{attention}.k_norm", config.head_dim, eps, bias=False)
    return _Layer(
        attention_norm=loader.cuda_norm(f"{name}.input_layernorm", hidden, eps, bias=False),
        qkv=loader.cuda_linear(
            [f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"],
            [config.q_size, config.kv_size, config.kv_size],
            hidden,
            config.qkv_bias,
        ),
        q_norm=q_norm,
        k_norm=k_norm,
        out=loader.cuda_linear([f"{attention}.o_proj"], [hidden], config.q_size, config.out_bias),
        mlp_norm=loader.cuda_norm(f"{name}.post_attention_layernorm", hidden, eps, bias=False),
        gate_up=loader.cuda_linear(
            [f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj"], [intermediate, intermediate], hidden, config.mlp_bias
        ),
        down=loader.cuda_linear([f"{name}.mlp.down_proj"], [hidden], intermediate, config.mlp_bias),
        window=config.window(index),
    )
