"""What a step is asked to choose, as arrays for the GPU; what stays the same from step to step is kept."""

from dataclasses import dataclass
from itertools import pairwise
from operator import is_
from typing import TYPE_CHECKING

import numpy as np

from pagecli.core.token_masks import num_words
from pagecli.devices.cpu.sampler import ngram_ends
from pagecli.devices.cuda.steps.known_tokens import KnownTokensStore
from pagecli.devices.random_draws import KeptSettings

if TYPE_CHECKING:
    from pagecli.core.sampling_params import SamplingParams
    from pagecli.core.step_plan import SampleSpec

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Choices:
    """What a step is asked to choose."""

    specs: "list[tuple[SampleSpec, ...]]"  # of the chunks that have any
    arrays: Arrays  # for the device; none where every row gives its likeliest token, in order
    num_tokens: int  # chosen
    vocab_size: int
    is_plain: bool  # nothing but tokens comes back, of one spec a chunk
    num_top: int = 0  # largest logits that come back, of rows with log probabilities
    num_candidates: int = 0  # the same, of beams
    num_normalizers: int = 0
    num_wanted: int = 0  # tokens whose log probability comes back

    @property
    def num_extra_bytes(self) -> int:
        """Of what comes back beside the tokens."""
        return 4 * (2 * self.num_normalizers + self.num_wanted + 2 * (self.num_top + self.num_candidates))


class ChoicePlanner:
    """Makes the arrays of steps, keeping what stays the same from one to the next."""

    def __init__(self, vocab_size: int, max_num_seqs: int) -> None:
        self._vocab_size = vocab_size
        self._settings = KeptSettings()
        self._known = KnownTokensStore(max_num_seqs)
        self._last: list[tuple[SampleSpec, ...]] = []
        self._is_plain = True  # the last ones

    def plan(self, specs: "list[tuple[SampleSpec, ...]]", rows: list[int], last_tokens: np.ndarray) -> Choices:
        """rows[i]: of the logits of the i-th chunk that has specs; last_tokens[i]: where that chunk's last token stands in the
        step's."""
        if len(specs) != len(self._last) or not all(map(is_, specs, self._last)):
            self._last = specs
            self._is_plain = all(len(of_chunk) == 1 and of_chunk[0].needs_no_host for of_chunk in specs)
        if self._is_plain:
            return Choices(specs, self._draws(specs, rows), len(specs), self._vocab_size, True)
        drawn = [i for i, of_chunk in enumerate(specs) if of_chunk[0].num_candidates == 0]
        spec_rows = [rows[i] for i in drawn for _ in specs[i]]
        arrays = self._draws([specs[i] for i in drawn], spec_rows)
        arrays |= self._penalties(specs, rows, last_tokens) | _forbidden(specs, rows) | self._masks(specs, rows)
        logprob_arrays = _logprobs(specs, rows, arrays, self._vocab_size)
        beam_arrays = _top("beam", [(row, s[0].num_candidates) for row, s in zip(rows, specs, strict=True)], self._vocab_size)
        return Choices(
            specs,
            arrays | logprob_arrays | beam_arrays,
            len(spec_rows),
            self._vocab_size,
            False,
            _last(logprob_arrays, "top_offsets"),
            _last(beam_arrays, "beam_offsets"),
            len(logprob_arrays.get("normalizer_rows", ())),
            len(logprob_arrays.get("wanted", ())),
        )

    def _draws(self, specs: "list[tuple[SampleSpec, ...]]", rows: list[int]) -> Arrays:
        """Empty where every row gives its likeliest token, in order."""
        settings = self._settings.of(specs)
        if settings.all_greedy and rows == list(range(len(rows))):
            return {}
        return {
            "draw_rows": np.array(rows, dtype=np.int32),
            "temperatures": settings.temperatures,
            "top_k": settings.top_k,
            "top_p": settings.top_p,
            "min_p": settings.min_p,
            "draw_keys": settings.keys(),
        }

    def _penalties(self, specs: "list[tuple[SampleSpec, ...]]", rows: list[int], last_tokens: np.ndarray) -> Arrays:
        penalized = [i for i, (first, *_) in enumerate(specs) if _is_penalized(first.params)]
        if not penalized:
            return {}
        firsts = [specs[i][0] for i in penalized]
        params = [spec.params for spec in firsts]
        values = [(p.repetition_penalty, p.presence_penalty, p.frequency_penalty) for p in params]
        return {
            "penalty_rows": np.array([rows[i] for i in penalized], dtype=np.int32),
            "penalties": np.array(values, dtype=np.float32),
            "penalty_last": last_tokens[penalized].astype(np.int32),
            **self._known.arrays([(spec.known_token_ids, spec.num_prompt_tokens) for spec in firsts]),
        }

    def _masks(self, specs: "list[tuple[SampleSpec, ...]]", rows: list[int]) -> Arrays:
        sources = [(row, first.mask) for row, (first, *_) in zip(rows, specs, strict=True) if first.mask is not None]
        if not sources:
            return {}
        masks = np.zeros((len(sources), num_words(self._vocab_size)), dtype=np.uint32)
        masked = [i for i, (_, source) in enumerate(sources) if source.fill(masks[i])]
        if not masked:
            return {}
        return {
            "mask_rows": np.array([sources[i][0] for i in masked], dtype=np.int32),
            "masks": masks[masked].view(np.int32),
        }


