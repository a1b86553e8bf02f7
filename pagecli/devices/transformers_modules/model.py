"""A model of transformers on the steps of an engine, checked against itself before it is used."""

import inspect
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM

from pagecli.core.arrays import Array
from pagecli.core.model_config import ModelConfig
from pagecli.devices import step_masks
from pagecli.devices.cpu import kv_cache
from pagecli.devices.reference.model import choose_most_likely
from pagecli.devices.step_inputs import KVCache, StepInputs
from pagecli.devices.transformers_modules.attention import PagedAttention
from pagecli.errors import ModelError

NOTE = "computed by transformers' own modules: slower, and a row's last bits may depend on its batch"
_numbers = itertools.count()
_KINDS = {"full_attention", "sliding_attention"}
_CHECKED = (7, 12)  # tokens of two chunks
_MOST_DIFFERENT = {"float32": 1e-3, "bfloat16": 0.1}  # of the logits, relative to their size


class TransformersModel:
    """A HostModel (devices/base.py) whose layers are transformers'; K and V lie as on the CPU."""

    notes = (NOTE,)

    def __init__(self, directory: Path, name: str, config: ModelConfig, dtype: str) -> None:
        """Raises ModelError for modules that do not compute the same with paged attention."""
        self._attention = PagedAttention()
        self._implementation = f"pagecli_{next(_numbers)}"
        AttentionInterface.register(self._implementation, self._attention)
        AttentionMaskInterface.register(self._implementation, _no_mask)
        try:
            self._modules = AutoModelForCausalLM.from_pretrained(
                directory, dtype=getattr(torch, dtype), local_files_only=True, attn_implementation="eager"
            ).eval()
        except Exception as error:  # files and code of all kinds
            raise ModelError(f"{name}: transformers cannot load it ({_line(error)})") from error
        self._check_kind(name)
        self._keeps = "logits_to_keep" in inspect.signature(self._modules.forward).parameters
        self.weight_bytes = sum(p.nbytes for p in self._modules.parameters())
        try:
            expected = self._expected(config.vocab_size)
            self.config = self._sized(config)
            found = self._in_chunks(self.config.vocab_size)
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            raise ModelError(f"{name}: its modules do not run with paged attention ({_line(error)})") from error
        difference = ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).median()
        if not difference <= _MOST_DIFFERENT[dtype]:
            raise ModelError(
                f"{name}: its modules compute something else with paged attention (logits differ by {difference:.2g})"
            )

    def forward(self, inputs: StepInputs[Array], kv: KVCache[Array]) -> Array:
        """logits[R, vocab], float32."""
        return self._logits(inputs, kv).numpy()

    def most_likely(self, inputs: StepInputs[Array], kv: KVCache[Array], masks: step_masks.PendingMasks | None = None) -> Array:
        """token_ids[R], int64: the argmax of the logits among the allowed tokens."""
        return choose_most_likely(self._logits(inputs, kv), masks)

    @torch.inference_mode()
    def _logits(self, inputs: StepInputs[Array], kv: KVCache[Array]) -> torch.Tensor:
        self._attention.step = inputs, kv
        try:
            return self._run(inputs.token_ids, inputs.positions, torch.from_numpy(inputs.logit_rows))
        finally:
            self._attention.step = None

    def _run(self, token_ids: Array, positions: Array, rows: torch.Tensor) -> torch.Tensor:
        """logits[R, vocab], float32, of tokens that lie in one row for transformers, whatever sequences they are of."""
        ids, places = (torch.from_numpy(np.ascontiguousarray(a)).long().unsqueeze(0) for a in (token_ids, positions))
        kept: dict[str, Any] = {"logits_to_keep": rows} if self._keeps else {}
        logits = self._modules(input_ids=ids, position_ids=places, use_cache=False, **kept).logits[0]
        return (logits if self._keeps else logits[rows]).float().contiguous()

    def _check_kind(self, name: str) -> None:
        """Raises ModelError for models whose layers look at other tokens than by attention, or not by its interface."""
        modules, config = self._modules, self._modules.config.get_text_config(decoder=True)
        kinds = set(getattr(config, "layer_types", None) or ()) - _KINDS
        if kinds or getattr(modules, "_is_stateful", False):
            what = ", ".join(sorted(kinds)) or "a recurrent state"
            raise ModelError(
                f"{name}: layers of another kind ({what}) do not run here", "only attention, full or sliding, does"
            )
        accepts = "position_ids" in inspect.signature(modules.forward).parameters
        if not getattr(modules, "_supports_attention_backend", False) or not accepts:
            raise ModelError(f"{name}: its modules do not take another attention", "transformers itself can run it")

    @torch.inference_mode()
    def _expected(self, vocab_size: int) -> torch.Tensor:
        """Logits of the checked tokens behind the first chunk, by transformers' own attention."""
        tokens = _checked_tokens(vocab_size)
        logits = self._modules(input_ids=torch.from_numpy(tokens).long().unsqueeze(0), use_cache=False).logits[0]
        return logits[_CHECKED[0] :].float()

    @torch.inference_mode()
    def _sized(self, config: ModelConfig) -> ModelConfig:
        """The config with the heads that the modules hand to their attention."""
        self._modules.set_attn_implementation(self._implementation)
        tokens = np.arange(3, dtype=np.int32)
        self._run(tokens, tokens, torch.tensor([2]))
        shapes = self._attention.shapes
        heads = {shape.kv_heads for shape in shapes.values()}
        if sorted(shapes) != list(range(config.num_layers)) or len(heads) != 1:
            raise ValueError(f"attention in layers {sorted(shapes)} with {sorted(heads)} KV heads")
        head_dim = max(max(shape.key_size, shape.value_size) for shape in shapes.values())
        self._attention.head_dim = head_dim
        return replace(config, num_kv_heads=heads.pop(), head_dim=head_dim)

    def _in_chunks(self, vocab_size: int) -> torch.Tensor:
        """The same as `_expected`, in two steps beside another sequence."""
        first, second = _CHECKED
        tokens, block_size = _checked_tokens(vocab_size), 8
        cache = kv_cache.allocate(self.config, 8, block_size, "float32")
        tables = np.array([[5, 2, 7, 0], [3, 1, 6, 4]], np.int32)
        found = torch.empty(0)
        for start, count in ((0, first), (first, second)):
            places = np.arange(start, start + count, dtype=np.int32)
            slots = tables[:, places // block_size].astype(np.int64) * block_size + places % block_size
            inputs = StepInputs(
                token_ids=np.concatenate([tokens[places], tokens[::-1][places]]),
                positions=np.concatenate([places, places]),
                slot_ids=slots.reshape(-1),
                block_tables=tables,
                context_lens=np.full(2, start + count, np.int32),
                query_start=np.array([0, count, 2 * count], np.int32),
                logit_rows=np.arange(count),
            )
            found = self._logits(inputs, cache)
        return found


def _checked_tokens(vocab_size: int) -> Array:
    return np.random.Generator(np.random.PCG64(0)).integers(0, vocab_size, sum(_CHECKED)).astype(np.int32)


def _no_mask(*_: Any, **__: Any) -> None:
    """Which tokens see which is in the block tables."""


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
