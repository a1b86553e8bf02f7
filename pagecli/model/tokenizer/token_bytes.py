"""The bytes that a token of a vocabulary stands for, as OpenAI's log probabilities have them: spaces and parts of characters
included, whatever the decoder makes of the token at the start of a text or beside others. And the most text that one token can
stand for: with it a prompt is known to be too long before it is tokenized.
"""

import functools
import json
import re
from collections.abc import Callable
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # of a fallback to bytes


def token_bytes_of(backend: Any) -> Callable[[int], bytes | None]:
    """token id -> bytes, for a tokenizer of the tokenizers package; None: the vocabulary has no such token."""
    added = {i: token.content.encode("utf-8", "replace") for i, token in backend.get_added_tokens_decoder().items()}
    steps = _steps(None if backend.decoder is None else json.loads(backend.decoder.__getstate__()))

    def find(token_id: int) -> bytes | None:
        if token_id in added:
            return added[token_id]
        token = backend.id_to_token(token_id)
        if token is None:
            return None
        for step in steps:
            found = step(token)
            if isinstance(found, bytes):
                return found
            token = found
        return token.encode("utf-8", "replace")

    return find


def _steps(state: dict[str, Any] | None) -> list[Callable[[str], str | bytes]]:
    """The decoder's steps on one token alone, without those on the text's ends and between tokens."""
    if state is None:
        return [lambda token: " " + token]  # tokens are words
    kind = state["type"]
    if kind == "Sequence":
        return [step for part in state["decoders"] for step in _steps(part)]
    if kind == "ByteLevel":
        return [_byte_level]
    if kind == "ByteFallback":
        return [_byte_fallback]
    if kind == "Metaspace":
        return [lambda token: token.replace(state["replacement"], " ")]
    if kind == "Replace" and "String" in state["pattern"]:
        return [lambda token: token.replace(state["pattern"]["String"], state["content"])]
    if kind == "WordPiece":
        prefix = state["prefix"]
        return [lambda token: token[len(prefix) :] if token.startswith(prefix) else " " + token]
    if kind == "BPEDecoder":
        return [lambda token: token.replace(state["suffix"], " ")]
    return []  # Fuse and Strip, which are about the whole text, and what is not known


def _byte_fallback(token: str) -> str | bytes:
    found = _BYTE_TOKEN.fullmatch(token)
    return token if found is None else bytes([int(found[1], 16)])


def _byte_level(token: str) -> str | bytes:
    """GPT-2's letters for bytes; a token with other letters is text."""
    values = _letters()
    return bytes(values[letter] for letter in token) if all(letter in values for letter in token) else token


@functools.cache
def _letters() -> dict[str, int]:
    """Letter -> byte: printable bytes of Latin-1 stand for themselves, the others, in order, for U+0100 and on (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


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
