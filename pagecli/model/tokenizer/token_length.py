"""How much text one token can stand for: with it a prompt is known to be too long before it is tokenized."""

import json
from typing import Any

NFC_SHRINKS_BY = 3  # at most: three Hangul jamo, 9 bytes, become a syllable of 3


def longest_token_bytes(backend: Any) -> int | None:
    """The most UTF-8 bytes of text that a token of this tokenizer (of the tokenizers package) covers; None: no bound is known.

    There is a bound where every byte of the text ends in some token: BPE over bytes, or with fallback to bytes, behind
    normalizers that do not shorten text, or NFC.
    """
    from tokenizers import decoders, models

    if not isinstance(backend.model, models.BPE):
        return None
    if not (isinstance(backend.decoder, decoders.ByteLevel) or backend.model.byte_fallback):
        return None
    shrinks_by = _shrinks_by(_state(backend.normalizer))
    added = backend.get_added_tokens_decoder().values()
    if shrinks_by is None or any(token.lstrip or token.rstrip for token in added):  # such tokens take any run of spaces
        return None
    return shrinks_by * max(len(token.encode("utf-8")) for token in backend.get_vocab(with_added_tokens=True))


def _state(normalizer: Any) -> dict[str, Any] | None:
    return None if normalizer is None else json.loads(normalizer.__getstate__())


def _shrinks_by(state: dict[str, Any] | None) -> int | None:
    """By which factor a normalizer shortens text at most; None if by any."""
    if state is None:
        return 1
    kind = state.get("type")
    if kind == "Sequence":
        product = 1
        for part in state["normalizers"]:
            factor = _shrinks_by(part)
            if factor is None:
                return None
            product *= factor
        return product
    if kind == "Replace":
        pattern = state["pattern"].get("String")
        return 1 if pattern and len(state["content"].encode()) >= len(pattern.encode()) else None
    return {"NFC": NFC_SHRINKS_BY, "Prepend": 1, "ByteLevel": 1}.get(str(kind))
