"""One line of advice where the numbers show a cause: each rule below states its condition and its threshold.

Rules are evaluated in the order of RUN_RULES and REPLAY_RULES; the first that applies is the advice. Rules on what
slowed the run come before rules on waste that cost no time.
"""

from collections.abc import Callable, Sequence

from pagecli.profiler.recording.records import PolicyResult, Recording, StepRecord
from pagecli.profiler.recording.run_totals import block_size_of, metadata_int, num_requests, num_steps, total

LEAST_STEPS = 20  # a shorter run shows nothing
FULL_POOL = 0.90  # of the blocks; the next request's blocks are seldom fewer than the rest
FULL_SHARE = 0.25  # of the time
PREEMPTED_SHARE = 0.01  # of the requests
FULL_BATCH = 0.95  # of max_num_seqs
FULL_BATCH_SHARE = 0.50  # of the time
IDLE_POOL = 0.50  # of the blocks, at most in use
OUTSIDE_SHARE = 0.20  # of the time
TAIL_BATCH = 0.25  # of the largest batch
TAIL_SHARE = 0.15  # of the time
TAIL_LEAST_BATCH = 8  # sequences; a tail of a smaller batch costs little
EMPTY_SLOTS = 0.10  # of the slots in used blocks
SMALL_BLOCK = 16  # tokens; smaller blocks waste less and cost time
SPARE_POOL = 0.25  # of the blocks, at most in use
SHARING_GAIN = 1.05  # output tokens/s with prefix sharing / without


def advice(results: Sequence[PolicyResult] | None, recording: Recording | None) -> str | None:
    """The advice as one sentence, or None if the numbers show no cause. A run's own numbers go before a replay's."""
    if recording is not None and len(recording.steps) >= LEAST_STEPS:
        for run_rule in RUN_RULES:
            if (said := run_rule(recording)) is not None:
                return said
    for replay_rule in REPLAY_RULES:
        if results and (said := replay_rule(results)) is not None:
            return said
    return None


def kv_memory_short(recording: Recording) -> str | None:
    """Requests were preempted, or waited beside a full pool."""
    preempted = total(recording, "num_preemptions") / max(1, num_requests(recording))
    limit = metadata_int(recording, "max_num_seqs") or 2**62
    full = _time_share(
        recording.steps,
        lambda s: s.num_waiting > 0 and s.num_running < limit and s.blocks_used >= FULL_POOL * s.blocks_total,
    )
    if preempted < PREEMPTED_SHARE and full < FULL_SHARE:
        return None
    count = total(recording, "num_preemptions")
    return (
        f"KV memory was the limit: for {full:.0%} of the time requests waited while at least {FULL_POOL:.0%} of the blocks "
        f"were in use, and there were {count:,.0f} preemptions; a larger --kv-memory lets more sequences run"
    )


def too_few_sequences(recording: Recording) -> str | None:
    """The batch was full while blocks lay idle."""
    limit = metadata_int(recording, "max_num_seqs")
    if limit is None:
        return None
    full = _time_share(recording.steps, lambda s: s.num_waiting > 0 and s.num_running >= FULL_BATCH * limit)
    peak = _peak_usage(recording.steps)
    if full < FULL_BATCH_SHARE or peak > IDLE_POOL:
        return None
    fits = _round_down(int(limit * FULL_POOL / max(peak, 0.01)))
    return (
        f"--max-num-seqs {limit} was the limit: for {full:.0%} of the time the batch was full and requests waited while at "
        f"most {peak:.0%} of the KV blocks were in use; about --max-num-seqs {fits} fits the KV memory"
    )


def slow_rows(recording: Recording) -> str | None:
    """The engine waited for rows to be read or written."""
    outside = total(recording, "outside_seconds")
    share = outside / max(outside + _stepping_seconds(recording), 1e-9)
    if share < OUTSIDE_SHARE:
        return None
    return f"{share:.0%} of the time went to reading and writing rows between steps; look at storage and prompts"


def long_tail(recording: Recording) -> str | None:
    """At the end a few sequences ran while nothing waited."""
    steps = recording.steps
    peak = max(step.num_running for step in steps)
    first = len(steps)
    while first and steps[first - 1].num_waiting == 0 and steps[first - 1].num_running <= TAIL_BATCH * peak:
        first -= 1
    whole = sum(map(_seconds, steps))
    share = sum(map(_seconds, steps[first:])) / whole if whole else 0.0
    if peak < TAIL_LEAST_BATCH or share < TAIL_SHARE:
        return None
    most = max(step.num_running for step in steps[first:])
    return (
        f"a few long rows held the end: for the last {share:.0%} of the time at most {most} of {peak} sequences ran; put the "
        "rows with the longest outputs first, or more rows into one job"
    )


