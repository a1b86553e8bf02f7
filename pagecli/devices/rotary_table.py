"""The table of cosines and sines for rotary position embeddings, in float32: each entry the nearest to
cos or sin of the float32 angle that transformers computes."""

import math
from collections.abc import Callable

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.model_config import RopeConfig
from pagecli.model.program import Program, Rotary, Weight

_FIRST_POSITIONS = 4096


class RotaryTable:
    """cos_sin[positions, rotary_dim], grown as longer sequences come: 131,072 positions at once would be 64 MB."""

    def __init__(self, config: RopeConfig, max_positions: int, frequency_factors: Array | None = None) -> None:
        """frequency_factors[rotary_dim / 2]: the divisor of each frequency, for scaling "frequency_factors"."""
        self._inv_freq = inverse_frequencies(config)
        if frequency_factors is not None:
            self._inv_freq = self._inv_freq / frequency_factors
        self._max_positions = max_positions
        self._table = self._compute(min(_FIRST_POSITIONS, max_positions))

    def up_to(self, num_positions: int) -> Array:
        """A table that covers positions 0 .. num_positions - 1."""
        if num_positions > self._table.shape[0]:
            self._table = self._compute(max(num_positions, min(2 * self._table.shape[0], self._max_positions)))
        return self._table

    def _compute(self, num_positions: int) -> Array:
        angles = (np.arange(num_positions, dtype=np.float32)[:, np.newaxis] * self._inv_freq).astype(np.float64)
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=1, dtype=np.float32)


def table_of(program: Program, factors: Callable[[Weight], Array]) -> RotaryTable | None:
    """The table that all rotations of a program share; `factors` gives a weight's numbers. None where nothing is rotated."""
    rotations = {(op.rope, op.max_positions, op.factors) for op in program.operations() if isinstance(op, Rotary)}
    if len(rotations) > 1:
        raise ValueError("a program's layers share one rotary table")
    return next((RotaryTable(rope, most, factors(by) if by is not None else None) for rope, most, by in rotations), None)


def inverse_frequencies(config: RopeConfig) -> Array:
    """theta^(-2i / rotary_dim) for i in [0, rotary_dim / 2), scaled as `config` says."""
    exponents = np.arange(0, config.rotary_dim, 2, dtype=np.float32) / np.float32(config.rotary_dim)
    powers = (config.theta ** exponents.astype(np.float64)).astype(np.float32)
    inv_freq = np.float32(1.0) / powers
    if config.scaling == "linear":
        return inv_freq / config.factor
    if config.scaling == "llama3":
        return _llama3(inv_freq, config)
    return inv_freq


def _llama3(inv_freq: Array, config: RopeConfig) -> Array:
    """Frequencies turning more than high_freq_factor times in the original context stay, those turning less than
    low_freq_factor times are divided by factor, those between are interpolated (Llama 3.1)."""
    turns = config.original_max_positions * inv_freq / (2 * math.pi)
    kept = (turns - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor)
    kept = kept.clip(0.0, 1.0)
    return (1 - kept) * inv_freq / config.factor + kept * inv_freq
