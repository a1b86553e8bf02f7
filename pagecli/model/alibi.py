"""The slopes of ALiBi (Press et al., Train Short, Test Long, 2022, section 3): a geometric sequence over the heads."""

import math


def slopes(num_heads: int, scale: float = 1.0) -> tuple[float, ...]:
    """The slope of each head, times `scale`. Where their number is no power of two, every second slope of the next one's
    follows."""
    whole = 2 ** math.floor(math.log2(num_heads))
    first = [2.0 ** (-8.0 * (i + 1) / whole) for i in range(whole)]
    more = [2.0 ** (-4.0 * (2 * i + 1) / whole) for i in range(num_heads - whole)]
    return tuple(slope * scale for slope in first + more)
