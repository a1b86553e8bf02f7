"""The cost of recording every step: the same requests with and without a recorder, in turn, on one loaded model.

    python benchmarks/recording_cost.py --save                                  # smollm2-135m, 64 requests, 5 rounds
    python benchmarks/recording_cost.py --model opt-125m --load-format dummy

With a recorder means all that `generate --profile` does during a run: every step to a Parquet file, every request, snapshots of
the pool, the hardware read in a thread. Two measures: the medians of whole runs (noise of the machine included), and the time
spent inside the recorder's own calls as a share of the steps' time (which noise hardly touches).
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import results_file

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.engine import Engine
from pagecli.profiler.hardware.monitor import HardwareMonitor
from pagecli.profiler.recording.engine_settings import run_metadata
from pagecli.profiler.recording.recorder import Recorder
from pagecli.profiler.workloads.drawn_lengths import SHORT, draw
from pagecli.profiler.workloads.prompt_tokens import uniform_ids

Requests = list[tuple[list[int], int]]  # prompt, output tokens


class TimedListener:
    """Passes everything on to a recorder, and adds up the seconds spent there."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.seconds = 0.0

    def _pass_on(self, call, *args) -> None:
        started = time.perf_counter()
        call(*args)
        self.seconds += time.perf_counter() - started

    @property
    def wants_blocks(self) -> bool:
        return self.recorder.wants_blocks

    def request_added(self, *args) -> None:
        self._pass_on(self.recorder.request_added, *args)

    def request_aborted(self, request_id) -> None:
        self._pass_on(self.recorder.request_aborted, request_id)

    def step_computed(self, step) -> None:
        self._pass_on(self.recorder.step_computed, step)

    def step_ended(self, *args) -> None:
        self._pass_on(self.recorder.step_ended, *args)


def generate(engine: Engine, requests: Requests) -> float:
    """Seconds for all requests."""
    started = time.perf_counter()
    for i, (prompt, length) in enumerate(requests):
        engine.add_request(i, prompt, SamplingParams(max_tokens=length, ignore_eos=True))
    while engine.has_unfinished():
        engine.step()
    return time.perf_counter() - started


def recorded(engine: Engine, requests: Requests) -> tuple[float, float, int]:
    """(seconds for all requests, seconds in the recorder, steps)."""
    with tempfile.TemporaryDirectory() as directory:
        recorder = Recorder("cost", run_metadata(engine), Path(directory) / "steps.parquet")
        engine.listener = listener = TimedListener(recorder)
        try:
            with HardwareMonitor(recorder.origin):
                seconds = generate(engine, requests)
        finally:
            engine.listener = None
        recording = recorder.finish()
    return seconds, listener.seconds, int(recording.totals["num_steps"])


def measure(engine: Engine, requests: Requests, rounds: int) -> dict[str, object]:
    """A B A B ...: without, with, without, with."""
    generate(engine, requests[:4])  # first uses
    without, with_, inside, num_steps = [], [], [], 0
    for _ in range(rounds):
        without.append(generate(engine, requests))
        seconds, own, num_steps = recorded(engine, requests)
        with_.append(seconds)
        inside.append(own)
        print(f"without {without[-1]:.3f} s   with {seconds:.3f} s   in the recorder {own * 1e3:.1f} ms", flush=True)
    return {
        "seconds_without": without,
        "seconds_with": with_,
        "seconds_in_recorder": inside,
        "num_steps": num_steps,
        "cost_by_medians": median(with_) / median(without) - 1,
        "cost_by_own_time": median(inside) / median(without),
        "recorder_microseconds_a_step": median(inside) / num_steps * 1e6,
    }


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--load-format", default="auto", choices=["auto", "dummy"])
    parser.add_argument("--dtype", default="float32", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    args = parser.parse_args()
    config = EngineConfig(
        model=args.model,
        load_format=args.load_format,
        dtype=args.dtype,
        max_num_seqs=args.max_num_seqs,
        prefix_caching=False,  # every round computes the same
    )
    engine = Engine(config)
    lengths = draw(SHORT, args.requests)
    prompts = uniform_ids(lengths, engine.model_config.vocab_size)
    results = measure(engine, [(prompt, output) for prompt, (_, output) in zip(prompts, lengths, strict=True)], args.rounds)
    print(f"cost by medians of whole runs: {results['cost_by_medians']:+.2%}")
    own, each = results["cost_by_own_time"], results["recorder_microseconds_a_step"]
    print(f"cost by the recorder's own time: {own:.3%}, {each:.1f} microseconds a step")
    if args.save:
        command = " ".join(["python", "benchmarks/recording_cost.py", *sys.argv[1:]])
        print(results_file.save(f"recording-cost-{args.model}", command, results))


if __name__ == "__main__":
    main()
