"""Tokenizers of each kind that transformers rebuilds or fixes up in its own way, as directories it can load."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TEXT = "the quick brown fox jumps over lazy dogs . , ! ? ' n't 's do I 'm we 've they 're it is not so"
WORDS = _TEXT.split()
_TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"


def build(kind: str, directory: Path) -> Path:
    make, model_type = KINDS[kind]
    make().save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    return directory


def _byte_level_vocab() -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import pre_tokenizers

    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "q"), ("Ġ", "."), ("Ġ", "n"), ("o", "x")]
    tokens = ["<s>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    return {token: i for i, token in enumerate(tokens)}, merges


def _gpt2() -> Any:
    """Byte-level BPE, with added tokens: special and not, that take the spaces before or after them."""
    from tokenizers import AddedToken
    from transformers import GPT2Tokenizer

    vocab, merges = _byte_level_vocab()
    made = GPT2Tokenizer(vocab, merges, unk_token="<unk>", bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=True)
    made.add_tokens([AddedToken("<plain>"), AddedToken("<left>", lstrip=True), AddedToken("word", single_word=True)])
    made.add_tokens([AddedToken("<right>", rstrip=True), AddedToken("<|special|>")], special_tokens=True)
    made.chat_template = _TEMPLATE
    return made


def _llama() -> Any:
    """As sentencepiece does it: spaces are ▁, one stands before the text, bytes where there is no token; <s> is added."""
    from transformers import LlamaTokenizer

    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "q"), ("o", "x"), ("▁", "▁")]
    letters = sorted(set("".join(WORDS)) | {"▁", "\n"})
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *letters]
    tokens += [joined for pair in merges if (joined := "".join(pair)) not in tokens]
    made = LlamaTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, add_bos_token=True)
    made.chat_template = {"default": _TEMPLATE, "tool_use": "{{ raise_exception('not this one') }}"}
    return made


def _word_level() -> Any:
    """Words with spaces between them, cleaned up in decoding; no chat template; special tokens in a text are plain text."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["[UNK]", "[BOS]", "[EOS]", *WORDS, "[", "]", "BOS"]
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="[UNK]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        clean_up_tokenization_spaces=True,
        split_special_tokens=True,
    )


def _bert() -> Any:
    """WordPiece: lower case, no accents, [CLS] and [SEP] around every text, cleaned up in decoding."""
    from transformers import BertTokenizer

    letters = sorted(set("".join(WORDS).lower()))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return BertTokenizer(vocab=vocab, do_lower_case=True, clean_up_tokenization_spaces=True)


def _unigram() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), *((f"▁{word}", -3.1) for word in WORDS)]
    pieces += [(letter, -7.25) for letter in sorted(set("".join(WORDS)))]
    made = Tokenizer(models.Unigram(pieces, 0, False))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>", chat_template=_TEMPLATE)


KINDS: dict[str, tuple[Callable[[], Any], str]] = {
    "byte-level BPE": (_gpt2, "gpt2"),
    "BPE with metaspace": (_llama, "llama"),
    "word level": (_word_level, "opt"),
    "WordPiece": (_bert, "bert"),
    "Unigram": (_unigram, "opt"),
}
