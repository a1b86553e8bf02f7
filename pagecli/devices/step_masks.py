"""The token masks of one step's rows, made by a helper thread while the layers run."""

import functools
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.token_masks import MaskSource, num_words

if TYPE_CHECKING:
    from pagecli.core.step_plan import SampleSpec


@dataclass(frozen=True, slots=True)
class RowMasks:
    """Masks of C of a step's R rows of logits; core/token_masks.py says what a word holds."""

    words: Array  # [C, num_words(vocab)] uint32, C-contiguous
    mask_of: Array  # [R] int32, row of `words`; -1: every token is allowed

    def row(self, index: int) -> Array | None:
        """The mask of row `index` of the logits."""
        at = self.mask_of[index]
        return None if at < 0 else self.words[at]

    def of_rows(self, rows: list[int]) -> "RowMasks":
        """The masks of these rows of the logits, in this order."""
        return RowMasks(self.words, self.mask_of[rows])


PendingMasks = Future[RowMasks | None]


def start(specs: "list[tuple[SampleSpec, ...]]", vocab_size: int) -> PendingMasks | None:
    """Begin to make the masks of rows with these specs (a row may have none); None where no row has a source of masks."""
    sources = [(row, of_row[0].mask) for row, of_row in enumerate(specs) if of_row and of_row[0].mask is not None]
    return _helper().submit(_make, sources, len(specs), vocab_size) if sources else None


def wait(pending: PendingMasks | None) -> RowMasks | None:
    """The masks that were started; None where every row may choose every token."""
    return None if pending is None else pending.result()


def _make(sources: list[tuple[int, MaskSource]], num_rows: int, vocab_size: int) -> RowMasks | None:
    words = np.empty((len(sources), num_words(vocab_size)), dtype=np.uint32)
    mask_of = np.full(num_rows, -1, dtype=np.int32)
    used = 0
    for row, source in sources:
        if source.fill(words[used]):
            mask_of[row] = used
            used += 1
    return RowMasks(words[:used], mask_of) if used else None


@functools.cache
def _helper() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="pagecli-masks")
