"""JSON schemas, regular expressions and grammars by llguidance: an Earley parser over a lexer of derivatives, walked along a
trie of the vocabulary (github.com/guidance-ai/llguidance, docs/optimizations.md)."""

import functools
import json
from typing import TYPE_CHECKING, Any

import llguidance

from pagecli.core.arrays import Array
from pagecli.errors import RowError, short_repr

if TYPE_CHECKING:
    from pagecli.model.tokenizer.tokenizer import Tokenizer

# One line, as json.dumps writes it: what a model has seen most, and nothing left to choose between a key and its value.
# "x-guidance" in a schema overrides it.
JSON_LAYOUT = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


@functools.lru_cache(maxsize=256)
def checked(kind: str, text: str) -> str:
    """llguidance's form of a json_schema, regex or grammar. Raises RowError for one that it cannot compile."""
    matcher = llguidance.LLMatcher
    try:
        if kind == "json_schema":
            grammar = matcher.grammar_from_json_schema(text, defaults=JSON_LAYOUT)  # type: ignore[arg-type]
        else:
            grammar = matcher.grammar_from_regex(text) if kind == "regex" else matcher.grammar_from_lark(text)
        problem = matcher.validate_grammar(grammar)
    except ValueError as error:
        problem = str(error)
    if problem:
        raise _refused(kind, text, problem)
    return grammar


def _refused(kind: str, text: str, problem: str) -> RowError:
    lines = [line.strip() for line in problem.strip().splitlines() if line.strip()]
    shown = short_repr(json.loads(text)) if kind == "json_schema" and _is_json(text) else short_repr(text)
    return RowError(f"{kind} {shown} cannot be compiled: {' '.join(lines)[:300] or 'no reason given'}")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


class GrammarCompiler:
    """Compiles for one vocabulary, whose trie it holds."""

    def __init__(self, tokenizer: "Tokenizer", vocab_size: int, end_ids: tuple[int, ...]) -> None:
        """Raises RowError for a model without an end token."""
        if not end_ids:
            raise RowError("the model has no end token, which an output of a schema or grammar needs", "use choice")
        self._trie = llguidance.LLTokenizer(_Vocabulary(tokenizer, vocab_size, end_ids), eos_token=list(end_ids))  # type: ignore[arg-type]

    def compile(self, kind: str, text: str) -> "Grammar":
        """Raises RowError."""
        started = llguidance.LLMatcher(self._trie, checked(kind, text), log_level=0)
        if started.is_error():
            raise _refused(kind, text, started.get_error())
        return Grammar(started, self._trie)


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: "Tokenizer", vocab_size: int, end_ids: tuple[int, ...]) -> None:
        self.eos_token_id = end_ids[0]
        special = set(tokenizer.special_token_ids) | set(end_ids)
        self.special_token_ids = sorted(i for i in special if i < vocab_size)
        self.tokens = [tokenizer.token_bytes(i) or b"" for i in range(vocab_size)]
        self._encode = tokenizer.encode_plain

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


class Grammar:
    """See matcher.Constraint."""

    def __init__(self, started: Any, trie: Any) -> None:
        self._started, self._trie = started, trie

    def start(self) -> "GrammarMatcher":
        return GrammarMatcher(self._started.deep_copy())

    def allows(self, text: str) -> bool:
        matcher, token_ids = self._started.deep_copy(), self._trie.greedy_tokenize(text)
        return matcher.try_consume_tokens(token_ids) == len(token_ids) and matcher.is_accepting()


class GrammarMatcher:
    """See matcher.Matcher. After an error of llguidance's, as when it meets its limits, only end tokens are allowed."""

    def __init__(self, state: Any) -> None:
        self._state = state

    @property
    def is_complete(self) -> bool:
        return self._state.is_stopped()

    def fill(self, words: Array) -> None:
        self._state.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)

    def consume(self, token_id: int) -> None:
        self._state.consume_token(token_id)

    def forced(self) -> list[int]:
        token_ids = self._state.compute_ff_tokens()
        return token_ids if self._state.validate_tokens(token_ids) == len(token_ids) else []

    def copy(self) -> "GrammarMatcher":
        return GrammarMatcher(self._state.deep_copy())
