"""The workspace cut for a step, once for all layers: slicing in every layer costs small models a measurable part of a step."""

from dataclasses import dataclass

import torch

from pagecli.model.config import ModelConfig
from pagecli.model.layers import Workspace


@dataclass(frozen=True, slots=True)
class StepBuffers:
    """What every family's layers compute in, for T tokens; q, k and v are views of qkv."""

    hidden: torch.Tensor  # [T, hidden]
    normed: torch.Tensor  # [T, hidden]
    qkv: torch.Tensor  # [T, qkv]
    q: torch.Tensor  # [T, heads, head_dim]
    k: torch.Tensor  # [T, kv_heads, head_dim]
    v: torch.Tensor  # [T, kv_heads, head_dim]
    attended: torch.Tensor  # [T, heads, head_dim]
    joined: torch.Tensor  # [T, heads * head_dim]: the same memory
    mlp: torch.Tensor  # [T, intermediate]


def make_workspace(config: ModelConfig, max_tokens: int, own_widths: dict[str, int]) -> Workspace:
    """A workspace that `cut_buffers` can cut, with a family's own buffers beside it."""
    hidden = config.hidden_size
    widths = {"hidden": hidden, "normed": hidden, "qkv": config.qkv_size, "attention": config.q_size}
    return Workspace(max_tokens, widths | {"mlp": config.intermediate_size} | own_widths)


def cut_buffers(workspace: Workspace, config: ModelConfig, num_tokens: int) -> StepBuffers:
    """The first `num_tokens` rows of the workspace."""
    names = ("hidden", "normed", "qkv", "attention", "mlp")
    hidden, normed, qkv, joined, mlp = (workspace.rows(name, num_tokens) for name in names)
    heads = qkv.view(num_tokens, -1, config.head_dim)
    q, k, v = heads.split([config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
    return StepBuffers(hidden, normed, qkv, q, k, v, joined.view(q.shape), joined, mlp)
