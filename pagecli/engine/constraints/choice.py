"""One of a few texts: a trie over their tokens. Each text is spelled as the tokenizer encodes it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pagecli.core.arrays import Array
from pagecli.engine.constraints.matcher import set_bit
from pagecli.errors import RowError

if TYPE_CHECKING:
    from pagecli.model.tokenizer.tokenizer import Tokenizer


@dataclass(slots=True, eq=False)
class _Node:
    """A beginning that texts have in common."""

    children: dict[int, "_Node"] = field(default_factory=dict)  # token id -> the beginning with it
    ends: bool = False  # a text ends here


class Choice:
    """The texts of one constraint; see matcher.Constraint."""

    def __init__(self, texts: tuple[str, ...], tokenizer: "Tokenizer", vocab_size: int, end_ids: tuple[int, ...]) -> None:
        """Raises RowError for a text that the vocabulary cannot spell, or that could never end."""
        self.end_ids = end_ids
        self._texts = frozenset(texts)
        self._root = _Node()
        for text in texts:
            node = self._root
            for token_id in _spelled(text, tokenizer, vocab_size, end_ids):
                node = node.children.setdefault(token_id, _Node())
            node.ends = True
        if not end_ids and _has_beginning(self._root):
            raise RowError("choice has a text that another one begins with, and the model has no end token to tell them apart")

    def start(self) -> "ChoiceMatcher":
        return ChoiceMatcher(self, self._root)

    def allows(self, text: str) -> bool:
        return text in self._texts


@dataclass(slots=True)
class ChoiceMatcher:
    """See matcher.Matcher."""

    choice: Choice
    node: _Node

    @property
    def is_complete(self) -> bool:
        return not self.node.children

    def fill(self, words: Array) -> None:
        words[:] = 0
        for token_id in self.node.children:
            set_bit(words, token_id)
        if self.node.ends:
            for token_id in self.choice.end_ids:
                set_bit(words, token_id)

    def consume(self, token_id: int) -> None:
        self.node = self.node.children[token_id]

    def forced(self) -> list[int]:
        token_ids, node = [], self.node
        while len(node.children) == 1 and not node.ends:
            ((token_id, node),) = node.children.items()
            token_ids.append(token_id)
        return token_ids

    def copy(self) -> "ChoiceMatcher":
        return ChoiceMatcher(self.choice, self.node)


def _spelled(text: str, tokenizer: "Tokenizer", vocab_size: int, end_ids: tuple[int, ...]) -> list[int]:
    """The text's tokens, without those that the tokenizer puts around every text."""
    token_ids = tokenizer.encode_plain(text)
    unusable = not token_ids or max(token_ids) >= vocab_size or not set(end_ids).isdisjoint(token_ids)
    if unusable or tokenizer.decode(token_ids, False) != text:
        raise RowError(f"choice has {text[:60]!r}, which the model's vocabulary cannot spell")
    return token_ids


def _has_beginning(node: _Node) -> bool:
    """Whether a text is the beginning of another."""
    return (node.ends and bool(node.children)) or any(_has_beginning(child) for child in node.children.values())
