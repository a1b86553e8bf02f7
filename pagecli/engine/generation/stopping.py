"""The search for stop strings in the text of an output, token by token."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import takewhile

Decode = Callable[[list[int], bool], str]  # token ids, and whether to leave out special tokens
_INCOMPLETE = "\ufffd"  # the decoder's replacement for an incomplete character


@dataclass(slots=True)
class StopSearch:
    """Decodes output tokens incrementally and searches each token's text once for stop strings. As in transformers, special
    tokens are searched too: a stop string may be one, or contain one.

    Tokens decode differently at the start of a text than inside it (leading spaces, characters of several tokens), so a few
    earlier tokens are decoded again as context and their text is taken off.
    """

    stops: tuple[str, ...]
    decode: Decode
    text: str = ""  # special tokens included
    found_at: int | None = None  # where the earliest stop string begins in `text`
    _context_start: int = 0
    _num_read: int = 0
    _search_from: int = 0
    _pieces: list[tuple[int, int]] = field(default_factory=list)  # tokens and characters up to the end of each text added

    def copy(self) -> "StopSearch":
        """A copy of the search, which continues with another sequence's tokens."""
        return replace(self, _pieces=list(self._pieces))

    def extend(self, output_ids: list[int], ignore: bool = False) -> bool:
        """`output_ids`: the whole output. True if a stop string ends in its new text. `ignore`: do not search."""
        context = self.decode(output_ids[self._context_start : self._num_read], False)
        extended = self.decode(output_ids[self._context_start :], False)
        if extended.endswith(_INCOMPLETE) or len(extended) <= len(context):
            return False
        start = max(self._search_from, len(self.text) - max(map(len, self.stops)) + 1)
        self.text += extended[len(context) :]
        self._context_start, self._num_read = self._num_read, len(output_ids)
        self._pieces.append((len(output_ids), len(self.text)))
        if ignore:
            self._search_from = len(self.text)
            return False
        hits = [at for stop in self.stops if (at := self.text.find(stop, start)) >= 0]
        self.found_at = min(hits, default=None)
        return self.found_at is not None

    def text_before_stop(self, output_ids: list[int]) -> str:
        """The output's text up to the stop string that was found, without special tokens."""
        assert self.found_at is not None
        if self.decode(output_ids, True) == self.decode(output_ids, False):
            return self.text[: self.found_at]
        num_tokens, num_chars = max((piece for piece in self._pieces if piece[1] <= self.found_at), default=(0, 0))
        end = min(tokens for tokens, chars in self._pieces if chars > self.found_at)
        before = self.decode(output_ids[:num_tokens], True)
        piece = self.decode(output_ids[:end], True)[len(before) :]  # the stop string begins in it
        common = takewhile(lambda pair: pair[0] == pair[1], zip(piece, self.text[num_chars : self.found_at], strict=False))
        return before + "".join(character for character, _ in common)
