"""The table of cosines and sines for rotary position embeddings, in float32: each entry the nearest to
cos or sin of the float32 angle that transformers computes."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.model_config import RopeConfig
from pagecli.model.program import Program, Rotary, Weight

_FIRST_POSITIONS = 4096


class RotaryTable:
    """The tables of all rotations side by side, cos_sin[positions, columns], grown as longer sequences come: 131,072 positions
    at once would be 64 MB."""

    def __init__(self, rotations: Sequence[tuple[RopeConfig, Array | None]], max_positions: int) -> None:
        """Each with the divisors of its frequencies, [rotary_dim / 2], for scaling "frequency_factors"."""
        self._frequencies = [
            (inverse_frequencies(rope) if factors is None else inverse_frequencies(rope) / factors, rope.attention_factor)
            for rope, factors in rotations
        ]
        self._max_positions = max_positions
        self._table = self._compute(min(_FIRST_POSITIONS, max_positions))

    def up_to(self, num_positions: int) -> Array:
        """A table that covers positions 0 .. num_positions - 1."""
        if num_positions > self._table.shape[0]:
            self._table = self._compute(max(num_positions, min(2 * self._table.shape[0], self._max_positions)))
        return self._table

    def _compute(self, num_positions: int) -> Array:
        positions, columns = np.arange(num_positions, dtype=np.float32)[:, np.newaxis], []
        for inv_freq, attention_factor in self._frequencies:
            angles = (positions * inv_freq).astype(np.float64)
            columns += [np.cos(angles) * attention_factor, np.sin(angles) * attention_factor]
        return np.concatenate(columns, axis=1, dtype=np.float32)


Rotation = tuple[RopeConfig, Weight | None]


def rotations_of(program: Program) -> dict[Rotation, int]:
    """Every rotation of a program's layers, and the first of its columns in the table."""
    found = dict.fromkeys((op.rope, op.factors) for op in program.operations() if isinstance(op, Rotary))
    first_columns = [0, *accumulate(rope.rotary_dim for rope, _ in found)]
    return dict(zip(found, first_columns, strict=False))


def table_of(program: Program, factors: Callable[[Weight], Array]) -> RotaryTable | None:
    """The table of a program's rotations; `factors` gives a weight's numbers. None where nothing is rotated."""
    rotations = [(rope, factors(by) if by is not None else None) for rope, by in rotations_of(program)]
    return RotaryTable(rotations, program.config.max_positions) if rotations else None


def inverse_frequencies(config: RopeConfig) -> Array:
    """theta^(-2i / rotary_dim) for i in [0, rotary_dim / 2), scaled as `config` says."""
    exponents = np.arange(0, config.rotary_dim, 2, dtype=np.float32) / np.float32(config.rotary_dim)
    powers = (config.theta ** exponents.astype(np.float64)).astype(np.float32)
    inv_freq = np.float32(1.0) / powers
    if config.scaling == "linear":
        return inv_freq / config.factor
    if config.scaling == "llama3":
        return _llama3(inv_freq, config)
    if config.scaling == "yarn":
        return _yarn(inv_freq, config)
    if config.scaling == "divisors":
        return np.float32(1.0) / (np.array(config.divisors, dtype=np.float32) * powers)
    return inv_freq


def _llama3(inv_freq: Array, config: RopeConfig) -> Array:
    """Frequencies turning more than high_freq_factor times in the original context stay, those turning less than
    low_freq_factor times are divided by factor, those between are interpolated (Llama 3.1)."""
    turns = config.original_max_positions * inv_freq / (2 * math.pi)
    kept = (turns - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor)
    kept = kept.clip(0.0, 1.0)
    return (1 - kept) * inv_freq / config.factor + kept * inv_freq


def _yarn(inv_freq: Array, config: RopeConfig) -> Array:
    """Frequencies turning more than beta_fast times in the original context stay, those turning less than beta_slow times are
    divided by factor, those between are interpolated by their dimension (Peng et al., YaRN, 2023, section 3.2)."""

    def dimension(turns: float) -> float:
        return (
            config.rotary_dim * math.log(config.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(config.theta))
        )

    low, high = dimension(config.beta_fast), dimension(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.rotary_dim - 1)
    ramp = (np.arange(config.rotary_dim // 2, dtype=np.float32) - low) / (high - low if high != low else 0.001)
    kept = 1 - ramp.clip(0.0, 1.0).astype(np.float32)
    return inv_freq / np.float32(config.factor) * (1 - kept) + inv_freq * kept
