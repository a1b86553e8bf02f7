"""What the PagedAttention paper measured, to stand beside ours (Kwon et al., "Efficient Memory Management for Large Language
Model Serving with PagedAttention", SOSP 2023; OPT-13B on one A100-40GB)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PaperSystem:
    """A system of the paper and the policy of ours that stands for it. Shares in percent of KV memory, figure 2."""

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
    """Whether a plan is of the model and the GPU that the figures were measured with: elsewhere they say nothing."""
    return model.lower().rpartition("/")[2] == PAPERS_MODEL and device == PAPERS_GPU and num_devices == 1


def system_for(policy: str, batching: str) -> PaperSystem | None:
    """The paper's system that a policy of ours stands for; all of them batch continuously."""
    if batching != "continuous":
        return None
    return next((system for system in SYSTEMS if system.policy == policy), None)
