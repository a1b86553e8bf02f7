"""JSON that somebody else has written: whatever is wrong with it is a ValueError."""

import json
from typing import Any


def parsed(text: str | bytes) -> Any:
    """json.loads. Raises ValueError, also for what is nested deeper than the interpreter goes."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
