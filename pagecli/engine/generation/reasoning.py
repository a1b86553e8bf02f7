"""Reasoning models write what they think between two markers, as <think> and </think>, and the answer after the second.

The first marker is the model's own first token, or the chat template has put it at the end of the prompt.
"""

from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from pagecli.errors import ModelError

# Of DeepSeek-R1, Qwen 3, SmolLM3 and many more; Magistral; Seed-OSS.
KNOWN_MARKERS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))
MAX_TAIL = 8  # tokens of white space behind the marker that a prompt ends with


class Tokenizer(Protocol):
    """The tokenizer's methods that are used here."""

    @property
    def chat_template(self) -> str | None: ...

    def token_id(self, text: str) -> int | None: ...

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str: ...


@dataclass(frozen=True, slots=True)
class ReasoningMarkers:
    """The tokens before and after a model's reasoning."""

    start_id: int
    end_id: int


@dataclass(frozen=True, slots=True)
class ReasoningSplit:
    """An output's tokens: `num_reasoning` from the first one on are reasoning, its markers included."""

    num_reasoning: int
    num_skipped: int  # of those, the marker at the start
    ended: bool  # the marker after it is there


def find_markers(tokenizer: Tokenizer, setting: str) -> ReasoningMarkers | None:
    """`setting`: auto, the known markers that the chat template names; none; or a tag, as think or [THINK].

    Raises ModelError for a tag whose markers are no tokens of the model.
    """
    if setting == "none":
        return None
    if setting == "auto":
        template = tokenizer.chat_template or ""
        pairs = [pair for pair in KNOWN_MARKERS if pair[0] in template or pair[1] in template]
    else:
        pairs = [_pair_of(setting)]
    for start, end in pairs:
        start_id, end_id = tokenizer.token_id(start), tokenizer.token_id(end)
        if start_id is not None and end_id is not None:
            return ReasoningMarkers(start_id, end_id)
    if setting == "auto":
        return None
    start, end = pairs[0]
    raise ModelError(f"--reasoning {setting}: {start} and {end} are not tokens of the model", "leave --reasoning out, or none")


def _pair_of(tag: str) -> tuple[str, str]:
    """think, <think> or [THINK] -> the marker before and the one after."""
    opening, closing = (tag[0], tag[-1]) if len(tag) > 2 and (tag[0], tag[-1]) in (("<", ">"), ("[", "]")) else ("<", ">")
    name = tag[1:-1] if tag[0] == opening else tag
    return f"{opening}{name}{closing}", f"{opening}/{name}{closing}"


def prompt_opens(markers: ReasoningMarkers, prompt_token_ids: list[int], tokenizer: Tokenizer) -> bool:
    """Whether the prompt ends with the first marker, white space behind it aside."""
    tail = list(takewhile(lambda token_id: token_id != markers.start_id, reversed(prompt_token_ids[-MAX_TAIL:])))
    found = len(tail) < min(MAX_TAIL, len(prompt_token_ids))
    return found and not tokenizer.decode(tail[::-1], False).strip()


def split(
    markers: ReasoningMarkers, prompt_token_ids: list[int], output_ids: list[int], tokenizer: Tokenizer
) -> ReasoningSplit | None:
    """Where the output's reasoning ends; None: it has none."""
    skipped = 0
    if not prompt_opens(markers, prompt_token_ids, tokenizer):
        before = list(takewhile(lambda token_id: token_id != markers.start_id, output_ids[:MAX_TAIL]))
        if len(before) == min(MAX_TAIL, len(output_ids)) or tokenizer.decode(before, False).strip():
            return None
        skipped = len(before) + 1
    ended = markers.end_id in output_ids[skipped:]
    return ReasoningSplit(output_ids.index(markers.end_id, skipped) + 1 if ended else len(output_ids), skipped, ended)
