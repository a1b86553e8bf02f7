"""Runs pagecli's engine over requests, for a limited time, and counts the bytes and operations that its steps need."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import timing
from model_shapes import Workload

from pagecli.core.dtypes import WEIGHT_BYTES
from pagecli.core.engine_config import EngineConfig
from pagecli.core.outputs import RequestOutput
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.engine import Engine
from pagecli.engine.listener import StepSnapshot, StepTimes
from pagecli.engine.loaded_model import LoadedModel
from pagecli.profiler.plan.gpus import Device
from pagecli.profiler.plan.roofline import StepTime


class StepCounter:
    """An engine's listener: the least time its steps could have taken, and how many sequences ran in them."""

    def __init__(self, engine: Engine, limits: dict[str, float]) -> None:
        bandwidth, flops = limits["copy_bytes_per_s"], limits["bf16_flops_per_s"]
        device = Device("measured", "measured", 0, bandwidth, flops, flops, 0.0, is_reached=True)
        kv_bytes = engine.loaded.kv_bytes_per_token(engine.config)
        self._least = StepTime(engine.model_config, device, WEIGHT_BYTES[engine.dtype], kv_bytes_per_token=kv_bytes)
        self.floor_seconds = 0.0
        self.num_steps = self.num_running = 0

    wants_blocks = False

    def request_added(self, request_id: int, num_prompt_tokens: int, seq_id: int) -> None:
        """Nothing to count."""

    def request_aborted(self, request_id: int) -> None:
        """Nothing to count."""

    def step_computed(self, step: StepSnapshot) -> None:
        contexts = pairs = 0
        for chunk in step.plan.chunks:
            length, context = len(chunk.token_ids), chunk.context_len
            contexts += context
            pairs += length * chunk.start + length * (length + 1) // 2
        num_sequences = sum(bool(chunk.specs) for chunk in step.plan.chunks)
        self.floor_seconds += float(self._least.seconds(step.plan.num_tokens, num_sequences, contexts, pairs))
        self.num_steps += 1
        self.num_running += len(step.plan.chunks)

    def step_ended(self, times: StepTimes, ended: float, outputs: Sequence[RequestOutput]) -> None:
        """Nothing to count."""


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a run; `whole` if no request was left when its time was over."""

    seconds: float
    output_tokens: int
    num_requests: int
    whole: bool
    mean_running: float
    floor_seconds: float
    stats: dict[str, object]

    @property
    def tokens_per_second(self) -> float:
        return self.output_tokens / self.seconds

    @property
    def roofline_share(self) -> float:
        """What the steps' weights, KV and products take at the measured ceilings / what the run took."""
        return self.floor_seconds / self.seconds


def engine_config(model: str, tiny: bool, **changes: object) -> EngineConfig:
    """Settings for a large GPU; `tiny` for the emulator."""
    settings: dict[str, object] = {"load_format": "dummy", "device": "cuda", "dtype": "bfloat16", "prefix_caching": False}
    settings |= {"max_num_seqs": 4, "max_batch_tokens": 24} if tiny else {"max_num_seqs": 512, "max_batch_tokens": 4096}
    if tiny:
        settings["kv_memory_bytes"] = 2**20
    return EngineConfig(model, **(settings | changes))  # type: ignore[arg-type]


def run(engine: Engine, workload: Workload, limits: dict[str, float], seconds: float, n: int = 1) -> Run:
    """All requests at once, each to its exact length, `n` samples of it; what is unfinished after `seconds` is given up."""
    engine.listener = counter = StepCounter(engine, limits)
    before, first_id = engine.stats(), count(engine, "num_requests")
    for i, (prompt, length) in enumerate(zip(workload.prompts, workload.outputs, strict=True)):
        temperature = 0.0 if n == 1 else 1.0
        params = SamplingParams(max_tokens=length, ignore_eos=True, n=n, temperature=temperature, seed=i)
        engine.add_request(first_id + i, prompt, params)
    open_ids = set(range(first_id, first_id + len(workload.prompts)))
    timing.synchronize()
    started = time.perf_counter()
    while engine.has_unfinished() and time.perf_counter() - started < seconds:
        open_ids.difference_update(output.request_id for output in engine.step())
    timing.synchronize()
    taken, whole, stats = time.perf_counter() - started, not engine.has_unfinished(), engine.stats()
    for request_id in sorted(open_ids):
        engine.abort(request_id)
    name = "output_tokens" if whole else "num_sampled_tokens"
    tokens = count(engine, name) - int(str(before[name]))
    assert not whole or tokens == n * sum(workload.outputs), "a request did not get its exact length"
    num_done, mean_running = len(workload.prompts) - len(open_ids), counter.num_running / max(1, counter.num_steps)
    return Run(taken, tokens, num_done, whole, mean_running, counter.floor_seconds, stats)


def count(engine: Engine, name: str) -> int:
    value = engine.stats()[name]
    assert isinstance(value, int)
    return value


def build(config: EngineConfig, loaded: LoadedModel | None = None) -> Engine:
    """An engine, once the memory of the one before it is free, that has answered two short requests: handles are made."""
    timing.free_memory()
    engine = Engine(config, loaded)
    run(engine, Workload([[20, 21, 22], [23, 24]], [4, 3]), {"copy_bytes_per_s": 1.0, "bf16_flops_per_s": 1.0}, 60)
    return engine
