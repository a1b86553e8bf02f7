"""What a step is asked to choose, as arrays for the GPU; what stays the same from step to step is kept."""

from dataclasses import dataclass
from operator import is_
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pagecli.core.token_masks import num_words
from pagecli.devices.cpu.sampler import ngram_ends, penalties_of
from pagecli.devices.known_tokens import KnownTokens
from pagecli.devices.random_draws import DrawSettings

if TYPE_CHECKING:
    from pagecli.core.step_plan import SampleSpec

Arrays = dict[str, np.ndarray]


class Sizes(NamedTuple):
    """How much of each comes back of a step."""

    num_tokens: int = 0  # chosen
    num_normalizers: int = 0
    num_wanted: int = 0  # tokens whose log probability comes back
    num_top: int = 0  # largest logits, of rows with log probabilities
    num_candidates: int = 0  # the same, of beams

    @property
    def num_extra_bytes(self) -> int:
        """Of what comes back beside the tokens."""
        return 4 * (2 * self.num_normalizers + self.num_wanted + 2 * (self.num_top + self.num_candidates))


class Asked:
    """What chunks with these specs ask for, whose logits are in `rows`: of what does not change while they decode."""

    def __init__(self, specs: "list[tuple[SampleSpec, ...]]", rows: list[int], vocab_size: int) -> None:
        self.is_plain = all(len(of_chunk) == 1 and of_chunk[0].needs_no_host for of_chunk in specs)
        firsts = [of_chunk[0] for of_chunk in specs]
        drawn = [i for i, first in enumerate(firsts) if first.num_candidates == 0]
        tokens = [(i, spec) for i in drawn for spec in specs[i]]
        self.rows = [rows[i] for i, _ in tokens]
        self.draws = DrawSettings([spec for _, spec in tokens])
        self.are_argmaxes = self.draws.all_greedy and self.rows == list(range(len(self.rows)))
        self.arrays: Arrays = {}
        self.sizes = Sizes(len(self.rows))
        if not self.are_argmaxes:
            settings = self.draws
            self.arrays = {
                "draw_rows": np.array(self.rows, dtype=np.int32),
                "temperatures": settings.temperatures,
                "top_k": settings.top_k,
                "top_p": settings.top_p,
                "min_p": settings.min_p,
            }
        if self.is_plain:
            return
        self.penalized = [i for i, first in enumerate(firsts) if first.params.adjusts_logits]
        self.known = [(firsts[i].known_token_ids, firsts[i].num_prompt_tokens) for i in self.penalized]
        if self.penalized:
            self.arrays["penalty_rows"] = np.array([rows[i] for i in self.penalized], dtype=np.int32)
            self.arrays["penalties"] = penalties_of([firsts[i].params for i in self.penalized])
        self.forbidden = [(rows[i], token_id) for i, first in enumerate(firsts) for token_id in first.forbidden_ids]
        self.ngrams = [(rows[i], first) for i, first in enumerate(firsts) if first.params.no_repeat_ngram_size]
        self.masks = [(rows[i], first.mask) for i, first in enumerate(firsts) if first.mask is not None]
        beams = [(i, min(first.num_candidates, vocab_size)) for i, first in enumerate(firsts) if first.num_candidates]
        self.beam_counts = beams
        self.arrays |= _top("beam", [(rows[i], count) for i, count in beams])
        self._plan_logprobs([(i, spec) for i, spec in tokens if spec.params.wants_logprobs], tokens, rows, vocab_size)
        of_logprobs = len(self.top_counts), len(self.wanted_tokens), int(self.top_counts.sum())
        self.sizes = Sizes(len(self.rows), *of_logprobs, sum(count for _, count in beams))

    def _plan_logprobs(
        self, wanted: "list[tuple[int, SampleSpec]]", tokens: "list[tuple[int, SampleSpec]]", rows: list[int], vocab_size: int
    ) -> None:
        """Normalizers and the largest logits of chunks that want log probabilities, and where their tokens' own are found."""
        chunks = {i: spec.params.logprobs or 0 for i, spec in wanted}
        self.top_counts = np.array([min(count, vocab_size) for count in chunks.values()], dtype=np.int64)
        normalizer_of = {i: at for at, i in enumerate(chunks)}
        self.wanted_tokens = [token for token, (i, _) in enumerate(tokens) if i in chunks]
        chunk_of = [tokens[token][0] for token in self.wanted_tokens]
        self.wanted_normalizers = [normalizer_of[i] for i in chunk_of]
        if not wanted:
            return
        penalized = {i: at for at, i in enumerate(self.penalized)}
        self.wanted_penalized = np.array([penalized.get(i, -1) for i in chunk_of], dtype=np.int64)
        of_tokens = [self.wanted_tokens, [rows[i] for i in chunk_of], self.wanted_normalizers]
        self.wanted = np.zeros((len(chunk_of), 5), dtype=np.int32)
        self.wanted[:, :3] = np.array(of_tokens, dtype=np.int32).T
        self.arrays["normalizer_rows"] = np.array([rows[i] for i in chunks], dtype=np.int32)
        self.arrays |= _top("top", [(rows[i], count) for i, count in zip(chunks, self.top_counts.tolist(), strict=True)])


