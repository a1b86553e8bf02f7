"""A model of transformers on the steps of an engine, compared with its own logits before it is used."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from pagecli.core.arrays import Array
from pagecli.core.model_config import ModelConfig
from pagecli.devices import step_masks
from pagecli.devices.base import KVCache, StepInputs
from pagecli.devices.cpu import device
from pagecli.devices.reference.model import choose_most_likely
from pagecli.devices.transformers_modules.by_sequence import OwnCaches
from pagecli.devices.transformers_modules.paged import PagedModules
from pagecli.errors import ModelError

_CHECKED = (7, 11, 1)  # tokens of three chunks, the last as in decoding; logits of the last two are compared
_MOST_DIFFERENT = {"float32": 1e-3, "bfloat16": 0.1}  # of the logits, relative to their size
_BLOCK_SIZE = 8
_ODD = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError)


class TransformersModel:
    """A HostModel (devices/base.py) whose layers are transformers'."""

    def __init__(self, directory: Path, name: str, config: ModelConfig, dtype: str) -> None:
        """Raises ModelError for what transformers cannot load, and for modules that do not compute the same in chunks."""
        try:
            modules = AutoModelForCausalLM.from_pretrained(
                directory, dtype=getattr(torch, dtype), local_files_only=True, attn_implementation="eager"
            ).eval()
        except Exception as error:  # files and code of all kinds
            raise ModelError(f"{name}: transformers cannot load it ({_line(error)})") from error
        self.weight_bytes = sum(p.nbytes for p in modules.parameters())
        self._steps = _steps_of(modules, name, config, dtype)
        self.config, self.notes = self._steps.config, (self._steps.note,)

    def forward(self, inputs: StepInputs[Array], kv: KVCache[Array]) -> Array:
        """logits[R, vocab], float32."""
        logits: Array = self._steps.logits(inputs, kv).numpy()
        return logits

    def most_likely(self, inputs: StepInputs[Array], kv: KVCache[Array], masks: step_masks.PendingMasks | None = None) -> Array:
        """token_ids[R], int64: the argmax of the logits among the allowed tokens."""
        return choose_most_likely(self._steps.logits(inputs, kv), masks)


def _steps_of(modules: Any, name: str, config: ModelConfig, dtype: str) -> PagedModules | OwnCaches:
    """By paged attention, where the modules then compute what they do by their own; else by their own caches."""
    reasons = []
    try:
        expected = _expected(modules, config.vocab_size)
        for make in (PagedModules, OwnCaches):
            try:
                found = make(modules, config)
                logits = _in_chunks(found)
            except _ODD as error:
                reasons.append(_line(error))
                continue
            difference = float(((logits - expected).norm(dim=-1) / expected.norm(dim=-1)).median())
            if difference <= _MOST_DIFFERENT[dtype]:
                return found
            reasons.append(f"logits differ by {difference:.2g}")
    except _ODD as error:
        reasons.append(_line(error))
    raise ModelError(f"{name}: its modules do not compute in chunks what they compute at once ({'; '.join(reasons)})")


@torch.inference_mode()
def _expected(modules: Any, vocab_size: int) -> torch.Tensor:
    """Logits of the checked tokens behind the first chunk, computed at once by transformers' own attention."""
    tokens = torch.from_numpy(_checked_tokens(vocab_size)).long().unsqueeze(0)
    logits: torch.Tensor = modules(input_ids=tokens, use_cache=False).logits[0]
    return logits[_CHECKED[0] :].float()


def _in_chunks(steps: PagedModules | OwnCaches) -> torch.Tensor:
    """The same in three steps, beside another sequence."""
    tokens = _checked_tokens(steps.config.vocab_size)
    cache = device.allocate(steps.config, 8, _BLOCK_SIZE, "float32")
    tables = np.array([[5, 2, 7, 0], [3, 1, 6, 4]], np.int32)
    found, start = [], 0
    for count in _CHECKED:
        places = np.arange(start, start + count, dtype=np.int32)
        slots = tables[:, places // _BLOCK_SIZE].astype(np.int64) * _BLOCK_SIZE + places % _BLOCK_SIZE
        start += count
        inputs = StepInputs(
            token_ids=np.concatenate([tokens[places], tokens[::-1][places]]),
            positions=np.concatenate([places, places]),
            slot_ids=slots.reshape(-1),
            block_tables=tables,
            context_lens=np.full(2, start, np.int32),
            query_start=np.array([0, count, 2 * count], np.int32),
            logit_rows=np.arange(count),
        )
        found.append(steps.logits(inputs, cache))
    return torch.cat(found[1:])


def _checked_tokens(vocab_size: int) -> Array:
    return np.random.Generator(np.random.PCG64(0)).integers(0, vocab_size, sum(_CHECKED)).astype(np.int32)


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
