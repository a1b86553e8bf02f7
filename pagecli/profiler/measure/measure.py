"""A workload on the real engine under several memory policies, one after the other: same kernels, model, machine and KV memory.

The model is loaded once. Every request gets exactly its output length (end tokens are ignored). Prompts are random token ids
of the workload's lengths, equal where the workload says that prompts begin alike.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pagecli.core.engine_config import Batching, EngineConfig, KVPolicy
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine import loaded_model
from pagecli.engine.engine import Engine
from pagecli.engine.loaded_model import LoadedModel
from pagecli.errors import RowError, UsageError
from pagecli.profiler.hardware.monitor import HardwareMonitor
from pagecli.profiler.recording.engine_settings import run_metadata
from pagecli.profiler.recording.policy_recorder import PolicyRecorder
from pagecli.profiler.recording.records import PolicyResult, Recording
from pagecli.profiler.workloads.prompt_tokens import FIRST_ID, prompt_token_ids
from pagecli.profiler.workloads.workloads import Workload, WorkloadRequest

# KV slots of the paper's A100-40GB beside OPT-13B, for requests of up to 2,048 tokens (table 1): the default pool
# of a run, so that memory is what limits the batch.
PAPER_SLOTS_PER_LONGEST = 15_728 / 2_048
WARM_UP_TOKENS = 4


@dataclass(frozen=True, slots=True)
class MeasuredCase:
    """A memory policy under one way of batching."""

    policy: KVPolicy
    batching: Batching = "continuous"
    prefix_caching: bool = False

    @property
    def name(self) -> str:
        how = "one at a time" if self.batching == "none" else f"{self.batching} batching"
        return f"{self.policy}, {how}{', prefixes shared' if self.prefix_caching else ''}"


# The systems that the paper and the announcement compare: paging, Orca (Max), FasterTransformer, one request at a time.
DEFAULT_CASES = (
    MeasuredCase("paged"),
    MeasuredCase("reserve-max"),
    MeasuredCase("reserve-max", "static"),
    MeasuredCase("reserve-max", "none"),
)
SHARING_CASE = MeasuredCase("paged", prefix_caching=True)  # measured too where the workload knows prefixes


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """How a workload is measured."""

    engine: EngineConfig  # kv_memory_bytes None: PAPER_SLOTS_PER_LONGEST times the longest request
    max_seconds: float | None = None  # for each policy; a run that takes longer is cut off
    steps_path: Path | None = None  # every step of the first case
    title: str = ""


@dataclass(slots=True)
class Measurement:
    """Results in the order of the cases, and the recording of each."""

    kv_memory_bytes: int
    results: list[PolicyResult] = field(default_factory=list)
    recordings: list[Recording] = field(default_factory=list)


def kv_memory_of(config: EngineConfig, loaded: LoadedModel) -> int:
    """Bytes of KV cache for every policy: what was asked for, else the paper's number of longest requests."""
    if config.kv_memory_bytes is not None:
        return config.kv_memory_bytes
    longest = min(config.max_model_len or loaded.model.config.max_positions, loaded.model.config.max_positions)
    return int(PAPER_SLOTS_PER_LONGEST * longest) * loaded.kv_bytes_per_token(config)


def measure(
    workload: Workload,
    settings: MeasureSettings,
    cases: Sequence[MeasuredCase] | None = None,
    on_progress: Callable[[str], object] = lambda text: None,
) -> Measurement:
    """Run the workload under every case in turn. Raises ModelError, UsageError, InputError.

    A case that is cut off is measured by the tokens it made until then; `details` say how many requests it finished.
    """
    if cases is None:
        cases = (*DEFAULT_CASES, SHARING_CASE) if workload.prefix_block_size else DEFAULT_CASES
    on_progress(f"loading {settings.engine.model}")
    loaded_model.configure(settings.engine.threads)
    loaded = loaded_model.load(settings.engine)
    config = replace(settings.engine, kv_memory_bytes=kv_memory_of(settings.engine, loaded))
    prompts = list(prompt_token_ids(workload, loaded.model.config.vocab_size))
    _warm_up(config, loaded)
    done = Measurement(config.kv_memory_bytes or 0)
    for i, case in enumerate(cases):
        on_progress(f"{case.name} ({i + 1} of {len(cases)})")
        chosen = {"kv_policy": case.policy, "batching": case.batching, "prefix_caching": case.prefix_caching}
        run = _Run(replace(config, **chosen), loaded)  # type: ignore[arg-type]
        result, recording = run.measure(case, workload, prompts, settings, settings.steps_path if i == 0 else None)
        done.results.append(result)
        done.recordings.append(recording)
        del run  # its KV cache makes room for the next one's
    return done


