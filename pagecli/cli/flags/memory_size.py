"""Sizes of memory as people write them: 4GiB, 512MB, auto."""

import re

from pagecli.errors import UsageError

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_memory_size(flag: str, text: str) -> int | None:
    """Bytes, or None for auto. 1 GiB (or G) is 1024**3 bytes, 1 GB is 1000**3. Raises UsageError."""
    if text.strip().lower() == "auto":
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b|)\s*", text, re.IGNORECASE)
    if match is None or not (match[2] or match[3]):
        raise UsageError(f"{flag} is {text!r}, not a size", "write a number and a unit, as in 4GiB or 512MB, or auto")
    base = 1000 if match[2] and match[3].lower() == "b" else 1024
    size = int(float(match[1]) * base ** _POWERS[match[2].lower()])
    if size < 1:
        raise UsageError(f"{flag} is {text!r}: no memory at all", "write a size above zero, or auto")
    return size
