"""Long series made short enough to draw: neighbouring points become one, with their mean and their range."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_BUCKETS = 300

Series = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Bucketed:
    """At most NUM_BUCKETS points of a series; x is where each bucket begins."""

    x: Series
    mean: Series
    low: Series
    high: Series

    @property
    def is_reduced(self) -> bool:
        """Whether points were put together, so that the range says more than the mean."""
        return self.low is not self.high


def bucket_edges(num_points: int, num_buckets: int = NUM_BUCKETS) -> Any:
    """Index of the first point of each bucket, and the number of points at the end; at most one bucket a point."""
    return np.linspace(0, num_points, min(num_points, num_buckets) + 1).astype(np.int64)


def bucketed(x: Series, y: Series, num_buckets: int = NUM_BUCKETS) -> Bucketed:
    """The series in buckets of neighbouring points; up to twice `num_buckets` points stay as they are."""
    if len(x) <= 2 * num_buckets:
        return Bucketed(x, y, y, y)
    edges = bucket_edges(len(x), num_buckets)
    starts = edges[:-1]
    mean = np.add.reduceat(y, starts) / np.diff(edges)
    return Bucketed(x[starts], mean, np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts))


def column(records: Sequence[Any], name: str) -> Series:
    """One field of every record, as floats; None becomes NaN."""
    values = (getattr(record, name) for record in records)
    return np.fromiter((np.nan if value is None else value for value in values), np.float64, len(records))
