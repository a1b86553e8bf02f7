"""Records an engine run: a StepRecord for every step, a RequestRecord for every request, snapshots of the pool.

During a step the recorder only counts and appends; everything else is computed when the run is over.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pagecli.core.outputs import RequestOutput
from pagecli.core.step_plan import BlockMove, Chunk, MoveKind
from pagecli.engine.listener import StepSnapshot, StepTimes
from pagecli.errors import InputError
from pagecli.profiler.recording.bounded_logs import BlockMapLog, RequestLog, StepLog
from pagecli.profiler.recording.records import Recording, RequestRecord
from pagecli.profiler.recording.steps_file import StepsFile


class Recorder:
    """An EngineListener: `engine.listener = Recorder(...)`. Times count from `origin`, on time.perf_counter().

    `steps_path`: the file to which every step is written during the run. Raises InputError if that is not possible.
    """

    def __init__(self, title: str, metadata: Mapping[str, object], steps_path: Path | None = None) -> None:
        self.origin = time.perf_counter()
        self._title = title
        self._metadata = dict(metadata)
        self._steps = StepLog(StepsFile(steps_path, metadata) if steps_path is not None else None)
        self._requests = RequestLog()
        self._block_maps = BlockMapLog()
        self._open: dict[int, _OpenRequest] = {}
        self._by_first_sequence: dict[int, _OpenRequest] = {}
        self._now_first: list[_OpenRequest] = []  # whose first token this step chose
        self._counts: tuple[int, ...] = ()  # of the step that is running
        self._ended = self.origin  # of the step before
        self._num_preemptions: int | None = None

    @property
    def wants_blocks(self) -> bool:
        return self._block_maps.wants(self._steps.num_steps)

    def request_added(self, request_id: int, num_prompt_tokens: int, seq_id: int) -> None:
        opened = _OpenRequest(time.perf_counter(), num_prompt_tokens, seq_id)
        self._open[request_id] = self._by_first_sequence[seq_id] = opened

    def request_aborted(self, request_id: int) -> None:
        opened = self._open.pop(request_id, None)
        if opened is not None:
            self._by_first_sequence.pop(opened.seq_id, None)

    def step_computed(self, step: StepSnapshot) -> None:
        """Count while the step's tokens are in the cache and its sequences hold their blocks."""
        plan, memory = step.plan, step.memory
        num_prefill, num_decode = self._count_tokens(plan.chunks)
        before = step.num_preemptions if self._num_preemptions is None else self._num_preemptions
        self._num_preemptions = step.num_preemptions
        self._counts = (
            *(num_prefill, num_decode, len(plan.chunks), step.num_waiting, step.num_preemptions - before),
            *(memory.num_blocks, memory.num_used, memory.num_cached, memory.num_free),
            *(memory.num_filled_slots, memory.num_shared, memory.num_table_entries),
            *(_count_moves(plan.moves) if plan.moves else (0, 0)),
        )
        if step.blocks is not None:
            blocks = step.blocks
            number, size = self._steps.num_steps, step.block_size
            self._block_maps.add(number, size, blocks.filled, blocks.ref_counts, blocks.cached_ids)

    def step_ended(self, times: StepTimes, ended: float, outputs: Sequence[RequestOutput]) -> None:
        """Put the step's times and counts together, and close the requests that finished in it."""
        started, planned, prepared, forwarded, sampled, committed = times
        counts = self._counts
        self._steps.add(
            (
                *(self._steps.num_steps, started - self.origin, planned - started, prepared - planned),
                *(forwarded - prepared, sampled - forwarded, committed - sampled, started - self._ended),
                *counts[:5],
                len(outputs),
                *counts[5:],
                ended - committed,
            )
        )
        self._ended = ended
        for opened in self._now_first:
            opened.first_token = sampled
        self._now_first.clear()
        for output in outputs:
            self._close(output, ended)

    @property
    def problem(self) -> InputError | None:
        """Why the file of steps ends early, if it does."""
        return self._steps.problem

    def finish(self) -> Recording:
        """The recording so far; the file of steps is complete. Call it once, when the run is over."""
        steps = self._steps.close()
        totals = {
            "num_steps": self._steps.num_steps,
            "num_requests": self._requests.num_requests,
            "prompt_tokens": self._requests.prompt_tokens,
            "output_tokens": self._requests.output_tokens,
            **self._steps.sums,
        }
        return Recording(
            title=self._title,
            metadata=self._metadata,
            steps=steps,
            requests=self._requests.kept(),
            block_maps=self._block_maps.chosen(),
            totals=totals,
            step_stride=self._steps.stride,
        )

    def _count_tokens(self, chunks: list[Chunk]) -> tuple[int, int]:
        """(prefill, decode) tokens; notes whose prompt is computed with this step."""
        num_prefill = num_decode = 0
        for chunk in chunks:
            num_tokens, specs = len(chunk.token_ids), chunk.specs
            if num_tokens == 1 and specs and chunk.start >= specs[0].num_prompt_tokens:
                num_decode += 1
                continue
            num_prefill += num_tokens
            if specs and chunk.start + num_tokens == specs[0].num_prompt_tokens:
                opened = self._by_first_sequence.pop(chunk.seq_id, None)
                if opened is not None:
                    self._now_first.append(opened)
        return num_prefill, num_decode

    def _close(self, output: RequestOutput, ended: float) -> None:
        opened = self._open.pop(output.request_id, None)
        if opened is None:  # it was running before the recording began
            return
        self._by_first_sequence.pop(opened.seq_id, None)
        first = None if opened.first_token is None else opened.first_token - self.origin
        num_output = sum(len(sequence.token_ids) for sequence in output.sequences)
        added = opened.added - self.origin
        self._requests.add(
            RequestRecord(output.request_id, opened.num_prompt_tokens, num_output, added, first, ended - self.origin)
        )


class _OpenRequest:
    """A request that has not finished."""

    __slots__ = ("added", "first_token", "num_prompt_tokens", "seq_id")

    def __init__(self, added: float, num_prompt_tokens: int, seq_id: int) -> None:
        self.added = added
        self.num_prompt_tokens = num_prompt_tokens
        self.seq_id = seq_id  # of its first sequence, which computes the prompt
        self.first_token: float | None = None


def _count_moves(moves: list[BlockMove]) -> tuple[int, int]:
    """(copies on write, blocks swapped out or in)."""
    num_copies = sum(move.kind is MoveKind.COPY for move in moves)
    return num_copies, len(moves) - num_copies
