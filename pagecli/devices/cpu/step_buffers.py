"""The workspace cut for a step, once for all layers: slicing in every layer costs small models a measurable part of a step."""

from dataclasses import dataclass

from pagecli.core.arrays import Array
from pagecli.core.model_config import ModelConfig
from pagecli.devices.cpu.layers import Workspace


@dataclass(frozen=True, slots=True)
class StepBuffers:
    """What every family's layers compute in, for T tokens; q, k and v are views of qkv."""

    hidden: Array  # [T, hidden]
    normed: Array  # [T, hidden]
    qkv: Array  # [T, qkv]
    q: Array  # [T, heads, head_dim]
    k: Array  # [T, kv_heads, head_dim]
    v: Array  # [T, kv_heads, head_dim]
    attended: Array  # [T, heads, head_dim]
    joined: Array  # [T, heads * head_dim]: the same memory
    mlp: Array  # [T, intermediate]


def make_workspace(config: ModelConfig, max_tokens: int, own_widths: dict[str, int]) -> Workspace:
    """A workspace that `cut_buffers` can cut, with a family's own buffers beside it."""
    hidden = config.hidden_size
    widths = {"hidden": hidden, "normed": hidden, "qkv": config.qkv_size, "attention": config.q_size}
    return Workspace(max_tokens, widths | {"mlp": config.intermediate_size} | own_widths)


def cut_buffers(workspace: Workspace, config: ModelConfig, num_tokens: int) -> StepBuffers:
    """The first `num_tokens` rows of the workspace."""
    names = ("hidden", "normed", "qkv", "attention", "mlp")
    hidden, normed, qkv, joined, mlp = (workspace.rows(name, num_tokens) for name in names)
    first_k, first_v = config.num_heads, config.num_heads + config.num_kv_heads
    heads = qkv.reshape(num_tokens, first_v + config.num_kv_heads, config.head_dim)
    q, k, v = heads[:, :first_k], heads[:, first_k:first_v], heads[:, first_v:]
    return StepBuffers(hidden, normed, qkv, q, k, v, joined.reshape(q.shape), joined, mlp)