def _forbidden(specs: "list[tuple[SampleSpec, ...]]", rows: list[int]) -> Arrays:
    """Tokens that no sequence may end with yet, and those that would repeat an n-gram."""
    pairs = [(row, token_id) for row, (first, *_) in zip(rows, specs, strict=True) for token_id in first.forbidden_ids]
    for row, (first, *_) in zip(rows, specs, strict=True):
        if size := first.params.no_repeat_ngram_size:
            pairs += [(row, token_id) for token_id in ngram_ends(first.known_token_ids, size).tolist()]
    if not pairs:
        return {}
    columns = np.array(pairs, dtype=np.int32).T
    return {"forbidden_rows": columns[0], "forbidden_ids": columns[1]}


def _is_penalized(params: "SamplingParams") -> bool:
    return params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


def wants_logprobs(spec: "SampleSpec") -> bool:
    return spec.params.logprobs is not None or spec.params.best_of is not None


def _logprobs(specs: "list[tuple[SampleSpec, ...]]", rows: list[int], arrays: Arrays, vocab_size: int) -> Arrays:
    """Of chunks whose tokens want log probabilities: normalizers, the largest, and where the tokens' own are found."""
    entries: dict[int, tuple[int, int]] = {}  # of apply_penalties, by row
    if "penalty_rows" in arrays:
        offsets = arrays["penalty_offsets"].tolist()
        entries = dict(zip(arrays["penalty_rows"].tolist(), pairwise(offsets), strict=True))
    wanted: list[tuple[int, ...]] = []
    top: list[tuple[int, int]] = []
    token = 0
    for row, of_chunk in zip(rows, specs, strict=True):
        if of_chunk[0].num_candidates > 0:
            continue
        if wants_logprobs(of_chunk[0]):
            wanted += [(token + i, row, len(top), *entries.get(row, (0, 0))) for i in range(len(of_chunk))]
            top.append((row, of_chunk[0].params.logprobs or 0))
        token += len(of_chunk)
    if not wanted:
        return {}
    normalizer_rows = np.array([row for row, _ in top], dtype=np.int32)
    return {"normalizer_rows": normalizer_rows, "wanted": np.array(wanted, dtype=np.int32), **_top("top", top, vocab_size)}


def _top(name: str, counts: list[tuple[int, int]], vocab_size: int) -> Arrays:
    """Rows and offsets of top_logits for (row, how many of it), those of none left out."""
    counts = [(row, min(count, vocab_size)) for row, count in counts if count > 0]
    if not counts:
        return {}
    return {
        f"{name}_rows": np.array([row for row, _ in counts], dtype=np.int32),
        f"{name}_offsets": np.cumsum([0, *(count for _, count in counts)], dtype=np.int32),
    }


def _last(arrays: Arrays, name: str) -> int:
    return int(arrays[name][-1]) if name in arrays else 0
