"""Which tokens may be chosen next: one bit a token, in uint32 words; token t is bit t % 32 of word t // 32."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pagecli.core.arrays import Array

WORD_BITS = 32


def num_words(vocab_size: int) -> int:
    """Words of a mask over that many tokens; bits beyond the vocabulary are 0."""
    return -(-vocab_size // WORD_BITS)


class MaskSource(Protocol):
    """Knows the mask of one sequence's next token. It changes when a token is committed, never between plan and commit."""

    def fill(self, words: "Array") -> bool:
        """Write the mask into words[num_words(vocab)] (uint32, C-contiguous); at least one bit is set.

        False: every token is allowed, and what `words` holds is not to be used. May be called from another thread, once a step.
        """
        ...
