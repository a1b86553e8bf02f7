"""Modules of transformers that keep a state of their own (recurrent layers, an attention of their own): a sequence at a time.

The engine's cache holds token ids in place of K and V, so that shared prefixes, preemption, swapping and beams move them as
they move K and V. A state of transformers belongs to the tokens that it was made of: a sequence that goes on by one token takes
the state of the tokens before it, and any other is computed from its first token on.
"""

import inspect
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pagecli.core.arrays import Array, to_float32
from pagecli.core.model_config import ModelConfig
from pagecli.devices.base import KVCache, StepInputs
from pagecli.devices.cpu import kernels

_HEAD_DIM = 8  # of a slot: an id's digits and the largest of a digit, which makes an int8 slot's scale 1
_BASE, _DIGITS = 128, 4
_MOST_STATES = 128


class OwnCaches:
    """Logits of steps; `config` is that of a cache of token ids."""

    note = "computed by transformers' own modules, a sequence at a time: much slower, and again from its start in every chunk"

    def __init__(self, modules: Any, config: ModelConfig) -> None:
        """Raises ValueError for modules that give no state of theirs."""
        names = inspect.signature(modules.forward).parameters
        found = next((name for name in ("cache", "past_key_values") if name in names), None)
        if found is None:
            raise ValueError("its modules give no cache")
        if modules.config._attn_implementation != "eager":
            modules.set_attn_implementation("eager")
        self._modules, self._cache_name = modules, found
        self._states: OrderedDict[bytes, Any] = OrderedDict()
        self.config = replace(config, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=_HEAD_DIM)

    @torch.inference_mode()
    def logits(self, inputs: StepInputs[Array], kv: KVCache[Array]) -> torch.Tensor:
        """[R, vocab], float32."""
        _store(kv, inputs.token_ids, inputs.slot_ids)
        found = []
        for s, length in enumerate(inputs.context_lens.tolist()):
            first, last = (int(row) for row in inputs.query_start[s : s + 2])
            if first < last:
                found.append(self._of_sequence(_ids(kv, inputs.block_tables[s], length), last - first))
        return torch.cat(found)[torch.from_numpy(inputs.logit_rows)]

    def _of_sequence(self, ids: Array, count: int) -> torch.Tensor:
        """Logits of the last `count` of a sequence's tokens."""
        state = self._states.pop(ids[:-1].tobytes(), None) if count == 1 else None
        given = {} if state is None else {self._cache_name: state}
        tokens = torch.from_numpy(ids if state is None else ids[-1:]).long().unsqueeze(0)
        out = self._modules(input_ids=tokens, use_cache=True, **given)
        self._states[ids.tobytes()] = getattr(out, self._cache_name)
        while len(self._states) > _MOST_STATES:
            self._states.popitem(last=False)
        return out.logits[0, -count:].float()


def _store(kv: KVCache[Array], token_ids: Array, slot_ids: Array) -> None:
    slots = np.zeros((len(token_ids), 1, _HEAD_DIM), np.float32)
    slots[:, 0, :_DIGITS] = token_ids[:, None] // _BASE ** np.arange(_DIGITS) % _BASE
    slots[:, 0, _DIGITS] = _BASE - 1
    kernels.store_kv(kv.keys[0], kv.values[0], slots, slots, slot_ids)


def _ids(kv: KVCache[Array], blocks: Array, length: int) -> Array:
    """[length] int32: the tokens of a sequence."""
    values = np.asarray(kv.values[0])
    slots = values[blocks[: -(-length // values.shape[2])], 0].reshape(-1, values.shape[3])[:length, :_DIGITS]
    digits = slots.astype(np.int32) if slots.dtype == np.int8 else to_float32(slots).astype(np.int32)
    return np.ascontiguousarray((digits * _BASE ** np.arange(_DIGITS)).sum(1).astype(np.int32))
