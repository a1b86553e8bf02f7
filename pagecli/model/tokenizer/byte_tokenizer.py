"""A tokenizer for models that have none, used with random weights only: every UTF-8 byte is a token."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pagecli.errors import ErrorCode, RowError


class ByteTokenizer:
    """Byte b is token b modulo the vocabulary; decoding takes ids modulo 256."""

    has_chat_template = False
    chat_template: str | None = None
    tool_template: str | None = None
    bos_token_id = None
    template_time: datetime | None = None

    def __init__(self, vocab_size: int, eos_token_ids: tuple[int, ...]) -> None:
        self.vocab_size = vocab_size
        self.eos_token_ids = eos_token_ids

    def encode(self, text: str) -> list[int]:
        return [byte % self.vocab_size for byte in text.encode("utf-8", errors="replace")]

    encode_plain = encode

    def token_id(self, text: str) -> int | None:
        return None

    @property
    def special_token_ids(self) -> list[int]:
        return list(self.eos_token_ids)

    def apply_chat_template(self, messages: list[dict[str, Any]], variables: Mapping[str, Any] | None = None) -> list[int]:
        raise RowError(
            "this model has no tokenizer, so no chat template",
            "give prompts instead of messages, or use --no-chat",
            ErrorCode.NOT_TOKENIZABLE,
        )

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return bytes(i % 256 for i in ids).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes | None:
        return bytes([token_id % 256])

    def longest_token_bytes(self) -> int | None:
        return 1
