"""The replay clock on the scheduler that lets decoding sequences sleep: what takes the other one hours takes this one minutes.

Steps, times, sums of slots and preemptions are the same to the last digit (tests/profiler/test_replay.py runs both).
"""

import numpy as np

from pagecli.profiler.replay.fast_scheduler import SleepingScheduler
from pagecli.profiler.replay.replay_clock import (
    MOST_AT_ONCE,
    ReplayCase,
    ReplayClock,
    ReplaySettings,
    StepTimer,
    attention_pairs,
)


class QuickClock(ReplayClock):
    """Runs requests of one sequence each that share nothing."""

    scheduler: SleepingScheduler

    def __init__(self, case: ReplayCase, settings: ReplaySettings, timer: StepTimer) -> None:
        assert not case.prefix_caching, "sequences that sleep share nothing"
        super().__init__(case, settings, timer, SleepingScheduler)

    def _step(self) -> None:
        scheduler = self.scheduler
        lengths = scheduler.reserve_step()
        count = scheduler.num_sleeping
        assert count or lengths, "a step without work while requests wait"
        context = pairs = scheduler.sleeping_tokens + count
        num_sampled = count
        for sequence, num_tokens in lengths.items():
            context += sequence.num_computed + num_tokens
            pairs += attention_pairs(sequence.num_computed, num_tokens)
            num_sampled += num_tokens == sequence.num_uncomputed
        num_tokens = count + sum(lengths.values())
        self.seconds += float(self._timer.seconds(num_tokens, num_sampled, context, pairs))
        scheduler.commit_step(lengths)
        sums = self.ledger.sums
        sums.filled += scheduler.sleeping_tokens + scheduler.awake_tokens
        sums.held += scheduler.kv.num_used_blocks * self.block_size
        sums.never_filled += scheduler.never_filled
        self._count(1, count + len(lengths), num_sampled)
        self.num_finished += scheduler.release_finished_sleepers()

    def _fast_forward(self, next_arrival: float | None) -> bool:
        scheduler = self.scheduler
        waiting = scheduler.num_waiting > 0
        end = scheduler.next_end()
        if end is None or scheduler.num_awake or (waiting and not scheduler.full):
            return False
        num_steps = scheduler.steps_with_blocks(min(MOST_AT_ONCE, end - scheduler.now))
        if num_steps < 2:
            return False
        count, filled = scheduler.num_sleeping, scheduler.sleeping_tokens
        times = self._decode_times(count, filled, num_steps)
        if next_arrival is not None and not waiting:
            num_steps = min(num_steps, int(np.searchsorted(times[1:], next_arrival, side="left")) + 1)
        used, never = scheduler.kv.num_used_blocks, scheduler.never_filled
        grown = scheduler.reserve_ahead(num_steps)
        scheduler.now += num_steps
        sums = self.ledger.sums
        sums.filled += num_steps * filled + count * (num_steps * (num_steps + 1) // 2)
        sums.held += num_steps * used * self.block_size
        sums.never_filled += num_steps * never
        for step, wasted in grown:
            sums.held += (num_steps + 1 - step) * self.block_size
            sums.never_filled += (num_steps + 1 - step) * wasted
        self.seconds = float(times[num_steps])
        self._count(num_steps, count, num_steps * count)
        self.num_finished += scheduler.release_finished_sleepers()
        return True
