"""Prompts longer than the model takes: found before they are tokenized where that is sure, refused or cut (--too-long)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pagecli.errors import ErrorCode, RowError

TooLong = Literal["error", "truncate-left", "truncate-right"]
Messages = list[dict[str, Any]]
MAX_TRIES = 12


@dataclass(frozen=True, slots=True)
class PromptLength:
    """`longest_token_bytes()` is the most UTF-8 bytes of text that one token can stand for, None if that has no bound."""

    max_model_len: int  # tokens of a prompt and its output
    longest_token_bytes: Callable[[], int | None]
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    too_long: TooLong = "error"

    def room(self, max_tokens: int) -> int:
        """Tokens that a cut prompt keeps: what leaves room for `max_tokens`, but half of the model's length at least."""
        return self.max_model_len - min(max_tokens, self.max_model_len // 2)

    def checked_text(self, text: str) -> str:
        """The text, cut to what could be kept of it. Raises RowError if it is surely too long and nothing is to be cut."""
        max_bytes = self._max_bytes(len(text))
        if max_bytes is None or (len(text) <= max_bytes // 4) or len(text.encode("utf-8", "replace")) <= max_bytes:
            return text
        if self.too_long == "error":
            num_bytes = len(text.encode("utf-8", "replace"))
            raise self._error(f"{num_bytes:,} bytes, too many for any {self.max_model_len:,} tokens")
        return text[-max_bytes:] if self.too_long == "truncate-left" else text[:max_bytes]

    def _max_bytes(self, num_chars: int) -> int | None:
        if num_chars < self.max_model_len:  # a text of so few characters is quickly tokenized
            return None
        longest = self.longest_token_bytes()
        return None if longest is None else longest * self.max_model_len

    def cut(self, token_ids: list[int], max_tokens: int) -> list[int]:
        """The token ids, cut if they leave no room for one output token. Special tokens at the start are kept.

        Raises RowError if nothing is to be cut.
        """
        if len(token_ids) < self.max_model_len:
            return token_ids
        if self.too_long == "error":
            raise self._error(f"{len(token_ids):,} tokens")
        room = self.room(max_tokens)
        if self.too_long == "truncate-right":
            return token_ids[:room]
        special = self.encode("")
        first = len(special) if special == token_ids[: len(special)] and len(special) < room else 0
        return token_ids[:first] + token_ids[len(token_ids) - room + first :]

    def cut_messages(self, messages: Messages, max_tokens: int, template: Callable[[Messages], list[int]]) -> list[int]:
        """The chat as token ids; if it is too long, its longest message is cut, so that the template stays whole.

        Raises RowError if nothing is to be cut, or all that can be does not suffice.
        """
        messages = [self._checked_message(message) for message in messages]
        token_ids = template(messages)
        if len(token_ids) < self.max_model_len:
            return token_ids
        num_tokens, room = len(token_ids), self.room(max_tokens)
        if self.too_long == "error":
            raise self._error(f"{num_tokens:,} tokens")
        for attempt in range(MAX_TRIES):
            excess = len(token_ids) - room
            if excess <= 0:
                return token_ids
            longest = max(messages, key=lambda message: len(_content(message)))
            if not _content(longest):
                break
            shorter = {**longest, "content": self._shortened(_content(longest), excess + attempt)}
            messages = [shorter if message is longest else message for message in messages]
            token_ids = template(messages)
        raise self._error(f"{num_tokens:,} tokens, which cannot be cut to {room:,}")

    def _checked_message(self, message: dict[str, Any]) -> dict[str, Any]:
        content = _content(message)
        return message if not content else {**message, "content": self.checked_text(content)}

    def _shortened(self, text: str, num_tokens: int) -> str:
        """The text without about `num_tokens` of its tokens, at one end."""
        token_ids = self.encode(text)[len(self.encode("")) :]
        keep = max(0, len(token_ids) - num_tokens)
        if keep == 0:
            return ""
        if self.too_long == "truncate-left":
            return self.decode(token_ids[-keep:]).lstrip("\ufffd")  # half of a character
        return self.decode(token_ids[:keep]).rstrip("\ufffd")

    def _error(self, length: str) -> RowError:
        hint = "shorten it, raise --max-model-len up to what the model allows, or cut it by --too-long truncate-left"
        message = f"the prompt has {length}; the limit, with one output token, is {self.max_model_len:,}"
        return RowError(message, hint, ErrorCode.PROMPT_TOO_LONG)


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""
