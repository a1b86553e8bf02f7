"""From a row's parameters to the constraint of its sequences; what was compiled is kept for the rows that ask for the same."""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.sampling_params import SamplingParams
from pagecli.core.token_masks import WORD_BITS, num_words
from pagecli.engine.constraints.matcher import Constraint
from pagecli.engine.constraints.sequence_constraint import Phase, SequenceConstraint
from pagecli.engine.generation.reasoning import ReasoningMarkers, prompt_opens
from pagecli.errors import RowError

if TYPE_CHECKING:
    from pagecli.engine.constraints.grammar import GrammarCompiler
    from pagecli.model.tokenizer.tokenizer import Tokenizer

MAX_KEPT = 256


def check(params: SamplingParams) -> None:
    """Raise RowError for a schema, expression or grammar that cannot be compiled, whatever the vocabulary."""
    if params.constraint is not None and params.constraint[0] != "choice":
        from pagecli.engine.constraints.grammar import checked

        checked(*params.constraint)


class ConstraintCompiler:
    """Makes the constraints of one model's sequences."""

    def __init__(
        self, tokenizer: "Tokenizer", vocab_size: int, end_ids: frozenset[int], markers: ReasoningMarkers | None
    ) -> None:
        self._tokenizer, self._vocab_size, self._markers = tokenizer, vocab_size, markers
        self._end_ids = tuple(sorted(end_ids))
        self._grammars: GrammarCompiler | None = None  # made with the first one: it takes a second
        self._compiled = functools.lru_cache(maxsize=MAX_KEPT)(self._compile)

    @functools.cached_property
    def _unending(self) -> Array:
        bits = np.zeros(num_words(self._vocab_size) * WORD_BITS, np.uint8)
        bits[: self._vocab_size] = 1
        bits[list(self._end_ids)] = 0
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def compile(self, params: SamplingParams) -> Constraint | None:
        """What the answer must satisfy. Raises RowError."""
        return None if params.constraint is None else self._compiled(*params.constraint)

    def start(self, params: SamplingParams, prompt_token_ids: list[int]) -> SequenceConstraint:
        """The constraint of a request's first sequence. Raises RowError."""
        constraint, markers = self.compile(params), self._markers
        if markers is None and params.thinking_budget is not None:
            raise RowError("thinking_budget is given, and the model has no reasoning markers", "name them with --reasoning TAG")
        phase = Phase.ANSWER
        if markers is not None:
            phase = Phase.THINKING if prompt_opens(markers, prompt_token_ids, self._tokenizer) else Phase.START
        return SequenceConstraint(
            None if constraint is None else constraint.start(),
            markers,
            params.thinking_budget,
            self._end_ids,
            self._unending,
            params.min_tokens,
            one_at_a_time=params.logprobs is not None or params.best_of is not None or params.beam_width > 1,
            phase=phase,
        )

    def _compile(self, kind: str, value: Any) -> Constraint:
        if kind == "choice":
            from pagecli.engine.constraints.choice import Choice

            return Choice(value, self._tokenizer, self._vocab_size, self._end_ids)
        if self._grammars is None:
            from pagecli.engine.constraints.grammar import GrammarCompiler

            self._grammars = GrammarCompiler(self._tokenizer, self._vocab_size, self._end_ids)
        return self._grammars.compile(kind, value)
