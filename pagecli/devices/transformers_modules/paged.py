"""Modules of transformers whose attention is pagecli's: all sequences of a step lie in one row, K and V in the CPU's cache."""

import inspect
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from pagecli.core.arrays import Array
from pagecli.core.model_config import ModelConfig
from pagecli.devices.base import KVCache, StepInputs
from pagecli.devices.transformers_modules.attention import PagedAttention

_numbers = itertools.count()
_KINDS = {"full_attention", "sliding_attention"}


class PagedModules:
    """Logits of steps; `config` has the heads that the modules hand to their attention."""

    note = "computed by transformers' own modules: slower, and a row's last bits may depend on its batch"

    def __init__(self, modules: Any, config: ModelConfig) -> None:
        """Raises ValueError for modules that look at other tokens than by attention, or not by transformers' interface."""
        _check_kind(modules)
        self._attention, name = PagedAttention(), f"pagecli_{next(_numbers)}"
        AttentionInterface.register(name, self._attention)
        AttentionMaskInterface.register(name, _no_mask)
        modules.set_attn_implementation(name)
        self._modules = modules
        self._keeps = "logits_to_keep" in inspect.signature(modules.forward).parameters
        self.config = self._sized(config)

    @torch.inference_mode()
    def logits(self, inputs: StepInputs[Array], kv: KVCache[Array]) -> torch.Tensor:
        """[R, vocab], float32."""
        self._attention.step = inputs, kv
        try:
            return self._run(inputs.token_ids, inputs.positions, torch.from_numpy(inputs.logit_rows))
        finally:
            self._attention.step = None

    def _run(self, token_ids: Array, positions: Array, rows: torch.Tensor) -> torch.Tensor:
        ids, places = (torch.from_numpy(np.ascontiguousarray(a)).long().unsqueeze(0) for a in (token_ids, positions))
        kept: dict[str, Any] = {"logits_to_keep": rows} if self._keeps else {}
        logits = self._modules(input_ids=ids, position_ids=places, use_cache=False, **kept).logits[0]
        return (logits if self._keeps else logits[rows]).float().contiguous()

    @torch.inference_mode()
    def _sized(self, config: ModelConfig) -> ModelConfig:
        tokens = np.arange(3, dtype=np.int32)
        self._run(tokens, tokens, torch.tensor([2]))
        shapes = self._attention.shapes
        heads = {shape.kv_heads for shape in shapes.values()}
        if sorted(shapes) != list(range(config.num_layers)) or len(heads) != 1:
            raise ValueError(f"attention in layers {sorted(shapes)} with {sorted(heads)} KV heads")
        head_dim = max(max(shape.key_size, shape.value_size) for shape in shapes.values())
        self._attention.head_dim = head_dim
        return replace(config, num_kv_heads=heads.pop(), head_dim=head_dim)


def _check_kind(modules: Any) -> None:
    config = modules.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ()) - _KINDS
    if kinds or getattr(modules, "_is_stateful", False):
        raise ValueError(f"layers of another kind ({', '.join(sorted(kinds)) or 'a recurrent state'})")
    accepts = "position_ids" in inspect.signature(modules.forward).parameters
    if not getattr(modules, "_supports_attention_backend", False) or not accepts:
        raise ValueError("its modules do not take another attention")


def _no_mask(*_: Any, **__: Any) -> None:
    """Which tokens see which is in the block tables."""
