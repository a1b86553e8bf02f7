"""A copy of a transformers tokenizer that works without transformers: made only if a comparison shows the same results."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pagecli.model.tokenizer.tokenizer import TokenizerParts, panics_as_errors

# Spaces before punctuation, runs of spaces, scripts, composed and decomposed letters, what normalizers drop, no text at all.
_PROBES = (
    "",
    " ",
    "Hello , world ! It 's n't ' so ' . I 'm , we 've , they 're ?",
    "  two spaces, and a tab\there\r\n\n\n    return x  # done ",
    "DON'T don't I'm we've they're; 0123456789 3.14e-10 1,000",
    "naïve café ÀÉ e\u0301 ﬁ Å ½ ß İ",
    "東京タワー ไทย हिन्दी עברית العربية 한국어 ㄱㅏ",
    "🙂👩‍👩‍👧 \ufeff\u200d\u00a0\u3000\u00ad",
    "\x00\x07\x7f\ufffd",
    "▁▁metaspace ##ing </w> <0x41> Ġspace",
    "<s></s><unk><pad> [CLS] [SEP] <|endoftext|><|im_start|>user",
    "word" * 40,
)
_MAX_ADDED_TOKENS_IN_TEXTS = 512
_NUM_DECODED, _DECODED_LENGTH = 256, 32


def faithful_copy(tokenizer: Any, parts: TokenizerParts) -> tuple[TokenizerParts, bytes] | None:
    """Parts built anew from what `parts_of(tokenizer)` writes down, and those bytes; None if they are not sure to do the same.

    The Rust part does not write down everything it knows, and a class of transformers may decode in its own way: so the copy is
    compared over its whole vocabulary and on texts made for it.
    """
    if not _decodes_as_usual(tokenizer) or not _is_plain(parts):
        return None
    try:
        with panics_as_errors:
            content = parts.to_bytes()
            copy = TokenizerParts.from_bytes(content)
            equal = copy == replace(parts, backend=copy.backend, own_decode=None) and copy.to_bytes() == content
        if not equal or not _same_vocabulary(parts.backend, copy.backend):
            return None
    except Exception:  # parts written in Python cannot be written down
        return None
    return (copy, content) if _same_results(parts, copy) else None


def _decodes_as_usual(tokenizer: Any) -> bool:
    """Whether the class is transformers' own, and decodes as most do."""
    from transformers import PreTrainedTokenizerFast

    kind = type(tokenizer)
    usual = all(
        getattr(kind, name) is getattr(PreTrainedTokenizerFast, name) for name in ("decode", "_decode", "clean_up_tokenization")
    )
    return usual and kind.__module__.startswith("transformers.")


def _is_plain(parts: TokenizerParts) -> bool:
    texts = [parts.chat_template, parts.chat_template_error, parts.tool_template, *parts.special_tokens.values()]
    return all(text is None or type(text) is str for text in texts)


def _same_vocabulary(backend: Any, copy: Any) -> bool:
    added, copied = backend.get_added_tokens_decoder(), copy.get_added_tokens_decoder()
    return (
        backend.get_vocab(with_added_tokens=True) == copy.get_vocab(with_added_tokens=True)
        and {i: repr(token) for i, token in added.items()} == {i: repr(token) for i, token in copied.items()}
        and copy.truncation is None
        and copy.padding is None
    )


def _same_results(parts: TokenizerParts, copy: TokenizerParts) -> bool:
    def encodes_alike(text: str, add_special_tokens: bool) -> bool:
        results = [
            _outcome(lambda b=b: b.encode(text, add_special_tokens=add_special_tokens).ids)  # type: ignore[misc]
            for b in (parts.backend, copy.backend)
        ]
        return results[0] == results[1]

    def decodes_alike(ids: list[int], skip: bool) -> bool:
        return _outcome(lambda: parts.decode(ids, skip)) == _outcome(lambda: copy.decode(ids, skip))

    added = parts.backend.get_added_tokens_decoder()
    contents = [token.content for token in added.values()][:_MAX_ADDED_TOKENS_IN_TEXTS]
    texts = [*_PROBES, *(text for one in contents for text in (f"a{one}b", f"a {one}  B{one}{one}"))]
    ids = [*_spread_ids(parts.num_tokens), *([i] for i in added), *(_encoded(copy, text) for text in _PROBES)]
    flags = (True, False)
    return all(encodes_alike(text, flag) for text in texts for flag in flags) and all(
        decodes_alike(some, flag) for some in ids for flag in flags
    )


def _outcome(call: Callable[[], Any]) -> Any:
    """The call's result, or the type of exception it raises."""
    try:
        with panics_as_errors:
            return call()
    except Exception as error:
        return type(error)


def _encoded(parts: TokenizerParts, text: str) -> list[int]:
    try:
        with panics_as_errors:
            return parts.backend.encode(text, add_special_tokens=True).ids
    except Exception:  # words out of a vocabulary that has no token for them
        return []


def _spread_ids(num_tokens: int) -> Iterator[list[int]]:
    """Runs of ids from all over the vocabulary, its end and one id beyond it included."""
    step = max(1, (num_tokens - _DECODED_LENGTH) // _NUM_DECODED)
    for start in range(0, num_tokens, max(step, min(_DECODED_LENGTH, num_tokens))):
        yield list(range(start, min(start + _DECODED_LENGTH, num_tokens)))
    yield list(range(max(0, num_tokens - _DECODED_LENGTH), num_tokens + 1))
