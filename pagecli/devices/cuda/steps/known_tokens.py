"""The tokens that a sequence knows, each once, with how often it is in the output: what penalties act on. Kept while a sequence
decodes, so that a step adds one token."""

from array import array

import numpy as np


class KnownTokens:
    """Of all tokens of a sequence but the last, which may be a placeholder yet; the arrays' last entry is for that one."""

    def __init__(self) -> None:
        self.ids, self.counts = array("i", [-1]), array("i", [0])
        self._places: dict[int, int] = {}
        self._num_seen = 0

    def advance(self, token_ids: list[int], num_prompt_tokens: int) -> None:
        """To the sequence's tokens as they are now, of which those seen before have not changed."""
        last = len(token_ids) - 1
        for position in range(self._num_seen, last):
            self._add(token_ids[position], int(position >= num_prompt_tokens))
        self._num_seen = last
        self.counts[-1] = int(last >= num_prompt_tokens)

    def _add(self, token_id: int, count: int) -> None:
        place = self._places.setdefault(token_id, len(self.ids) - 1)
        if place == len(self.ids) - 1:
            self.ids.insert(place, token_id)
            self.counts.insert(place, count)
        else:
            self.counts[place] += count


class KnownTokensStore:
    """KnownTokens of sequences, found by their lists of tokens, which are the same object as long as a sequence lives."""

    def __init__(self, max_num_seqs: int) -> None:
        self._most = 2 * max_num_seqs
        self._kept: dict[int, tuple[list[int], KnownTokens]] = {}  # by id() of the tokens, which are kept with it

    def arrays(self, sequences: list[tuple[list[int], int]]) -> dict[str, np.ndarray]:
        """offsets, ids and counts of apply_penalties for sequences of (tokens, length of the prompt)."""
        if len(self._kept) + len(sequences) > self._most:
            wanted = {id(token_ids) for token_ids, _ in sequences}
            self._kept = {key: kept for key, kept in self._kept.items() if key in wanted}
        found = []
        for token_ids, num_prompt_tokens in sequences:
            _, known = self._kept.setdefault(id(token_ids), (token_ids, KnownTokens()))
            known.advance(token_ids, num_prompt_tokens)
            found.append(known)
        return {
            "penalty_offsets": np.cumsum([0, *(len(known.ids) for known in found)], dtype=np.int32),
            "penalty_ids": np.concatenate([np.frombuffer(known.ids, dtype=np.int32) for known in found]),
            "penalty_counts": np.concatenate([np.frombuffer(known.counts, dtype=np.int32) for known in found]),
        }
