"""Columns that hold lists and objects, in formats that may have only text for them (Parquet, CSV): text is read as JSON."""

import json
from typing import Any

from pagecli.core.json_text import parsed
from pagecli.errors import ErrorCode, RowError
from pagecli.jobs.rows.row import is_too_deep


def json_column(name: str, value: Any) -> Any:
    """The value, or what its text says as JSON. Raises RowError."""
    if not isinstance(value, str):
        return value
    try:
        found = parsed(value)
    except ValueError as error:
        reason = f": {error.msg} at column {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        raise RowError(f"column {name} is text that is no JSON{reason}", code=ErrorCode.INVALID_TYPE) from error
    if is_too_deep(found):
        raise RowError(f"column {name} is nested too deep", code=ErrorCode.ROW_TOO_LARGE)
    return found
