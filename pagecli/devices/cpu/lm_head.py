"""The last layer: logits of every token, or their argmax alone, for which most logits need not be computed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from pagecli.core.arrays import Array
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.weights import quantized_bounds
from pagecli.devices.cpu.weights.packed_weight import PANEL_WIDTH, PackedWeight

if TYPE_CHECKING:
    from pagecli.devices.step_masks import RowMasks

MIN_TOKENS = 8192  # smaller vocabularies have no bounds
# Largest share of the weights to be computed. A panel takes 18 times as long for one row alone as in a batch of 64 (Zen 3);
# with few rows reading the weights takes the time, of which the bounds have half (bfloat16) or a quarter.
MOST_COMPUTED, MOST_COMPUTED_OF_FEW = 1 / 32, 1 / 8
# A matrix unit (AMX) multiplies all bfloat16 weights by more rows than these as fast as the bounds are computed.
MOST_ROWS_BESIDE_UNIT = 32


class LMHead:
    """logits[M, N] = x[M, K] @ weight[N, K].T, and their argmax.

    The argmax prunes by quantized upper bounds (cpu/quantized_bounds.py): 8-bit sums bound every logit, and only those that
    could be the largest are computed. The tokens are the same, to the bit; bounds that prune too little are disabled. int8
    weights have none: they are as small and, on Zen 3, nearly as fast. Nor have those kept in fewer bits, which are smaller.
    """

    def __init__(self, weight: PackedWeight, bias: Array | None = None, cap: float = 0.0) -> None:
        """Logits become cap * tanh(logit / cap) where there is a cap, which changes no argmax. A bias leaves no bounds."""
        self.weight, self.bias, self.cap = weight, bias, cap
        is_smaller = weight.dtype.startswith("int8") or weight.nbytes < weight.num_rows * weight.num_cols
        is_bounded = weight.num_rows >= MIN_TOKENS and not is_smaller and bias is None
        self.bounds = kernels.pack_bounds(weight) if is_bounded else None
        beside_unit = kernels.isa_name() == "amx" and weight.dtype == "bfloat16"
        self._most_rows = MOST_ROWS_BESIDE_UNIT if beside_unit else sys.maxsize  # of a batch that uses the bounds
        self._rows = self._panels = 0  # with bounds, and panels computed in spite of them
        self._allowed = 0.0  # panels

    def __call__(self, out: Array, x: Array) -> None:
        kernels.linear(out, x, self.weight, self.bias)
        if self.cap > 0:
            np.divide(out, np.float32(self.cap), out=out)
            np.multiply(np.tanh(out, out=out), np.float32(self.cap), out=out)

    def argmax(self, x: Array) -> Array:
        """[M] int64: the first of the largest of each row's N logits."""
        indices = np.empty(x.shape[0], dtype=np.int64)
        if self.bias is not None:
            kernels.argmax(indices, self._biased(x))
            return indices
        bounds = self.bounds if x.shape[0] <= self._most_rows else None
        num_panels = kernels.linear_argmax(indices, x, self.weight, bounds)
        if bounds is not None:
            self._judge(x.shape[0], num_panels)
        return indices

    def best(self, x: Array) -> tuple[Array, Array]:
        """argmax's tokens, and their logits, as linear computes them: [M] int64, [M] float32.

        Where no token can be chosen the logit says why: NaN beside one that is not finite, -inf where all are.
        """
        if self.bias is not None:
            every, tokens = self._biased(x), np.empty(x.shape[0], np.int64)
            kernels.argmax(tokens, every)
            unusable = np.where(np.isneginf(every).all(axis=1), np.float32(-np.inf), np.float32(np.nan))
            return np.maximum(tokens, 0), np.where(tokens < 0, unusable, every[np.arange(len(every)), tokens])
        tokens = self.argmax(x)
        logits = np.empty(len(tokens), np.float32)
        for row, token in enumerate(tokens.tolist()):
            weight = self.weight if token < 0 else self.weight.panel(token // PANEL_WIDTH)
            out = np.empty((1, weight.num_rows), np.float32)
            kernels.linear(out, x[row : row + 1], weight)
            if token >= 0:
                logits[row] = out[0, token % PANEL_WIDTH]
            else:
                logits[row] = -np.inf if np.all(np.isneginf(out)) else np.nan
        return np.maximum(tokens, 0), logits

    def masked_argmax(self, x: Array, masks: RowMasks) -> Array:
        """[M] int64: `argmax` among the outputs that each row's mask allows, of which there is one at least."""
        indices = np.empty(x.shape[0], dtype=np.int64)
        if self.bias is not None:
            logits = self._biased(x)
            for row, mask in enumerate(masks.mask_of.tolist()):
                if mask >= 0:
                    bits = np.unpackbits(masks.words[mask].view(np.uint8), bitorder="little")
                    logits[row, bits[: logits.shape[1]] == 0] = -np.inf
            kernels.argmax(indices, logits)
            return indices
        bounds = self.bounds if x.shape[0] <= self._most_rows else None
        num_rows, num_panels = kernels.masked_argmax(indices, x, self.weight, masks.words, masks.mask_of, bounds)
        if num_rows:
            self._judge(num_rows, num_panels)
        return indices

    def _biased(self, x: Array) -> Array:
        logits = np.empty((x.shape[0], self.weight.num_rows), np.float32)
        kernels.linear(logits, x, self.weight, self.bias)
        return logits

    def _judge(self, num_rows: int, num_panels: int) -> None:
        """Disables bounds that prune too little: too many panels are computed."""
        self._rows += num_rows
        self._panels += num_panels
        self._allowed += (
            num_rows * self.weight.num_rows / PANEL_WIDTH * (MOST_COMPUTED if num_rows > 4 else MOST_COMPUTED_OF_FEW)
        )
        if self._rows >= 64:
            if self._panels > self._allowed:
                self.bounds = None
            self._rows = self._panels = 0
            self._allowed = 0.0


def bounds_bytes(vocab_size: int, hidden_size: int, bytes_each: float) -> int:
    """Bytes of an LM head's bounds, beside weights of `bytes_each`."""
    return quantized_bounds.num_bytes(vocab_size, hidden_size) if vocab_size >= MIN_TOKENS and bytes_each >= 2 else 0
