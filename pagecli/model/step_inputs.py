"""What a model's forward pass is told about one step: plain arrays (numpy's on the CPU, torch's tensors on a GPU), handed down
as an argument, never a global."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")  # of arrays


@dataclass(frozen=True, slots=True)
class StepInputs(Generic[T]):
    """Tokens [T] of S sequences, concatenated; R of the tokens need logits."""

    token_ids: T  # [T] int32
    positions: T  # [T] int32, position of the token in its sequence
    slot_ids: T  # [T] int64, KV slot the token's K and V are written to
    block_tables: T  # [S, max_blocks] int32
    context_lens: T  # [S] int32, tokens in the cache after this step's writes
    query_start: T  # [S + 1] int32, rows of sequence s are query_start[s]:query_start[s + 1]
    logit_rows: T  # [R] int64, rows whose next-token logits are wanted


@dataclass(frozen=True, slots=True, weakref_slot=True)
class KVCache(Generic[T]):
    """K and V of every layer: values[layer][num_blocks, kv_heads, block_size, head_dim] (int8: + 4); keys[layer] the same on a
    GPU, on the CPU [num_blocks, kv_heads, head_dim, block_size]."""

    keys: list[T]
    values: list[T]