def empty_slots(recording: Recording) -> str | None:
    """Large blocks with empty ends."""
    block_size = block_size_of(recording)
    if block_size is None or block_size <= SMALL_BLOCK:
        return None
    held = total(recording, "blocks_used") * block_size
    empty = 1 - total(recording, "slots_filled") / held if held else 0.0
    if empty < EMPTY_SLOTS:
        return None
    less = empty * SMALL_BLOCK / block_size  # the empty end of a sequence is half a block on average
    return (
        f"blocks of {block_size} left {empty:.0%} of their slots empty; --block-size {SMALL_BLOCK} would leave about {less:.0%}"
    )


def too_much_kv_memory(recording: Recording) -> str | None:
    """Most of the pool was never used, and no request waited to enter the batch."""
    peak, waited = _peak_usage(recording.steps), _time_share(recording.steps, lambda s: s.num_waiting > 0)
    if peak > SPARE_POOL or waited >= FULL_BATCH_SHARE:
        return None
    token, block_size = metadata_int(recording, "kv_bytes_per_token"), block_size_of(recording)
    enough = ""
    if token and block_size:
        needed = max(step.blocks_used for step in recording.steps) * block_size * token / FULL_POOL
        enough = f"; --kv-memory {-(-needed // 2**20):,.0f}MiB is enough".replace(",", "")
    return f"at most {peak:.0%} of the KV blocks were in use{enough}, and the rest of the memory is free for other work"


def sharing_pays(results: Sequence[PolicyResult]) -> str | None:
    """The same work is faster where prompts that begin alike share blocks."""
    paged = [r for r in results if r.policy == "paged" and r.batching == "continuous"]
    for without in (r for r in paged if not r.prefix_caching and r.output_tokens_per_second > 0):
        alike = (r for r in paged if r.prefix_caching and (r.block_size, r.measured) == (without.block_size, without.measured))
        for sharing in alike:
            gain = sharing.output_tokens_per_second / without.output_tokens_per_second
            if gain >= SHARING_GAIN:
                return f"prompts begin alike: --prefix-caching gives {gain:.2f} times the output tokens/s of going without"
    return None


def paged_memory_short(results: Sequence[PolicyResult]) -> str | None:
    """Preemptions of the engine's own policy."""
    paged = next((r for r in results if r.policy == "paged" and r.batching == "continuous"), None)
    if paged is None or paged.num_preemptions < PREEMPTED_SHARE * paged.num_requests:
        return None
    share = paged.num_preemptions / max(1, paged.num_requests)
    return (
        f"KV memory limits this workload: {paged.num_preemptions:,} preemptions in {paged.num_requests:,} requests "
        f"({share:.1%}) at a mean batch of {paged.mean_batch:.1f}; more KV memory lets more sequences run"
    )


def block_size_wastes(results: Sequence[PolicyResult]) -> str | None:
    """The last blocks of sequences are a large part of what they hold."""
    paged = next((r for r in results if r.policy == "paged" and r.batching == "continuous"), None)
    if paged is None or paged.block_size <= SMALL_BLOCK:
        return None
    lost = paged.shares.internal_fragmentation
    if lost < 100 * EMPTY_SLOTS:
        return None
    return f"blocks of {paged.block_size} lose {lost:.0f} % of KV memory to their empty ends; try --block-size {SMALL_BLOCK}"


RUN_RULES: tuple[Callable[[Recording], str | None], ...] = (
    kv_memory_short,
    too_few_sequences,
    slow_rows,
    long_tail,
    empty_slots,
    too_much_kv_memory,
)
REPLAY_RULES: tuple[Callable[[Sequence[PolicyResult]], str | None], ...] = (sharing_pays, paged_memory_short, block_size_wastes)


def _seconds(step: StepRecord) -> float:
    return step.seconds + step.outside_seconds


def _stepping_seconds(recording: Recording) -> float:
    """Time inside steps, of all of them."""
    kept = recording.steps
    return sum(step.seconds for step in kept) * num_steps(recording) / len(kept)


def _time_share(steps: Sequence[StepRecord], applies: Callable[[StepRecord], bool]) -> float:
    whole = sum(map(_seconds, steps))
    return sum(_seconds(step) for step in steps if applies(step)) / whole if whole else 0.0


def _peak_usage(steps: Sequence[StepRecord]) -> float:
    return max(step.blocks_used / max(1, step.blocks_total) for step in steps)


def _round_down(count: int) -> int:
    """To two significant digits of a power of two: 128, 192, 256, 384, ..."""
    power = 1 << (count.bit_length() - 1)
    return power * 3 // 2 if count >= power * 3 // 2 else power
