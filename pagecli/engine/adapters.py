"""Which of an engine's LoRA adapters a request names."""

from pagecli.errors import RowError, short_repr


def adapter_of(loras: tuple[tuple[str, str], ...], name: str | None) -> int:
    """Index of the adapter of that name; -1: none is named. Raises RowError for a name that no adapter has."""
    if not name:
        return -1
    names = [known for known, _ in loras]
    if name not in names:
        known = f"use {', '.join(names)}" if names else "give its directory: --lora NAME=DIR"
        raise RowError(f"lora is {short_repr(name)}, which no --lora names", known)
    return names.index(name)
