"""Values of a program's rows as JSON has them: numbers, texts and lists are what they mean, whichever library holds them.

So a row reads the same, draws the same random numbers (its id seeds them) and is returned the same, whether its numbers are
Python's, numpy's or Arrow's. What JSON has no form for (sets, dates of Python, other objects) is left as it is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pagecli.jobs.rows.arrow_values import to_python
from pagecli.jobs.rows.row import MAX_DEPTH

_PLAIN = frozenset((str, int, float, bool, type(None), bytes))
_MISSING = frozenset(("NAType", "NaTType"))  # of pandas, which is not imported for them


class TooDeepError(ValueError):
    """A value of more than MAX_DEPTH objects and lists inside each other."""


def plain(value: Any, depth: int = 0) -> Any:
    """The value of Python's own types; `depth`: of objects and lists around it. Raises TooDeepError."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, pa.Scalar):
        return to_python(value)
    if isinstance(value, Mapping | list | tuple):
        if depth >= MAX_DEPTH:
            raise TooDeepError
        if isinstance(value, Mapping):
            return {_name(name): plain(item, depth + 1) for name, item in value.items()}
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, str):
        return _name(value)
    if isinstance(value, np.generic):
        return _number(value)
    if hasattr(value, "tolist"):  # arrays of numpy, tensors, series
        listed = _listed(value)
        return plain(listed, depth) if type(listed) in _PLAIN or isinstance(listed, list | np.generic) else value
    return None if kind.__name__ in _MISSING and kind.__module__.startswith("pandas.") else value


def _name(name: Any) -> Any:
    return str.__str__(name) if isinstance(name, str) else name


def _number(value: np.generic) -> Any:
    """Times are as in an Arrow table: ISO 8601 with the digits of their unit, durations in seconds."""
    if isinstance(value, np.datetime64 | np.timedelta64):
        if np.isnat(value):
            return None
        return str(value) if isinstance(value, np.datetime64) else float(value / np.timedelta64(1, "s"))
    return float(value) if isinstance(value, np.floating) else value.tolist()


def _listed(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "mM":  # which tolist() makes numbers of
        return list(value) if value.ndim else value[()]
    return value.tolist()
