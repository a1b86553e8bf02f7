"""Text to token ids and back, by transformers' tokenizers and the model's own chat template."""

from pathlib import Path
from typing import Any, Protocol

from pagecli.errors import ErrorCode, ModelError, RowError
from pagecli.model.byte_tokenizer import ByteTokenizer
from pagecli.model.chat_template import ChatTemplate
from pagecli.model.registry import ModelSource
from pagecli.model.token_length import longest_token_bytes


class Tokenizer(Protocol):
    """One thread may encode while another decodes."""

    has_chat_template: bool
    eos_token_ids: tuple[int, ...]  # the ids that end a text: generation config's, else the model's, else the tokenizer's
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Ids of `text` with the model's special tokens, as transformers adds them by default."""
        ...

    def apply_chat_template(self, messages: list[dict[str, Any]]) -> list[int]:
        """Ids of a conversation, ready for the assistant's answer; RowError when there is no template or it refuses."""
        ...

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str: ...

    def longest_token_bytes(self) -> int | None:
        """The most UTF-8 bytes of text that one token stands for; None if there is no bound."""
        ...


def load_tokenizer(source: ModelSource) -> Tokenizer:
    """The tokenizer beside the weights. Raises ModelError in one line when there is none or it cannot be read."""
    if source.tokenizer_path is None:
        return ByteTokenizer(source.config.vocab_size, source.config.eos_token_ids)
    return TransformersTokenizer(_load(source.tokenizer_path), source.config.eos_token_ids)


class TransformersTokenizer:
    """A transformers tokenizer. Encoding goes straight to its Rust part, whose calls used here change nothing in it."""

    def __init__(self, tokenizer: Any, eos_token_ids: tuple[int, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()  # transformers does so before every call, which is not safe beside another thread
        self._backend.no_padding()
        own = tokenizer.eos_token_id
        self.eos_token_ids = eos_token_ids or (() if own is None else (own,))
        self.vocab_size = len(tokenizer)
        self.has_chat_template = bool(tokenizer.chat_template)
        self._chat_template: ChatTemplate | None = None  # compiled when it is first needed
        self._longest_token_bytes: int | None = 0  # 0: not looked up yet

    def encode(self, text: str) -> list[int]:
        return self._encode(text, add_special_tokens=True)

    def apply_chat_template(self, messages: list[dict[str, Any]]) -> list[int]:
        if not self.has_chat_template:
            raise RowError(
                "the model's tokenizer has no chat template",
                "give prompts instead of messages, or use --no-chat",
                ErrorCode.NOT_TOKENIZABLE,
            )
        try:
            if self._chat_template is None:
                own = self._tokenizer.get_chat_template()
                self._chat_template = ChatTemplate(own, self._tokenizer.special_tokens_map)
            text = self._chat_template.render(messages)
        except Exception as error:  # the template is the model author's program: it may raise anything
            raise RowError(
                f"the chat template refuses these messages: {_one_line(error)}",
                "check roles and contents",
                ErrorCode.NOT_TOKENIZABLE,
            ) from error
        return self._encode(text, add_special_tokens=False)  # the template wrote them itself

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def longest_token_bytes(self) -> int | None:
        if self._longest_token_bytes == 0:
            self._longest_token_bytes = longest_token_bytes(self._backend)
        return self._longest_token_bytes

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        try:
            return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        except (TypeError, UnicodeError) as error:
            raise RowError(
                f"the text cannot be tokenized: {_one_line(error)}", "is it valid Unicode?", ErrorCode.NOT_TOKENIZABLE
            ) from error


def _load(path: Path) -> Any:
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        tokenizer = _from_gguf(path) if path.suffix == ".gguf" and path.is_file() else _from_directory(path)
    except Exception as error:  # transformers raises whatever a broken file leads to
        raise ModelError(
            f"{path}: no usable tokenizer ({_one_line(error)})", "expected tokenizer.json beside the weights"
        ) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelError(
            f"{path}: tokenizer {type(tokenizer).__name__} is not supported", "expected tokenizer.json beside the weights"
        )
    return tokenizer


def _from_directory(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def _from_gguf(path: Path) -> Any:
    """AutoTokenizer would first read the whole file's config through the gguf package: 7 s where this takes 0.6."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
