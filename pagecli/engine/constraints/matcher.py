"""What follows an output that is constrained, token by token: which tokens may come next, and when it is at its end."""

from typing import Protocol

from pagecli.core.arrays import Array


class Matcher(Protocol):
    """The state of one output; the tokens it is given are its text, without end tokens."""

    @property
    def is_complete(self) -> bool:
        """Whether the text may end here and no token can follow."""
        ...

    def fill(self, words: Array) -> None:
        """Write the mask of the next token (core/token_masks.py); end tokens are in it where the text may end."""
        ...

    def consume(self, token_id: int) -> None:
        """Advance by a token of the mask."""
        ...

    def forced(self) -> list[int]:
        """Tokens that are next whatever the model says; empty where it has a choice."""
        ...

    def copy(self) -> "Matcher":
        """The same state, for an output that continues apart."""
        ...


class Constraint(Protocol):
    """A constraint that was compiled for a vocabulary."""

    def start(self) -> Matcher: ...

    def allows(self, text: str) -> bool:
        """Whether the text satisfies it."""
        ...


def set_bit(words: Array, token_id: int) -> None:
    """Allow a token in words[ceil(vocab / 32)], uint32 (core/token_masks.py)."""
    words[token_id >> 5] |= 1 << (token_id & 31)


def clear_bit(words: Array, token_id: int) -> None:
    """Forbid a token in words[ceil(vocab / 32)], uint32."""
    words[token_id >> 5] &= ~(1 << (token_id & 31)) & 0xFFFFFFFF
