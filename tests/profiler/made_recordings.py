"""Recordings of made-up runs with known numbers, for tests of what is drawn and said of them."""

from dataclasses import replace

from pagecli.profiler.recording.records import (
    BlockMap,
    HardwareSample,
    KVShares,
    PolicyResult,
    Recording,
    RequestRecord,
    StepRecord,
)

STEP = StepRecord(
    step=0,
    start_seconds=0.0,
    schedule_seconds=0.001,
    prepare_seconds=0.001,
    forward_seconds=0.016,
    sample_seconds=0.001,
    commit_seconds=0.001,
    outside_seconds=0.0,
    prefill_tokens=0,
    decode_tokens=32,
    num_running=32,
    num_waiting=0,
    num_preemptions=0,
    num_finished=0,
    blocks_total=1000,
    blocks_used=600,
    blocks_cached=100,
    blocks_free=300,
    slots_filled=9300,
    blocks_shared=50,
    blocks_unshared=700,
    num_copies=0,
    num_swapped_blocks=0,
)


def steps(count: int, **changes: object) -> list[StepRecord]:
    """`count` steps of 20 ms one after the other, all alike but for a field given as a function of the step's index."""
    made = []
    for index in range(count):
        fields = {name: value(index) if callable(value) else value for name, value in changes.items()}
        made.append(replace(STEP, step=index, start_seconds=0.02 * index, **fields))
    return made


def recording(made_steps: list[StepRecord], **metadata: object) -> Recording:
    """A run of these steps with requests that all took a second."""
    requests = [RequestRecord(i, 100, 50, 0.0, 0.1 + 0.01 * i, 1.1 + 0.01 * i) for i in range(100)]
    return Recording("a made-up run", {"block_size": 16, "max_num_seqs": 128, **metadata}, made_steps, requests)


def full_recording(num_steps: int = 400, num_blocks: int = 1000) -> Recording:
    """A run with all that can be drawn: steps, requests, block maps, samples of a GPU and of the host."""
    made = recording(steps(num_steps, num_waiting=lambda i: max(0, 100 - i), num_preemptions=lambda i: int(i == 7)))
    filled = [16, 5, -1, -2] * -(-num_blocks // 4)
    counts = [2, 1, 0, 0] * -(-num_blocks // 4)
    maps = [BlockMap(at, 16, tuple(filled[:num_blocks]), tuple(counts[:num_blocks])) for at in range(0, num_steps, 50)]
    made.block_maps.extend(maps)
    for index in range(num_steps // 10 + 2):
        made.hardware.append(HardwareSample(0.2 * index, "gpu0", 30 << 30, 28 << 30, 80.0, 40.0, 250.0, 50.0 * index, 1400, 60))
        made.hardware.append(HardwareSample(0.2 * index, "host", None, 2 << 30, 150.0))
    return made


def policy_result(policy: str = "paged", batching: str = "continuous", **changes: object) -> PolicyResult:
    shares = {
        "paged": KVShares(96.5, 0.0, 2.5, 1.0),
        "reserve-oracle": KVShares(40.0, 26.0, 0.0, 34.0),
        "reserve-pow2": KVShares(27.0, 18.0, 14.0, 41.0),
        "reserve-max": KVShares(20.0, 13.0, 58.0, 9.0),
    }[policy]
    batch = {"paged": 30.0, "reserve-oracle": 14.0, "reserve-pow2": 10.0, "reserve-max": 7.0}[policy]
    made = PolicyResult(policy, batching, 16, False, shares, batch, 1000, 5000, 0, 120.0, 50 * batch)
    return replace(made, **changes)


def policy_results() -> list[PolicyResult]:
    """What a replay of the paper's comparison returns."""
    policies = ("paged", "reserve-oracle", "reserve-pow2", "reserve-max")
    return [policy_result(policy) for policy in policies] + [policy_result("reserve-max", "static")]
