"""The parts of a transformers tokenizer that pagecli uses: the Rust part and Python's settings. They can be serialized.

A panic in the Rust part becomes an Exception; PyO3 raises a BaseException, past every `except Exception`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any


class TokenizerPanic(Exception):
    """The tokenizers package panicked on this text or file; its next call works again."""


class PanicsAsErrors:
    """A context manager: a panic inside it leaves it as TokenizerPanic, everything else as it is."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is not None and (kind.__module__, kind.__name__) == ("pyo3_runtime", "PanicException"):
            raise TokenizerPanic(str(error)) from None


panics_as_errors = PanicsAsErrors()

# What transformers replaces, in this order, where a tokenizer cleans up spaces (PreTrainedTokenizerBase.clean_up_tokenization).
_CLEAN_UPS = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


@dataclass(frozen=True, slots=True)
class TokenizerParts:
    backend: Any  # a Tokenizer of the tokenizers package, without truncation and padding
    num_tokens: int  # of the vocabulary, added ones included
    eos_token_id: int | None
    special_tokens: dict[str, str]  # such as bos_token: <s>; chat templates read them
    chat_template: str | None
    chat_template_error: str | None  # why there is none to use where there are some
    tool_template: str | None  # of a model that has one of its own for conversations with tools
    cleans_up_spaces: bool
    own_decode: Callable[..., str] | None = None  # of a tokenizer that decodes in a way of its own

    @property
    def has_chat_template(self) -> bool:
        return self.chat_template is not None or self.chat_template_error is not None

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        if self.own_decode is not None:
            return self.own_decode(ids, skip_special_tokens=skip_special_tokens)
        text = self.backend.decode(ids, skip_special_tokens=skip_special_tokens)
        if self.cleans_up_spaces:
            for spaced, clean in _CLEAN_UPS:
                text = text.replace(spaced, clean)
        return text

    def to_bytes(self) -> bytes:
        """Two lines of JSON: what Python adds, then the Rust part. Raises Exception if that cannot be written down."""
        added = {
            "num_tokens": self.num_tokens,
            "eos_token_id": self.eos_token_id,
            "special_tokens": self.special_tokens,
            "chat_template": self.chat_template,
            "chat_template_error": self.chat_template_error,
            "tool_template": self.tool_template,
            "cleans_up_spaces": self.cleans_up_spaces,
            "encode_special_tokens": self.backend.encode_special_tokens,  # which the Rust part does not write down itself
        }
        return f"{json.dumps(added)}\n{self.backend.to_str()}".encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "TokenizerParts":
        """Of what to_bytes wrote. Raises Exception for anything else."""
        from tokenizers import Tokenizer

        added_line, _, backend_line = content.partition(b"\n")
        added = json.loads(added_line)
        backend = Tokenizer.from_buffer(backend_line)
        backend.encode_special_tokens = added.pop("encode_special_tokens")
        return cls(backend, **added)


def parts_of(tokenizer: Any) -> TokenizerParts:
    """The parts of a transformers tokenizer, whose truncation and padding end here: prompts are never cut unasked.

    transformers takes them off before every call, which is not safe beside another thread.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    template, template_error = _chat_template(tokenizer)
    return TokenizerParts(
        backend,
        len(tokenizer),
        tokenizer.eos_token_id,
        dict(tokenizer.special_tokens_map),
        template,
        template_error,
        _tool_template(tokenizer),
        _cleans_up_spaces(tokenizer),
        tokenizer.decode,
    )


def _chat_template(tokenizer: Any) -> tuple[str | None, str | None]:
    if not tokenizer.chat_template:
        return None, None
    try:
        return tokenizer.get_chat_template(), None
    except Exception as error:  # several templates, none of them the default one
        return None, str(error)


def _tool_template(tokenizer: Any) -> str | None:
    """As transformers chooses among several where tools are given."""
    templates = tokenizer.chat_template
    return templates.get("tool_use") if isinstance(templates, dict) else None


def _cleans_up_spaces(tokenizer: Any) -> bool:
    """transformers heeds the setting for BPE only where a second one insists on it."""
    is_bpe = type(tokenizer.backend_tokenizer.model).__name__ == "BPE"
    insists = getattr(tokenizer, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
    return bool(tokenizer.clean_up_tokenization_spaces) and (not is_bpe or bool(insists))
