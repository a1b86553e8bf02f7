"""Plain data that the profiler's parts share: memory, a policy's result, a step of a run, a hardware sample.

Shares are percent of KV memory, sizes bytes, times seconds.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """One line of the sum of memory."""

    name: str
    num_bytes: int
    note: str = ""  # source of the number


@dataclass(frozen=True, slots=True)
class KVShares:
    """Where the KV slots are, in percent of all of them; the five sum to 100.

    The paper's last share, "external fragmentation & others" (Kwon et al., SOSP 2023, figure 2), is the last two here.
    """

    token_states: float  # slots that hold the K and V of a token
    reservation: float  # held for tokens that will come
    internal_fragmentation: float  # held by a request and never filled by it
    external_fragmentation: float  # contiguous memory only: lost to rounding, or free and in no run that a waiting request fits
    free: float = 0.0  # for any request to come


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """One memory policy under one way of batching, over the steady part of a workload."""

    policy: str  # "paged", "reserve-max", "reserve-pow2", "reserve-oracle"
    batching: str  # "continuous", "static", "none"
    block_size: int
    prefix_caching: bool
    shares: KVShares
    mean_batch: float  # sequences in a step
    num_requests: int
    num_steps: int
    num_preemptions: int
    seconds: float  # modelled in a replay, measured in a run
    output_tokens_per_second: float
    measured: bool = False
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of the engine. Times are parts of the step; counts are taken when its tokens are in the cache."""

    step: int
    start_seconds: float  # since the recording began
    schedule_seconds: float
    prepare_seconds: float  # block moves and the step's input tensors
    forward_seconds: float
    sample_seconds: float
    commit_seconds: float  # tokens recorded, stop checks
    outside_seconds: float  # between the end of the step before and this one's start: reading, writing
    prefill_tokens: int
    decode_tokens: int
    num_running: int  # sequences in the step
    num_waiting: int  # requests
    num_preemptions: int  # in this step
    num_finished: int  # requests, in this step
    blocks_total: int
    blocks_used: int
    blocks_cached: int
    blocks_free: int
    slots_filled: int
    blocks_shared: int  # used blocks that more than one table holds
    blocks_unshared: int  # what the same sequences would use if none were shared
    num_copies: int
    num_swapped_blocks: int
    detokenize_seconds: float = 0.0  # finished requests' blocks freed, their tokens turned into text

    @property
    def seconds(self) -> float:
        """The step's own time."""
        before = self.schedule_seconds + self.prepare_seconds + self.forward_seconds
        return before + self.sample_seconds + self.commit_seconds + self.detokenize_seconds


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One finished request. Times are since the recording began; None: the request ended earlier."""

    request_id: int
    prompt_tokens: int
    output_tokens: int
    added_seconds: float
    first_token_seconds: float | None
    finished_seconds: float


@dataclass(frozen=True, slots=True)
class BlockMap:
    """The pool at one moment: how many slots of each block are filled (-1: free, -2: cached, in no block table)."""

    step: int
    block_size: int
    filled: tuple[int, ...]
    ref_counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HardwareSample:
    """One reading of a device or of this process; None where the field is not supported or not permitted."""

    seconds: float  # since the recording began
    device: str  # "gpu0", ..., or "host"
    memory_used_bytes: int | None = None
    process_memory_bytes: int | None = None
    utilization_percent: float | None = None
    memory_utilization_percent: float | None = None
    power_watts: float | None = None
    energy_joules: float | None = None  # since the recording began
    clock_mhz: int | None = None
    temperature_celsius: int | None = None
    throttle_reasons: tuple[str, ...] = ()
    cpu_seconds: float | None = None  # of this process, all its threads, since the recording began


@dataclass(slots=True)
class Recording:
    """The recording of one run; of a long one every step_stride-th step and a uniform sample of requests, totals of all."""

    title: str
    metadata: dict[str, object] = field(default_factory=dict)  # model, machine, settings, versions
    steps: list[StepRecord] = field(default_factory=list)
    requests: list[RequestRecord] = field(default_factory=list)
    block_maps: list[BlockMap] = field(default_factory=list)
    hardware: list[HardwareSample] = field(default_factory=list)
    hardware_note: str = ""  # what could not be read, in one line
    # Sums over all steps of StepRecord's fields, by their names, and num_steps, num_requests, prompt_tokens, output_tokens
    # of all finished requests. Empty: sum the records.
    totals: dict[str, float] = field(default_factory=dict)
    step_stride: int = 1
