"""Text to token ids and back, as transformers' tokenizers do it, and the model's own chat template."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from pagecli.errors import ErrorCode, RowError
from pagecli.model.source import ModelSource
from pagecli.model.tokenizer.byte_tokenizer import ByteTokenizer
from pagecli.model.tokenizer.loading import load_parts, one_line
from pagecli.model.tokenizer.parts import TokenizerPanic, TokenizerParts, panics_as_errors
from pagecli.model.tokenizer.token_bytes import longest_token_bytes, token_bytes_of

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


def load_tokenizer(source: ModelSource) -> Tokenizer:
    """The tokenizer beside the weights. Raises ModelError in one line when there is none or it cannot be read."""
    if source.tokenizer_path is None:
        return ByteTokenizer(source.config.vocab_size, source.config.eos_token_ids)
    return TransformersTokenizer(load_parts(source.tokenizer_path), source.config.eos_token_ids)


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
                f"the chat template refuses these messages: {one_line(error)}",
                "check roles and contents",
                ErrorCode.NOT_TOKENIZABLE,
            ) from error
        return self._encode(text, add_special_tokens=False)  # the template wrote them itself

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        with panics_as_errors:
            return self._parts.decode(ids, skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes | None:
        if self._token_bytes is None:
            self._token_bytes = token_bytes_of(self._parts.backend)
        return self._token_bytes(token_id)

    def longest_token_bytes(self) -> int | None:
        if self._longest_token_bytes == 0:
            with panics_as_errors:
                self._longest_token_bytes = longest_token_bytes(self._parts.backend)
        return self._longest_token_bytes

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        try:
            with panics_as_errors:
                return self._parts.backend.encode(text, add_special_tokens=add_special_tokens).ids
        except (TypeError, UnicodeError) as error:
            raise RowError(
                f"the text cannot be tokenized: {one_line(error)}", "is it valid Unicode?", ErrorCode.NOT_TOKENIZABLE
            ) from error
        except TokenizerPanic as error:
            raise RowError(
                f"the tokenizer gives up on this text: {one_line(error)}", "shorten it", ErrorCode.NOT_TOKENIZABLE
            ) from error


def _process_of(template: str | None, parts: TokenizerParts, now: datetime) -> "TemplateProcess":
    from pagecli.model.tokenizer.templates.process import TemplateProcess  # which a job of plain prompts does without

    if template is None:
        raise ValueError(parts.chat_template_error)
    plain_now = datetime.fromisoformat(now.isoformat())  # of any subclass: it is pickled
    return TemplateProcess("chat", text=template, special_tokens=dict(parts.special_tokens), now=plain_now)
