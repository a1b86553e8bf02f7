"""The definitions of operations that a GPU computes as one: each by those that it is made of (operations.py)."""

import torch

from pagecli.devices.reference.operations import rms_norm, rotary_embedding, store_kv


def rotary_store_kv(
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    slot_ids: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> None:
    """rotary_embedding and store_kv in one: q is rotated in place, but for rows that are written nowhere, and k on its way into
    the cache alone."""
    rotated_q, rotated_k, written = q.clone(), k.clone(), slot_ids >= 0
    rotary_embedding(rotated_q, rotated_k, positions, cos_sin)
    q[written] = rotated_q[written]
    store_kv(k_cache, v_cache, rotated_k, v, slot_ids, k_scale, v_scale)


def norm_rotary_store_kv(
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    slot_ids: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    eps: float,
    positions: torch.Tensor | None = None,
    cos_sin: torch.Tensor | None = None,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> None:
    """rms_norm of q and k, of every head or, with weights of all heads, of all together, then rotary_store_kv, or without
    cos_sin store_kv: q changes in place, but for rows that are written nowhere, and k on its way into the cache alone."""
    normed_q, normed_k, written = q.clone(), k.clone(), slot_ids >= 0
    for x, weight in ((normed_q, q_weight), (normed_k, k_weight)):
        rows = x if weight.shape[0] == x.shape[-1] else x.flatten(1)
        rms_norm(rows, rows, weight, eps)
    if positions is not None and cos_sin is not None:
        rotary_store_kv(k_cache, v_cache, normed_q, normed_k, v, slot_ids, positions, cos_sin, k_scale, v_scale)
    else:
        store_kv(k_cache, v_cache, normed_k, v, slot_ids, k_scale, v_scale)
    q[written] = normed_q[written]
