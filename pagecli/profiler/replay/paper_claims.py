"""What the PagedAttention paper and the vLLM announcement claim of throughput, and which of our policies stand for whom.

Ours are measured on one engine, with the same kernels, model and machine: they show what memory and batching alone are worth.
"""

from dataclasses import dataclass
from typing import Literal

from pagecli.profiler.recording.records import PolicyResult


@dataclass(frozen=True, slots=True)
class Claim:
    """Throughput of paging over another system: `low` to `high` times; no low means "up to"."""

    policy: str
    batching: Literal["continuous", "static", "none"]
    stands_for: str
    low: float | None
    high: float
    source: str

    @property
    def text(self) -> str:
        span = f"up to {self.high:g}x" if self.low is None else f"{self.low:g}-{self.high:g}x"
        return f"{span} over {self.stands_for} ({self.source})"


CLAIMS = (
    Claim("reserve-max", "continuous", "Orca", 2, 4, "paper, abstract"),
    Claim("reserve-max", "static", "FasterTransformer", 2, 4, "paper, abstract"),
    Claim("reserve-max", "none", "Hugging Face Transformers", None, 24, "vLLM blog, June 2023"),
)


def claim_for(result: PolicyResult) -> Claim | None:
    """The claim that a policy of ours can be held against."""
    return next((c for c in CLAIMS if (c.policy, c.batching) == (result.policy, result.batching)), None)
