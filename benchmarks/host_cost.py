"""Host time of a decoding sequence in a step, without the model: microseconds of plan, inputs, choice and commit.

    python benchmarks/host_cost.py --save                    # 128, 256 and 512 sequences, contexts of 100 and 2,000 tokens
    python benchmarks/host_cost.py --widths 128 --rounds 9 --choices greedy,drawn
    python benchmarks/host_cost.py --instructions            # by callgrind (valgrind), of a step at fewer sequences; minutes
    python benchmarks/host_cost.py --device cuda             # on a GPU that does nothing (idle_gpu.py); needs no GPU

The engine is the real one, with its scheduler, KV manager and runner; its model answers at once. Parts, by Engine.step's
own times: *plan* (what runs, its blocks reserved), *inputs* (arrays of token ids, positions, slots, block tables), *choice*
(what is asked of the model, and its answer as results; of drawn tokens the draws and the sampling kernel on 256 logits too),
*commit* (tokens recorded, stop checks), *rest* (statistics, and what the caller pays to call a step). On a GPU steps overlap,
and the parts are those of the step that is committed, without what the one behind it does meanwhile: *all* has both. Medians
over the steps of a round; of the rounds the least, as other programs on the machine only add. *all* is the thread's CPU time.
"""

import argparse
import dataclasses
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
import results_file

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.cpu.device import allocate, start
from pagecli.engine.engine import Engine
from pagecli.engine.loaded_model import LoadedModel
from pagecli.model.registry import resolve_model
from pagecli.model.tokenizer.byte_tokenizer import ByteTokenizer

PARTS = ("plan", "inputs", "choice", "commit", "rest")
NUM_STEPS = 64
MOST_TOKENS = 3 * NUM_STEPS  # of a row: none ends while others' prompts are computed, nor in the steps that are measured
VOCAB = 256
GREEDY = SamplingParams(max_tokens=MOST_TOKENS, ignore_eos=True)
CHOICES = {
    "greedy": GREEDY,
    "drawn": dataclasses.replace(GREEDY, temperature=0.8, top_p=0.9, top_k=50),
    "penalized": dataclasses.replace(GREEDY, repetition_penalty=1.1, frequency_penalty=0.1),
    "logprobs": dataclasses.replace(GREEDY, logprobs=5),
}


class AnsweringModel:
    """Computes nothing: every step has the same logits."""

    weight_bytes = 0

    def __init__(self) -> None:
        config = resolve_model("opt-125m", "dummy").config
        one = dict.fromkeys(("num_layers", "num_heads", "num_kv_heads", "head_dim", "hidden_size"), 1)
        self.config = dataclasses.replace(config, **one, vocab_size=VOCAB, max_positions=1 << 14)
        self._given = np.random.default_rng(0).permuted(np.tile(-0.2 * np.arange(VOCAB, dtype=np.float32), (4096, 1)), axis=1)
        self._logits = self._given.copy()  # penalties change them
        self._token_ids = np.full(4096, 7, dtype=np.int64)

    def start(self, settings):
        return start(self, settings, allocate)

    def forward(self, inputs, kv):
        num_rows = len(inputs.logit_rows)
        self._logits[:num_rows] = self._given[:num_rows]
        return self._logits[:num_rows]

    def most_likely(self, inputs, kv, masks):
        return self._token_ids[: len(inputs.logit_rows)]


class StepTimer:
    """An engine's listener that keeps the parts' times of every step."""

    wants_blocks = False

    def __init__(self) -> None:
        self.parts: list[tuple[float, ...]] = []

    def request_added(self, request_id, num_prompt_tokens, seq_id) -> None: ...
    def request_aborted(self, request_id) -> None: ...
    def step_computed(self, step) -> None: ...

    def step_ended(self, times, ended, outputs) -> None:
        started, planned, prepared, _, sampled, committed = times
        self.parts.append((planned - started, prepared - planned, sampled - prepared, committed - sampled))


