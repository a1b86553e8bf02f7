"""The tokens that sequences know, each once, with how often it is in the output: what penalties act on. Kept as one array of
all sequences while they decode, so that a step adds one token to each."""

from operator import itemgetter

import numpy as np

from pagecli.core.arrays import Array

WIDTH_MULTIPLE = 64  # of the arrays; and so many columns at least are free when they are made


class KnownTokens:
    """ids[n, W] int32, -1 where there is none, and counts[n, W] int32, 0 where there is none.

    Sequences are told apart by their lists of token ids: the same object while a sequence lives, of which tokens seen before
    do not change.
    """

    def __init__(self) -> None:
        self._sequences: list[tuple[list[int], int]] = []  # of the last call
        self._lists: list[list[int]] = []  # in the order of the rows
        self._num_given = 0  # the first of them: those of the last call; the others have sat steps out
        self._num_prompt = np.empty(0, np.int64)
        self._num_seen = np.empty(0, np.int64)
        self._num_used = np.empty(0, np.int64)  # entries of each row
        self._ids = self._counts = np.empty((0, 0), np.int32)
        self.num_output = np.empty(0, np.int64)  # of each sequence of the last call, those not seen included

    def update(self, sequences: list[tuple[list[int], int]], num_unseen: int = 0) -> tuple[Array, Array]:
        """ids and counts, views that the next call changes, of sequences of (token ids, length of the prompt), but for the last
        `num_unseen` tokens of each. At least one column is free in every row. `sequences` must not change afterwards."""
        if sequences is not self._sequences:
            if len(sequences) != self._num_given or any(a is not b for (a, _), b in zip(sequences, self._lists, strict=False)):
                self._arrange(sequences)
            self._sequences = sequences
        lists, num = self._lists[: self._num_given], self._num_given
        lengths = np.fromiter(map(len, lists), dtype=np.int64, count=num)
        self.num_output, ends = lengths - self._num_prompt[:num], lengths - num_unseen
        num_new = ends - self._num_seen[:num]
        if (num_new == 1).all():
            last = itemgetter(-1 - num_unseen)
            self._append(np.fromiter(map(last, lists), dtype=np.int32, count=num), ends)
        else:
            for row in np.flatnonzero(num_new).tolist():
                self._count(row, lists[row][: int(ends[row])])
        width = int(self._num_used[:num].max(initial=0)) + 1
        return self._ids[:num, :width], self._counts[:num, :width]

    def _arrange(self, sequences: list[tuple[list[int], int]]) -> None:
        """One row for each of the sequences, in order; behind them as many of those there were before."""
        row_of = {id(token_ids): row for row, token_ids in enumerate(self._lists)}
        lists = [token_ids for token_ids, _ in sequences]
        rows = [row_of.pop(id(token_ids), -1) for token_ids in lists]
        spare = list(row_of.values())[: len(lists)]
        lists, kept = lists + [self._lists[row] for row in spare], np.array(rows + spare, dtype=np.int64)
        num_prompt = np.array([length for _, length in sequences] + self._num_prompt[spare].tolist(), dtype=np.int64)
        is_new = kept < 0
        moved = lambda values: np.where(is_new, 0, values[kept]) if len(values) else np.zeros(len(kept), np.int64)  # noqa: E731
        self._num_seen, self._num_used = moved(self._num_seen), moved(self._num_used)
        ids, counts = self._ids, self._counts
        self._ids = np.full((len(kept), ids.shape[1]), -1, np.int32)
        self._counts = np.zeros((len(kept), ids.shape[1]), np.int32)
        self._ids[~is_new], self._counts[~is_new] = ids[kept[~is_new]], counts[kept[~is_new]]
        self._lists, self._num_given, self._num_prompt = lists, len(sequences), num_prompt

    def _append(self, tokens: Array, ends: Array) -> None:
        """One token more for each of the first rows."""
        num = len(tokens)
        used, rows = self._num_used[:num], np.arange(num)
        self._make_room(int(used.max(initial=0)) + 1)
        same = self._ids[:num, : int(used.max(initial=0)) + 1] == tokens[:, None]
        places = same.argmax(axis=1)
        places = np.where(same[rows, places], places, used)
        self._ids[rows, places] = tokens
        self._counts[rows, places] += ends > self._num_prompt[:num]
        self._num_used[:num] += places == used
        self._num_seen[:num] = ends

    def _count(self, row: int, token_ids: list[int]) -> None:
        """The row's entries anew."""
        known = np.array(token_ids, dtype=np.int32)
        ids, places = np.unique(known, return_inverse=True)
        self._make_room(len(ids))
        self._ids[row], self._counts[row] = -1, 0
        self._ids[row, : len(ids)] = ids
        self._counts[row, : len(ids)] = np.bincount(places[self._num_prompt[row] :], minlength=len(ids))
        self._num_used[row], self._num_seen[row] = len(ids), len(token_ids)

    def _make_room(self, num_entries: int) -> None:
        """For so many entries in a row, and one more."""
        width = self._ids.shape[1]
        if num_entries < width:
            return
        more = -(-num_entries // WIDTH_MULTIPLE) * WIDTH_MULTIPLE + WIDTH_MULTIPLE - width
        self._ids = np.pad(self._ids, ((0, 0), (0, more)), constant_values=-1)
        self._counts = np.pad(self._counts, ((0, 0), (0, more)))