def _warm_up(config: EngineConfig, loaded: LoadedModel) -> None:
    """Run two short requests, so that the first case does not include one-time initialization."""
    engine = Engine(config, loaded)
    engine.isolates_failures = False
    for i in range(2):
        engine.add_request(i, [FIRST_ID + i] * WARM_UP_TOKENS, SamplingParams(max_tokens=WARM_UP_TOKENS, ignore_eos=True))
    while engine.has_unfinished():
        engine.step()


class _Run:
    """One case: an engine of its own on the loaded model."""

    def __init__(self, config: EngineConfig, loaded: LoadedModel) -> None:
        self._engine = Engine(config, loaded)
        self._engine.isolates_failures = False
        self._num_added = self._num_refused = 0
        self._seconds = 0.0

    def measure(
        self, case: MeasuredCase, workload: Workload, prompts: list[list[int]], settings: MeasureSettings, steps: Path | None
    ) -> tuple[PolicyResult, Recording]:
        """Run to the end, or to the time limit."""
        title = f"{settings.title}: {case.name}" if settings.title else case.name
        recorder = PolicyRecorder(title, run_metadata(self._engine), self._engine.scheduler, len(prompts), steps)
        self._engine.listener = recorder
        try:
            with HardwareMonitor(recorder.origin) as monitor:
                cut_off = self._feed(workload.requests, prompts, settings.max_seconds, recorder)
        finally:
            recording = recorder.finish()
        recording.hardware, recording.hardware_note = monitor.samples, monitor.note
        if recorder.problem is not None:
            raise recorder.problem
        if self._num_added == 0:
            raise UsageError(f"no request of {workload.name} fits into the KV memory under {case.name}", "raise --kv-memory")
        return self._result(case, recorder, cut_off), recording

    def _feed(
        self,
        requests: Sequence[WorkloadRequest],
        prompts: list[list[int]],
        max_seconds: float | None,
        recorder: PolicyRecorder,
    ) -> bool:
        """Add requests when they come and step until all have finished; True if the time was up before."""
        engine, waiting = self._engine, deque(enumerate(requests))
        started = time.perf_counter()
        try:
            while waiting or engine.has_unfinished():
                self._seconds = time.perf_counter() - started
                if max_seconds is not None and self._seconds > max_seconds:
                    return True
                while waiting and (waiting[0][1].arrival_seconds or 0.0) <= self._seconds:
                    i, request = waiting.popleft()
                    if not self._add(i, prompts[i], request.output_tokens):
                        recorder.request_refused()
                if engine.has_unfinished():
                    engine.step()
                elif waiting:
                    time.sleep(max(0.0, (waiting[0][1].arrival_seconds or 0.0) - self._seconds))
        finally:
            self._seconds = time.perf_counter() - started
        return False

    def _add(self, request_id: int, prompt: list[int], output_tokens: int) -> bool:
        """Add the request. False if it is longer than the model's positions, or than this policy's KV memory."""
        try:
            self._engine.add_request(request_id, prompt, SamplingParams(max_tokens=output_tokens, ignore_eos=True))
        except RowError:
            self._num_refused += 1
            return False
        self._num_added += 1
        return True

    def _result(self, case: MeasuredCase, recorder: PolicyRecorder, cut_off: bool) -> PolicyResult:
        engine, sums = self._engine, recorder.sums
        stats = engine.stats()
        num_tokens = engine.status().num_output_tokens
        num_slots = stats["kv_blocks_total"] * engine.config.block_size  # type: ignore[operator]
        return PolicyResult(
            policy=case.policy,
            batching=case.batching,
            block_size=engine.config.block_size,
            prefix_caching=case.prefix_caching,
            shares=sums.shares(num_slots),
            mean_batch=sums.sequence_steps / max(1, sums.steps),
            num_requests=self._num_added,
            num_steps=int(stats["num_steps"]),  # type: ignore[call-overload]
            num_preemptions=int(stats["num_preemptions"]),  # type: ignore[call-overload]
            seconds=self._seconds,
            output_tokens_per_second=num_tokens / self._seconds,
            measured=True,
            details={
                "steady_steps": sums.steps,
                "num_refused": self._num_refused,
                "num_finished": recorder.num_finished,
                "output_tokens": num_tokens,
                "cut_off": int(cut_off),
                "kv_slots": num_slots,
            },
        )
