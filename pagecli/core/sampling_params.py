"""How the next token of a request is chosen and when the request ends. Plain data, checked when made.

The bounds and the meaning of a value are the same on every device. Devices compute with float32, so a number is judged by the
float32 nearest to it: 1e39 is not finite, and a temperature below MIN_TEMPERATURE, top_p 0 and top_k 1 all choose the likeliest
token, the first of equal ones.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pagecli.errors import UsageError, short_repr

MAX_LOGPROBS = 100
MAX_SEQUENCES = 64  # samples or beams of one request
MIN_TEMPERATURE = 1e-5  # greedy below; kMinTemperature of csrc/include/pagecli/sampling/sample.h
MAX_TOP_K = 2**31 - 1
# So far logits of every size stay finite in float32, and what is added to them leaves their differences visible.
MAX_REPETITION_PENALTY = 1e6
MAX_ADDED_PENALTY = 1e4
MAX_LENGTH_PENALTY = 6.0  # float32 holds 2^20 tokens to this power
MAX_CONSTRAINT_CHARS = 1 << 20
# Name: least, most, in words.
_RANGES: dict[str, tuple[float, float, str]] = {
    "top_k": (0, MAX_TOP_K, "in [0, 2**31) (0: off)"),
    "top_p": (0, 1, "in [0, 1] (1: off)"),
    "min_p": (0, 1, "in [0, 1]"),
    "repetition_penalty": (
        1 / MAX_REPETITION_PENALTY,
        MAX_REPETITION_PENALTY,
        f"in [{1 / MAX_REPETITION_PENALTY:g}, {MAX_REPETITION_PENALTY:,.0f}]",
    ),
    "no_repeat_ngram_size": (0, math.inf, "an integer >= 0 (0: off)"),
    "presence_penalty": (-MAX_ADDED_PENALTY, MAX_ADDED_PENALTY, f"in +-{MAX_ADDED_PENALTY:,.0f}"),
    "frequency_penalty": (-MAX_ADDED_PENALTY, MAX_ADDED_PENALTY, f"in +-{MAX_ADDED_PENALTY:,.0f}"),
    "seed": (0, 2**64 - 1, "in [0, 2**64)"),
    "max_tokens": (1, math.inf, "an integer >= 1"),
    "length_penalty": (-MAX_LENGTH_PENALTY, MAX_LENGTH_PENALTY, f"in +-{MAX_LENGTH_PENALTY:g}"),
}
CONSTRAINTS = ("json_schema", "regex", "grammar", "choice")  # fields that say which texts an output may be; one at a time
_NOT_CONSTRAINED = ("ignore_eos", "no_repeat_ngram_size")  # they may forbid all that a constraint leaves
EarlyStopping = Literal["true", "false", "never"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of one request; the defaults decode greedily. Raises UsageError on a value out of range."""

    temperature: float = 0.0  # 0, and anything below MIN_TEMPERATURE: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 0: the likeliest token
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0  # 0: off; k: no k tokens in a row that prompt and output have already; 1: no token twice
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    min_tokens: int = 0
    max_tokens: int = 256
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None  # None: off; k: the chosen token and the k most likely
    prompt_logprobs: int | None = None  # the same for the prompt's tokens from the second on
    n: int = 1  # continuations to return
    best_of: int | None = None  # sample so many and return the n with the highest mean log probability
    beam_width: int = 1  # > 1: beam search; returns the n best hypotheses
    length_penalty: float = 1.0  # beam search: score = sum of log probabilities / length ** length_penalty
    early_stopping: EarlyStopping = "false"  # beam search: when to end, as in transformers
    json_schema: str | None = None  # JSON text: the output is JSON that the schema allows
    regex: str | None = None  # the output matches it from end to end
    grammar: str | None = None  # in Lark's syntax, as llguidance reads it
    choice: tuple[str, ...] = ()  # the output is one of these texts
    lora: str | None = None  # name of the LoRA adapter; "" or None: the model alone
    thinking_budget: int | None = None  # tokens of reasoning after which its end is forced; None: no limit

    def __post_init__(self) -> None:
        for name, ok, wanted in self._rules():
            if not ok:
                raise UsageError(f"{name} is {short_repr(getattr(self, name))}", f"{name} must be {wanted}")

    def _rules(self) -> list[tuple[str, bool, str]]:
        logprobs = ((name, getattr(self, name)) for name in ("logprobs", "prompt_logprobs"))
        return [
            ("temperature", 0 <= as_float32(self.temperature) < math.inf, "in [0, 3.4e38] (0: greedy)"),
            *((name, least <= getattr(self, name) <= most, wanted) for name, (least, most, wanted) in _RANGES.items()),
            ("min_tokens", 0 <= self.min_tokens <= self.max_tokens, f"in [0, max_tokens = {self.max_tokens}]"),
            ("stop", all(self.stop), "non-empty strings"),
            ("stop_token_ids", all(i >= 0 for i in self.stop_token_ids), "token ids >= 0"),
            *((name, value is None or 0 <= value <= MAX_LOGPROBS, f"in [0, {MAX_LOGPROBS}]") for name, value in logprobs),
            ("early_stopping", self.early_stopping in get_args(EarlyStopping), "true, false or never"),
            *(self._sequence_rules() if (self.n, self.best_of, self.beam_width) != (1, None, 1) else ()),
            *self._constraint_rules(),
        ]

    def _sequence_rules(self) -> list[tuple[str, bool, str]]:
        beams = self.beam_width > 1
        return [
            ("beam_width", 1 <= self.beam_width <= MAX_SEQUENCES, f"in [1, {MAX_SEQUENCES}]"),
            ("n", 1 <= self.n <= MAX_SEQUENCES, f"in [1, {MAX_SEQUENCES}]"),
            ("n", not beams or self.n <= self.beam_width, f"at most beam_width = {self.beam_width} with beam search"),
            ("best_of", self.best_of is None or self.n <= self.best_of <= MAX_SEQUENCES, f"in [n = {self.n}, {MAX_SEQUENCES}]"),
            ("best_of", not (beams and self.best_of), "left out with beam search"),
            ("temperature", not (beams and self.temperature >= MIN_TEMPERATURE), "0 with beam search"),
            ("stop", not (beams and self.stop), "left out with beam search (stop_token_ids may be given)"),
            ("logprobs", not beams or self.logprobs is None, "left out with beam search"),
        ]

    def _constraint_rules(self) -> list[tuple[str, bool, str]]:
        given = [name for name in CONSTRAINTS if getattr(self, name) not in (None, ())]
        if not given and self.thinking_budget is None:
            return []
        choices = self.choice
        return [
            *((name, len(given) < 2, f"left out beside {given[0]}") for name in given[1:]),
            *((name, self._is_short(name), f"of 1 to {MAX_CONSTRAINT_CHARS:,} characters") for name in given),
            ("choice", all(choices) and len(set(choices)) == len(choices), "different texts, none of them empty"),
            *((name, not getattr(self, name), f"left out beside {given[0]}") for name in _NOT_CONSTRAINED if given),
            ("thinking_budget", self.thinking_budget is None or self.thinking_budget >= 0, "0 or more tokens"),
        ]

    def _is_short(self, name: str) -> bool:
        value = getattr(self, name)
        return 0 < (sum(map(len, value)) if isinstance(value, tuple) else len(value)) <= MAX_CONSTRAINT_CHARS

    @property
    def constraint(self) -> tuple[str, Any] | None:
        """(field, value) of the one that says which texts an output may be; None: any text."""
        return next(((name, value) for name in CONSTRAINTS if (value := getattr(self, name)) not in (None, ())), None)

    @property
    def is_constrained(self) -> bool:
        """Whether what follows a token depends on more than the logits: some next tokens are forbidden, or forced."""
        return self.constraint is not None or self.thinking_budget is not None

    @property
    def num_sequences(self) -> int:
        """Sequences the request runs side by side once its prompt is computed."""
        return self.beam_width if self.beam_width > 1 else (self.best_of or self.n)

    @property
    def greedy(self) -> bool:
        """Whether the token is the likeliest one, the first of equal ones, whatever is drawn."""
        return self.temperature < MIN_TEMPERATURE or self.top_p == 0.0 or self.top_k == 1

    @property
    def has_penalties(self) -> bool:
        """Whether the choice depends on the tokens before it."""
        return self.adjusts_logits or self.no_repeat_ngram_size > 0

    @property
    def adjusts_logits(self) -> bool:
        """Whether repetition, presence or frequency is penalized."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0 or self.repetition_penalty != 1.0

    @property
    def wants_logprobs(self) -> bool:
        """Whether the log probability of each chosen token is needed."""
        return self.logprobs is not None or self.best_of is not None


def as_float32(value: float) -> float:
    """The float32 nearest to the number; infinite where it is beyond all of them."""
    try:
        return struct.unpack("f", struct.pack("f", float(value)))[0]
    except OverflowError:
        return math.inf if value > 0 else -math.inf
