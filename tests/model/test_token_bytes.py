"""A token's bytes are the vocabulary's: those of a text's tokens, put together, are the text."""

import pytest
import tiny_tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make_tokenizer

from pagecli.model.tokenizer.token_bytes import token_bytes_of
from pagecli.model.tokenizer.tokenizer import parts_of

TEXTS = [
    "the quick brown fox",
    "the quick  q the",
    " the fox",
    "fox<|special|>the </s>",
]
BYTE_TEXTS = ["naïve café 東京 🙂", "\n\n\ttab", "the ▁ fox Ġ"]


def joined(tokenizer, text):
    """(bytes of the text's tokens, the text as the tokenizer decodes it), special tokens included."""
    find, ids = token_bytes_of(tokenizer.backend_tokenizer), tokenizer(text, add_special_tokens=False)["input_ids"]
    return b"".join(find(i) for i in ids), parts_of(tokenizer).decode(ids, False)


@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
def test_every_kind_of_tokenizer(kind):
    """But for a space in front and what decoding cleans up around punctuation."""
    tokenizer = tiny_tokenizers.KINDS[kind][0]()
    for text in TEXTS + (BYTE_TEXTS if "BPE" in kind else []):
        found, expected = joined(tokenizer, text)
        assert found.decode().replace(" ", "") == expected.replace(" ", "")
        if "BPE" in kind:
            assert found.decode() in (expected, " " + expected)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=20))
def test_any_text_by_bytes(text):
    found, _ = joined(make_tokenizer(), text)
    assert found == text.encode()


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=20))
def test_any_text_by_pieces_with_a_fallback_to_bytes(text):
    found, _ = joined(tiny_tokenizers.KINDS["BPE with metaspace"][0](), text)
    assert found in (text.encode(), b" " + text.encode())


def test_parts_of_characters_spaces_and_ids_outside_the_vocabulary():
    backend = tiny_tokenizers.KINDS["BPE with metaspace"][0]().backend_tokenizer
    find, vocab = token_bytes_of(backend), backend.get_vocab()
    assert (find(vocab["<0xE2>"]), find(vocab["▁the"]), find(vocab["he"]), find(vocab["</s>"])) == (
        b"\xe2",
        b" the",
        b"he",
        b"</s>",
    )
    assert find(10**6) is None
