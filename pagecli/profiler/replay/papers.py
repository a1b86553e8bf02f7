"""Published results that stand beside ours: the PagedAttention paper's measurements and speed-ups, the vLLM announcement's.

Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", SOSP 2023; measured
with OPT-13B on one A100-40GB. Ours are of one engine, with the same kernels, model and machine for every policy: they show what
memory and batching alone are worth.
"""

from dataclasses import dataclass
from typing import Literal

from pagecli.profiler.recording.records import PolicyResult


@dataclass(frozen=True, slots=True)
class PaperSystem:
    """A system of the paper and the policy of ours that models it. Shares in percent of KV memory, figure 2."""

    name: str
    policy: str
    token_states: float
    reservation: float | None  # None: not given
    internal_fragmentation: float | None
    external_fragmentation: float | None  # "and others"
    mean_batch: dict[str, float]  # by workload, figure 13: ShareGPT at 2 requests/s, Alpaca at 30 requests/s


SYSTEMS = (
    PaperSystem("Orca (Max)", "reserve-max", 20.4, 13.3, 57.3, 8.9, {"sharegpt": 7.00, "alpaca": 7.00}),
    PaperSystem("Orca (Pow2)", "reserve-pow2", 26.8, 17.9, 13.6, 41.6, {"sharegpt": 9.81, "alpaca": 43.24}),
    PaperSystem("Orca (Oracle)", "reserve-oracle", 38.2, 25.2, None, 36.6, {"sharegpt": 13.62, "alpaca": 72.75}),
    PaperSystem("vLLM", "paged", 96.3, None, None, None, {"sharegpt": 30.42, "alpaca": 132.44}),
)


PAPERS_MODEL, PAPERS_GPU = "opt-13b", "a100-40gb"


def is_papers_setting(model: str, device: str, num_devices: int) -> bool:
    """Whether a plan is of the model and GPU of the paper's measurements: they are comparable only there."""
    return model.lower().rpartition("/")[2] == PAPERS_MODEL and device == PAPERS_GPU and num_devices == 1


def system_for(policy: str, batching: str) -> PaperSystem | None:
    """The paper's system that a policy of ours models; all of them batch continuously."""
    if batching != "continuous":
        return None
    return next((system for system in SYSTEMS if system.policy == policy), None)


@dataclass(frozen=True, slots=True)
class PublishedSpeedup:
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


PUBLISHED_SPEEDUPS = (
    PublishedSpeedup("reserve-max", "continuous", "Orca", 2, 4, "paper, abstract"),
    PublishedSpeedup("reserve-max", "static", "FasterTransformer", 2, 4, "paper, abstract"),
    PublishedSpeedup("reserve-max", "none", "Hugging Face Transformers", None, 24, "vLLM blog, June 2023"),
)


def published_speedup(result: PolicyResult) -> PublishedSpeedup | None:
    """The published speed-up over the system that the result's policy models; None if there is none."""
    return next((c for c in PUBLISHED_SPEEDUPS if (c.policy, c.batching) == (result.policy, result.batching)), None)
