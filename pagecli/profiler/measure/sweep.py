"""Speed of prompts and of generation by batch size, measured: the columns that llama.cpp's llama-batched-bench prints.

PP, TG: prompt and generated tokens of each sequence; B: sequences; N_KV = B x (PP + TG). The prompts are timed by a run that
ends with the first token (T_PP), the whole by a run of 1 + TG tokens (T); T_TG = T - T_PP is TG decoded tokens a sequence.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine import loaded_model
from pagecli.engine.engine import Engine
from pagecli.errors import UsageError
from pagecli.profiler.workloads.prompt_tokens import uniform_ids

HINT = 'as in --sweep "batch=1,8,32 prompt=128 output=64"'
_DEFAULTS = {"batch": (1, 2, 4, 8, 16, 32), "prompt": (128,), "output": (64,)}


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """A batch of equal requests."""

    batch: int
    prompt: int
    output: int

    @property
    def slots_each(self) -> int:
        """KV slots of a sequence at its end."""
        return self.prompt + self.output


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The times of one batch, in seconds."""

    point: SweepPoint
    prompt_seconds: float
    output_seconds: float

    @property
    def num_kv(self) -> int:
        return self.point.batch * self.point.slots_each

    @property
    def seconds(self) -> float:
        return self.prompt_seconds + self.output_seconds

    @property
    def prompt_tokens_per_second(self) -> float:
        return self.point.batch * self.point.prompt / self.prompt_seconds

    @property
    def output_tokens_per_second(self) -> float:
        return self.point.batch * self.point.output / self.output_seconds

    @property
    def tokens_per_second(self) -> float:
        return self.num_kv / self.seconds


def parse_sweep(text: str) -> list[SweepPoint]:
    """Every combination of "batch=1,8 prompt=128 output=64"; what is left out has a default. Raises UsageError."""
    chosen: dict[str, tuple[int, ...]] = {}
    for word in text.split():
        name, _, values = word.partition("=")
        if name not in _DEFAULTS or name in chosen or not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", values):
            raise UsageError(f"--sweep: {word!r} is not understood", HINT)
        chosen[name] = tuple(int(value) for value in values.split(","))
    sizes = _DEFAULTS | chosen
    combinations = product(sizes["prompt"], sizes["output"], sizes["batch"])
    return [SweepPoint(batch, prompt, output) for prompt, output, batch in combinations]


def sweep(config: EngineConfig, points: list[SweepPoint]) -> Iterator[SweepResult]:
    """The result of each point in turn. KV memory is what the largest needs. Raises UsageError, ModelError."""
    batch, block_size = max(p.batch for p in points), config.block_size
    config = replace(
        config,
        prefix_caching=False,
        max_num_seqs=batch,
        max_batch_tokens=max(config.max_batch_tokens, batch),
    )
    loaded_model.configure(config.threads)
    loaded = loaded_model.load(config)
    positions = min(config.max_model_len or loaded.model.config.max_positions, loaded.model.config.max_positions)
    longest = max(points, key=lambda p: p.slots_each)
    if longest.slots_each + 1 > positions:
        most = f"the {positions:,} of {config.model}"
        raise UsageError(f"--sweep: prompt={longest.prompt} output={longest.output} is longer than {most}", "shorten them")
    num_blocks = max(p.batch * -(-p.slots_each // block_size) for p in points) + 1
    block_bytes = block_size * loaded.kv_bytes_per_token(config)
    engine = Engine(replace(config, kv_memory_bytes=int(num_blocks * 1.02 + 1) * block_bytes), loaded)  # watermark included
    engine.isolates_failures = False
    _run(engine, SweepPoint(min(2, batch), 4, 4), 4)  # first uses are not timed
    for point in points:
        prompt_seconds = _run(engine, point, 1)
        yield SweepResult(point, prompt_seconds, max(1e-9, _run(engine, point, 1 + point.output) - prompt_seconds))


def _run(engine: Engine, point: SweepPoint, num_tokens: int) -> float:
    """Seconds until every request of the batch has `num_tokens` tokens."""
    prompts = uniform_ids([(point.prompt, 0)] * point.batch, engine.model_config.vocab_size)
    started = time.perf_counter()
    for i, prompt in enumerate(prompts):
        engine.add_request(i, prompt, SamplingParams(max_tokens=num_tokens, ignore_eos=True))
    while engine.has_unfinished():
        engine.step()
    return time.perf_counter() - started


def table(results: list[SweepResult]) -> Iterator[str]:
    """Lines of the table, in llama-batched-bench's columns."""
    columns = ("PP", "TG", "B", "N_KV", "T_PP s", "S_PP t/s", "T_TG s", "S_TG t/s", "T s", "S t/s")
    widths = (6, 6, 4, 6, 8, 8, 8, 8, 8, 8)
    yield "|" + "|".join(f" {name:>{width}} " for name, width in zip(columns, widths, strict=True)) + "|"
    yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    for r in results:
        counts = (r.point.prompt, r.point.output, r.point.batch, r.num_kv)
        rates = (r.prompt_tokens_per_second, r.output_tokens_per_second, r.tokens_per_second)
        times = (r.prompt_seconds, r.output_seconds, r.seconds)
        cells = [*(str(count) for count in counts)]
        for seconds, rate in zip(times, rates, strict=True):
            cells += [f"{seconds:.3f}", f"{rate:.2f}"]
        yield "|" + "|".join(f" {cell:>{width}} " for cell, width in zip(cells, widths, strict=True)) + "|"