@dataclass(frozen=True, slots=True)
class Choices:
    """What a step is asked to choose."""

    specs: "list[tuple[SampleSpec, ...]]"  # of the chunks that have any
    asked: Asked
    arrays: Arrays  # for the device; none where every row gives its likeliest token, in order

    @property
    def is_plain(self) -> bool:
        """Nothing but tokens comes back, of one spec a chunk."""
        return self.asked.is_plain


class ChoicePlanner:
    """Makes the arrays of steps, keeping what stays the same from one to the next."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._known = KnownTokens()
        self._last: tuple[list[tuple[SampleSpec, ...]], list[int]] = [], []
        self._asked = Asked([], [], vocab_size)

    def plan(self, specs: "list[tuple[SampleSpec, ...]]", rows: list[int], last_tokens: np.ndarray) -> Choices:
        """rows[i]: of the logits of the i-th chunk that has specs; last_tokens[row]: where that row's token stands in the
        step's. `specs` must not change afterwards."""
        last, last_rows = self._last
        is_same = specs is last or (len(specs) == len(last) and all(map(is_, specs, last)))
        if not is_same or rows != last_rows:
            self._last, self._asked = (specs, rows), Asked(specs, rows, self._vocab_size)
        asked = self._asked
        arrays = dict(asked.arrays)
        if not asked.are_argmaxes:
            arrays["draw_keys"] = asked.draws.keys()
        if not asked.is_plain:
            arrays |= self._penalties(asked, last_tokens) | _forbidden(asked) | self._masks(asked)
            arrays |= _wanted(asked, arrays)
        return Choices(specs, asked, arrays)

    def _penalties(self, asked: Asked, last_tokens: np.ndarray) -> Arrays:
        """What the sequences know, but for the last token of each, which the host may not know yet: its entry is the last."""
        if not asked.penalized:
            return {}
        ids, known_counts = self._known.update(asked.known, 1)  # their last columns are free
        counts = known_counts.copy()
        counts[:, -1] = self._known.num_output > 0
        num, width = ids.shape
        return {
            "penalty_last": last_tokens[asked.arrays["penalty_rows"]].astype(np.int32),
            "penalty_offsets": np.arange(0, num * width + 1, width, dtype=np.int32),
            "penalty_ids": ids,
            "penalty_counts": counts,
        }

    def _masks(self, asked: Asked) -> Arrays:
        if not asked.masks:
            return {}
        masks = np.zeros((len(asked.masks), num_words(self._vocab_size)), dtype=np.uint32)
        masked = [i for i, (_, source) in enumerate(asked.masks) if source.fill(masks[i])]
        if not masked:
            return {}
        return {
            "mask_rows": np.array([asked.masks[i][0] for i in masked], dtype=np.int32),
            "masks": masks[masked].view(np.int32),
        }


def _forbidden(asked: Asked) -> Arrays:
    """Tokens that no sequence may end with yet, and those that would repeat an n-gram."""
    pairs = list(asked.forbidden)
    for row, spec in asked.ngrams:
        pairs += [(row, token_id) for token_id in ngram_ends(spec.known_token_ids, spec.params.no_repeat_ngram_size).tolist()]
    if not pairs:
        return {}
    columns = np.array(pairs, dtype=np.int32).T
    return {"forbidden_rows": columns[0], "forbidden_ids": columns[1]}


def _wanted(asked: Asked, arrays: Arrays) -> Arrays:
    """Of each token whose log probability is wanted: its place, its row, its normalizers, its row's entries of penalties."""
    if not asked.wanted_tokens:
        return {}
    if asked.penalized:
        width = arrays["penalty_offsets"][1]
        places = asked.wanted_penalized
        asked.wanted[:, 3] = np.where(places < 0, 0, places * width)
        asked.wanted[:, 4] = np.where(places < 0, 0, (places + 1) * width)
    return {"wanted": asked.wanted}


def _top(name: str, counts: list[tuple[int, int]]) -> Arrays:
    """Rows and offsets of top_logits for (row, how many of it), those of none left out."""
    counts = [(row, count) for row, count in counts if count > 0]
    if not counts:
        return {}
    return {
        f"{name}_rows": np.array([row for row, _ in counts], dtype=np.int32),
        f"{name}_offsets": np.cumsum([0, *(count for _, count in counts)], dtype=np.int32),
    }
