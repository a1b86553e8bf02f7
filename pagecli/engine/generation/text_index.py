"""Where a sequence's runs of tokens stood before, for drafts by prompt lookup."""

from dataclasses import dataclass, field

LONG, SHORT = 4, 2  # tokens that must have stood before: the more there are, the likelier is what followed them
LONG_DRAFT, SHORT_DRAFT = 5, 3  # tokens at first, behind a match of LONG and of SHORT


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
