"""OPT on a GPU: OPTModel's computation in the model's own type, with the CUDA kernels."""

from dataclasses import dataclass

import torch

from pagecli.core.model_config import ModelConfig
from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.attention import paged_attention
from pagecli.devices.cuda.layers import CudaModel, CudaNorm, CudaStep, CudaWeightLoader
from pagecli.devices.cuda.linear import CudaLinear
from pagecli.devices.step_inputs import KVCache, StepInputs

_DECODER = "model.decoder"
OPT_POSITION_OFFSET = 2


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: CudaNorm
    qkv: CudaLinear
    out: CudaLinear
    mlp_norm: CudaNorm
    up: CudaLinear  # its bias is added with the activation
    up_bias: torch.Tensor | None
    down: CudaLinear


class CudaOPTModel(CudaModel):
    """A loaded model. The cache lies on the GPU."""

    def __init__(self, config: ModelConfig, loader: CudaWeightLoader) -> None:
        super().__init__(config, loader)
        vocab, hidden, embed = config.vocab_size, config.hidden_size, config.embedding_size
        self.embedding = loader.tensor([f"{_DECODER}.embed_tokens.weight"], [vocab], embed)
        num_positions = config.max_positions + OPT_POSITION_OFFSET
        self.positions = loader.tensor([f"{_DECODER}.embed_positions.weight"], [num_positions], hidden)
        self.project_in = self.project_out = None
        if embed != hidden:
            self.project_in = loader.cuda_linear([f"{_DECODER}.project_in"], [hidden], embed, bias=False)
            self.project_out = loader.cuda_linear([f"{_DECODER}.project_out"], [embed], hidden, bias=False)
        self.layers = [_load_layer(config, loader, i) for i in range(config.num_layers)]
        self.final_norm = None
        if config.final_norm and config.order == "pre":
            name, affine = f"{_DECODER}.final_layer_norm", config.norm_affine
            self.final_norm = loader.cuda_norm(name, hidden, config.norm_eps, bias=True, affine=affine)
        tied = config.tie_embeddings
        self.lm_head = CudaLinear(self.embedding if tied else loader.tensor(["lm_head.weight"], [vocab], embed), None)
        self.weight_bytes = loader.num_bytes

    def compute(self, step: CudaStep, kv: KVCache[torch.Tensor], out: torch.Tensor) -> None:
        """See CudaModel."""
        hidden, added = self._embed(step.inputs), None
        for index, layer in enumerate(self.layers):
            x = self._into(layer.attention_norm, hidden, added)
            added = self._attention(layer, x, step, kv.keys[index], kv.values[index])
            added = self._out_of(layer.attention_norm, hidden, added)
            mlp = layer.up(self._into(layer.mlp_norm, hidden, added))
            kernels.activation(mlp, mlp, self.config.activation, layer.up_bias)
            added = self._out_of(layer.mlp_norm, hidden, layer.down(mlp))
        out.copy_(self._logits(hidden, added, step.inputs.logit_rows))

    def reserve_positions(self, num_positions: int) -> None:
        """Nothing to make: the learned positions were loaded whole."""

    def _into(self, norm: CudaNorm, hidden: torch.Tensor, added: torch.Tensor | None) -> torch.Tensor:
        """What goes into attention or MLP: hidden + added, normed where norms come before."""
        return norm(hidden, added) if self.config.order == "pre" else hidden

    def _out_of(self, norm: CudaNorm, hidden: torch.Tensor, added: torch.Tensor) -> torch.Tensor | None:
        """Their output: left for the next norm to add, or added and normed here where norms come after."""
        if self.config.order == "pre":
            return added
        norm(hidden, added, out=hidden)
        return None

    def _embed(self, inputs: StepInputs[torch.Tensor]) -> torch.Tensor:
        num_tokens = inputs.token_ids.shape[0]

        def rows(width: int) -> torch.Tensor:
            return torch.empty(num_tokens, width, dtype=self.embedding.dtype, device=self.device)

        if self.project_in is None:
            hidden = rows(self.config.hidden_size)
            kernels.embedding(hidden, inputs.token_ids, self.embedding, inputs.positions, self.positions, OPT_POSITION_OFFSET)
            return hidden
        embedded, positions = rows(self.config.embedding_size), rows(self.config.hidden_size)
        kernels.embedding(embedded, inputs.token_ids, self.embedding)
        kernels.embedding(positions, inputs.positions + OPT_POSITION_OFFSET, self.positions)
        return self.project_in(embedded).add_(positions)

    def _attention(
        self, layer: _Layer, x: torch.Tensor, step: CudaStep, k_cache: torch.Tensor, v_cache: torch.Tensor
    ) -> torch.Tensor:
        config = self.config
        q, k, v = layer.qkv(x).view(x.shape[0], 3, config.num_heads, config.head_dim).unbind(1)
        kernels.store_kv(k_cache, v_cache, k, v, step.inputs.slot_ids)
        attended = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        paged_attention(attended, q, k_cache, v_cache, step.inputs.block_tables, step.plans[0], config.head_dim**-0.5)
        return layer.out(attended.flatten(1))

    def _logits(self, hidden: torch.Tensor, added: torch.Tensor | None, logit_rows: torch.Tensor) -> torch.Tensor:
        last = hidden.index_select(0, logit_rows)
        last_added = added.index_select(0, logit_rows) if added is not None else None
        if self.final_norm is not None:
            last = self.final_norm(last, last_added)
        elif last_added is not None:
            last += last_added
        if self.project_out is not None:
            last = self.project_out(last)
        return self.lm_head(last)


def _load_layer(config: ModelConfig, loader: CudaWeightLoader, index: int) -> _Layer:
    name, hidden, eps, affine = f"{_DECODER}.layers.{index}", config.hidden_size, config.norm_eps, config.norm_affine
    attention, intermediate = f"{name}.self_attn", config.intermediate_size
    return _Layer(
        attention_norm=loader.cuda_norm(f"{name}.self_attn_layer_norm", hidden, eps, bias=True, affine=affine),
        qkv=loader.cuda_linear(
            [f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"], [hidden] * 3, hidden, config.qkv_bias
        ),
        out=loader.cuda_linear([f"{attention}.out_proj"], [hidden], hidden, config.out_bias),
        mlp_norm=loader.cuda_norm(f"{name}.final_layer_norm", hidden, eps, bias=True, affine=affine),
        up=loader.cuda_linear([f"{name}.fc1"], [intermediate], hidden, bias=False),
        up_bias=loader.vector([f"{name}.fc1.bias"], [intermediate]) if config.mlp_bias else None,
        down=loader.cuda_linear([f"{name}.fc2"], [hidden], intermediate, config.mlp_bias),
    )
