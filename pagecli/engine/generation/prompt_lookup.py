"""Drafts from the text itself: what followed the sequence's last tokens where they stood before, in its prompt or its output
(Saxena, "Prompt Lookup Decoding", 2023). Summaries that quote, edits and JSON of the input copy long runs; most text does not.

    prompt   ... "name": "Ada Lovelace", "born": ...        output   ... {"name": "Ada
                          ^ what follows these tokens                          ^ is tried behind these

A guess costs little where few sequences run: reading the weights takes the time of a step, whatever it computes with them. It
is worth nothing where guesses fail, so a sequence whose drafts fail one after the other waits for four times as many tokens
before each next try, and the length of its drafts follows how many were right.
"""

from dataclasses import dataclass, field

from pagecli.core.engine_config import Speculate
from pagecli.engine.request import Sequence

LONG, SHORT = 4, 2  # tokens that must have stood before: the more there are, the likelier is what followed them
LONG_DRAFT, SHORT_DRAFT = 5, 3  # tokens at first, behind a match of LONG and of SHORT
MAX_DRAFT = 15  # with the known token, rows that a step computes for little more than for one
FIRST_WAIT, MAX_WAIT = 2, 128  # tokens from the second draft that fails to the next; behind the first there is no wait
MAX_SEQUENCES = 2  # of a step that drafts are tried in


@dataclass(slots=True)
class TextIndex:
    """Where each run of LONG and of SHORT tokens was last followed by another token, and how drafts have fared."""

    num_indexed: int = SHORT
    long: dict[tuple[int, ...], int] = field(default_factory=dict)
    short: dict[tuple[int, ...], int] = field(default_factory=dict)
    length: int = LONG_DRAFT  # of the next draft
    wait: int = 0  # tokens to pass after the next draft that fails
    next_try: int = 0  # tokens known before the next draft

    def extend(self, token_ids: list[int]) -> None:
        """Add the runs that end before the last token."""
        for end in range(self.num_indexed, len(token_ids)):
            self.short[tuple(token_ids[end - SHORT : end])] = end
            if end >= LONG:
                self.long[tuple(token_ids[end - LONG : end])] = end
        self.num_indexed = max(self.num_indexed, len(token_ids))

    def draft(self, token_ids: list[int], max_tokens: int) -> list[int]:
        """What followed the last tokens before, at most so many tokens; where that is up to the end, a loop, once more."""
        at = self.long.get(tuple(token_ids[-LONG:]))
        if at is None:
            at = self.short.get(tuple(token_ids[-SHORT:]))
            max_tokens = min(max_tokens, SHORT_DRAFT)
        if at is None:
            return []
        found = token_ids[at : at + max_tokens]
        return found if len(found) == max_tokens else (found * max_tokens)[:max_tokens]


@dataclass(slots=True)
class PromptLookup:
    """A Drafter. `max_tokens`: of a draft."""

    max_tokens: int = MAX_DRAFT
    max_sequences: int = MAX_SEQUENCES
    num_drafts: int = 0  # tokens
    num_accepted: int = 0

    def propose(self, sequence: Sequence, max_tokens: int) -> list[int]:
        index = sequence.draft_state
        if not isinstance(index, TextIndex):
            index = sequence.draft_state = TextIndex()
        token_ids = sequence.token_ids
        if len(token_ids) < max(index.next_try, SHORT + 1):
            return []
        index.extend(token_ids)
        return index.draft(token_ids, min(max_tokens, self.max_tokens, index.length))

    def record(self, sequence: Sequence, num_drafts: int, num_accepted: int) -> None:
        index = sequence.draft_state
        assert isinstance(index, TextIndex)
        self.num_drafts += num_drafts
        self.num_accepted += num_accepted
        if num_accepted == num_drafts:
            index.length = min(MAX_DRAFT, 2 * index.length)
        else:
            index.length = max(SHORT_DRAFT, num_accepted)
        if num_accepted > 0:
            index.wait = 0
        else:
            index.next_try = sequence.num_tokens + index.wait
            index.wait = min(MAX_WAIT, max(FIRST_WAIT, 4 * index.wait))

    def stats(self) -> dict[str, object]:
        """Counts by their names in the --stats file."""
        return {"num_draft_tokens": self.num_drafts, "num_accepted_tokens": self.num_accepted}


def drafter(speculate: Speculate) -> PromptLookup | None:
    """The drafter that --speculate asks for: of drafts of at most so many tokens, of MAX_DRAFT with "auto"; None with 0."""
    if speculate == 0:
        return None
    return PromptLookup() if speculate == "auto" else PromptLookup(max_tokens=speculate)
