"""Text to token ids and back, as transformers' tokenizers do it, and the model's own chat template.

Of a transformers tokenizer pagecli uses its parts, which can be serialized: the Rust part and Python's settings. A panic in the
Rust part becomes an Exception; PyO3 raises a BaseException, past every `except Exception`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from pagecli.errors import ErrorCode, RowError, first_line

if TYPE_CHECKING:
    from pagecli.model.tokenizer.templates.process import TemplateProcess


class Tokenizer(Protocol):
    """One thread may encode while another decodes."""

    has_chat_template: bool
    eos_token_ids: tuple[int, ...]  # the ids that end a text: generation config's, else the model's, else the tokenizer's
    vocab_size: int
    template_time: datetime | None  # what the chat template sees as the time, if set before its first use; None: its first use

    @property
    def bos_token_id(self) -> int | None: ...

    def encode(self, text: str) -> list[int]:
        """Ids of `text` with the model's special tokens, as transformers adds them by default."""
        ...

    def encode_plain(self, text: str) -> list[int]:
        """Ids of `text` alone, without the special tokens that begin or end a prompt."""
        ...

    def token_id(self, text: str) -> int | None:
        """The token that is exactly this text in the vocabulary, such as </think>."""
        ...

    @property
    def special_token_ids(self) -> list[int]:
        """Tokens that stand for no text, end tokens among them."""
        ...

    @property
    def chat_template(self) -> str | None:
        """The template's source, where there is one that can be used."""
        ...

    @property
    def tool_template(self) -> str | None:
        """The source of the template that is used where tools are given: some models have two."""
        ...

    def apply_chat_template(self, messages: list[dict[str, Any]], variables: Mapping[str, Any] | None = None) -> list[int]:
        """Ids of a conversation, ready for the assistant's answer; RowError when there is no template or it refuses.

        `variables`: what else the template is given, as `enable_thinking`.
        """
        ...

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str: ...

    def token_bytes(self, token_id: int) -> bytes | None:
        """What the token stands for in the vocabulary, perhaps a part of a character; None: there is no such token."""
        ...

    def longest_token_bytes(self) -> int | None:
        """The most UTF-8 bytes of text that one token stands for; None if there is no bound."""
        ...


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
    """What a tokenizer of transformers is made of, as far as it is used here."""

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


class TransformersTokenizer:
    """The same results as the transformers tokenizer of these parts. Its Rust part's calls used here change nothing in it."""

    def __init__(self, parts: TokenizerParts, eos_token_ids: tuple[int, ...] = ()) -> None:
        self._parts = parts
        own = parts.eos_token_id
        self.eos_token_ids = eos_token_ids or (() if own is None else (own,))
        self.vocab_size = parts.num_tokens
        self.has_chat_template = parts.has_chat_template
        self.template_time: datetime | None = None
        self._templates: dict[str | None, TemplateProcess] = {}  # by their text; each made when it is first needed
        self._token_bytes: Callable[[int], bytes | None] | None = None
        self._longest_token_bytes: int | None = 0  # 0: not looked up yet

    @property
    def bos_token_id(self) -> int | None:
        """The token that texts of this model begin with; None where it names none."""
        token = self._parts.special_tokens.get("bos_token")
        return None if token is None else self._parts.backend.token_to_id(token)

    def encode(self, text: str) -> list[int]:
        return self._encode(text, add_special_tokens=True)

    def encode_plain(self, text: str) -> list[int]:
        return self._encode(text, add_special_tokens=False)

    def token_id(self, text: str) -> int | None:
        return self._parts.backend.token_to_id(text)

    @property
    def special_token_ids(self) -> list[int]:
        return sorted(i for i, token in self._parts.backend.get_added_tokens_decoder().items() if token.special)

    @property
    def chat_template(self) -> str | None:
        return self._parts.chat_template

    @property
    def tool_template(self) -> str | None:
        return self._parts.tool_template or self._parts.chat_template

    def apply_chat_template(self, messages: list[dict[str, Any]], variables: Mapping[str, Any] | None = None) -> list[int]:
        if not self.has_chat_template:
            raise RowError(
                "the model's tokenizer has no chat template",
                "give prompts instead of messages, or use --no-chat",
                ErrorCode.NOT_TOKENIZABLE,
            )
        try:
            template = self.tool_template if variables and variables.get("tools") else self.chat_template
            if template not in self._templates:
                self._templates[template] = _process_of(template, self._parts, self.template_time or datetime.now())
            text = self._templates[template].render(messages, variables)
        except Exception as error:  # the template is the model author's program: it may raise anything
            raise RowError(
                f"the chat template refuses these messages: {first_line(error)}",
                "check roles and contents",
                ErrorCode.NOT_TOKENIZABLE,
            ) from error
        return self._encode(text, add_special_tokens=False)  # the template wrote them itself

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        with panics_as_errors:
            return self._parts.decode(ids, skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes | None:
        if self._token_bytes is None:
            from pagecli.model.tokenizer.token_bytes import token_bytes_of

            self._token_bytes = token_bytes_of(self._parts.backend)
        return self._token_bytes(token_id)

    def longest_token_bytes(self) -> int | None:
        if self._longest_token_bytes == 0:
            from pagecli.model.tokenizer.token_bytes import longest_token_bytes

            with panics_as_errors:
                self._longest_token_bytes = longest_token_bytes(self._parts.backend)
        return self._longest_token_bytes

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        try:
            with panics_as_errors:
                return self._parts.backend.encode(text, add_special_tokens=add_special_tokens).ids
        except (TypeError, UnicodeError) as error:
            raise RowError(
                f"the text cannot be tokenized: {first_line(error)}", "is it valid Unicode?", ErrorCode.NOT_TOKENIZABLE
            ) from error
        except TokenizerPanic as error:
            raise RowError(
                f"the tokenizer gives up on this text: {first_line(error)}", "shorten it", ErrorCode.NOT_TOKENIZABLE
            ) from error


def _process_of(template: str | None, parts: TokenizerParts, now: datetime) -> "TemplateProcess":
    from pagecli.model.tokenizer.templates.process import TemplateProcess  # which a job of plain prompts does without

    if template is None:
        raise ValueError(parts.chat_template_error)
    plain_now = datetime.fromisoformat(now.isoformat())  # of any subclass: it is pickled
    return TemplateProcess("chat", text=template, special_tokens=dict(parts.special_tokens), now=plain_now)