def decode(num_sequences: int, context: int, params: SamplingParams, device: str, num_steps: int = NUM_STEPS) -> list[float]:
    """Microseconds a sequence and step, by part (but for the rest) and in total."""
    longest = context + 16 + MOST_TOKENS
    config = EngineConfig(
        "opt-125m", load_format="dummy", dtype="float32", max_num_seqs=num_sequences, max_batch_tokens=1 << 14,
        kv_memory_bytes=num_sequences * (longest // 16 + 2) * 16 * 8, max_model_len=longest + 16, threads=1, device=device,
    )  # fmt: skip
    model: Any = AnsweringModel()
    if device == "cuda":
        import idle_gpu

        model = idle_gpu.IdleModel(model.config)
    loaded = LoadedModel("opt-125m", "dummy", model, ByteTokenizer(VOCAB, ()), "float32", 1 << 14, device)
    engine = Engine(config, loaded)
    for i in range(num_sequences):
        prompt = [i % 251, i // 251, *((37 * j) % 251 for j in range(context - 2 + i % 16))]
        engine.add_request(i, prompt, params)
    while engine.scheduler.num_waiting or engine.stats()["num_sampled_tokens"] < 2 * num_sequences:
        engine.step()
    timer = engine.listener = StepTimer()
    walls = []
    for _ in range(num_steps):
        started = time.thread_time()
        engine.step()
        walls.append(time.thread_time() - started)
    columns = [*zip(*timer.parts, strict=True), walls]
    return [1e6 * statistics.median(column) / num_sequences for column in columns]


def least(num_sequences: int, context: int, params: SamplingParams, rounds: int, device: str) -> dict[str, float]:
    """The least of several rounds, part by part."""
    found = [decode(num_sequences, context, params, device) for _ in range(rounds)]
    *parts, whole = (min(column) for column in zip(*found, strict=True))
    values = [*parts, max(0.0, whole - sum(parts)), whole]
    return dict(zip((*PARTS, "all"), values, strict=True))


def measure(widths: list[int], rounds: int, device: str, choices: list[str]) -> list[dict[str, object]]:
    """One entry for each number of sequences, length of context and way to choose."""
    results: list[dict[str, object]] = []
    for name in choices:
        for context in (100, 2000):
            for width in widths:
                found = least(width, context, CHOICES[name], rounds, device)
                results.append(
                    {"device": device, "choice": name, "context": context, "sequences": width, "microseconds": found}
                )
                print_line(results[-1])
    return results


def count_instructions(device: str, width: int, choices: list[str]) -> list[dict[str, object]]:
    """Instructions of the whole process, a sequence and step: what callgrind counts more of a run of more steps."""
    results: list[dict[str, object]] = []
    for name in choices:
        counts = []
        for num_steps in (8, 40):
            run = [sys.executable, __file__, "--device", device, "--widths", str(width), "--choices", name]
            valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
            done = subprocess.run([*valgrind, *run, "--decode", str(num_steps)], capture_output=True, text=True, check=True)
            counts.append(int(done.stderr.rsplit("Collected : ", 1)[1].split()[0]))
        each = (counts[1] - counts[0]) / (32 * width)
        results.append({"device": device, "choice": name, "context": 100, "sequences": width, "instructions": each})
        print(f"{name:12}{width:>6}{each:>12,.0f} instructions", flush=True)
    return results


def print_line(result: dict) -> None:
    costs = "".join(f"{value:>8.2f}" for value in result["microseconds"].values())
    print(f"{result['choice']:12}{result['context']:>8,}{result['sequences']:>10}{costs}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="128,256,512", help="numbers of sequences, such as 128,256,512")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--choices", default=",".join(CHOICES), help="of " + ", ".join(CHOICES))
    parser.add_argument("--instructions", action="store_true", help="count instructions of the first of the widths")
    parser.add_argument("--decode", type=int, metavar="STEPS", help="nothing but so many steps, for counting")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--save", action="store_true", help="keep the results in benchmarks/results/")
    options = parser.parse_args()
    if options.device == "cuda":
        import idle_gpu

        idle_gpu.register()
    widths, choices = [int(width) for width in options.widths.split(",")], options.choices.split(",")
    if options.decode is not None:
        decode(widths[0], 100, CHOICES[choices[0]], options.device, options.decode)
        return
    if options.instructions:
        save(options, "host-cost-instructions", count_instructions(options.device, widths[0], choices))
        return
    print(f"{'choice':12}{'context':>8}{'sequences':>10}" + "".join(f"{name:>8}" for name in (*PARTS, "all")))
    save(options, f"host-cost-{options.device}", measure(widths, options.rounds, options.device, choices))


def save(options: argparse.Namespace, name: str, results: list[dict[str, object]]) -> None:
    if options.save:
        command = " ".join(["python benchmarks/host_cost.py", *sys.argv[1:]])
        print(f"saved {results_file.save(name, command, results)}", file=sys.stderr)


if __name__ == "__main__":
    main()
