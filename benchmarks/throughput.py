"""Output tokens per second of pagecli beside transformers, one request at a time and in static batches, in one run.

    python benchmarks/throughput.py --save                      # 128 requests, opt-125m shape, bfloat16
    python benchmarks/throughput.py --dtype float32 --systems pagecli,static

Every system runs in a process of its own, in turn, over the same rows with random weights of the same shape; only generation is
timed. Every request has its exact output length (end tokens are ignored). Static batches are left-padded, run to their longest
output, and count only the tokens their requests asked for. A slow system may take a sample of the rows (--sample N).
"""

import argparse
import json
import os
import subprocess
import sys
import time

import results_file

from pagecli.profiler import drawn_lengths
from pagecli.profiler.prompt_tokens import uniform_ids

SYSTEMS = ("pagecli", "static", "single")
VOCAB_SIZE = 50_000


def run_pagecli(model: str, dtype: str, threads: int, prompts: list[list[int]], outputs: list[int]) -> int:
    from pagecli.engine.config import EngineConfig
    from pagecli.engine.engine import Engine
    from pagecli.engine.sampling_params import SamplingParams

    engine = Engine(EngineConfig(model=model, load_format="dummy", dtype=dtype, threads=threads))

    def generate(prompts: list[list[int]], outputs: list[int]) -> int:
        for i, (prompt, length) in enumerate(zip(prompts, outputs, strict=True)):
            engine.add_request(i, prompt, SamplingParams(max_tokens=length, ignore_eos=True))
        num_tokens = 0
        while engine.has_unfinished():
            num_tokens += sum(len(done.sequences[0].token_ids) for done in engine.step())
        return num_tokens

    return timed(generate, prompts, outputs)


def transformers_model(model: str, dtype: str, threads: int):
    """The named preset's shape in transformers, with random weights."""
    import torch
    from transformers import AutoModelForCausalLM, OPTConfig

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if model != "opt-125m":
        raise SystemExit(f"transformers' side is written for opt-125m, not {model}")
    return AutoModelForCausalLM.from_config(OPTConfig()).to(getattr(torch, dtype)).eval()


def run_single(model: str, dtype: str, threads: int, prompts: list[list[int]], outputs: list[int]) -> int:
    return run_static(model, dtype, threads, prompts, outputs, batch_size=1)


def run_static(model: str, dtype: str, threads: int, prompts: list[list[int]], outputs: list[int], batch_size: int = 16) -> int:
    import torch

    network = transformers_model(model, dtype, threads)

    @torch.inference_mode()
    def generate(prompts: list[list[int]], outputs: list[int]) -> int:
        for first in range(0, len(prompts), batch_size):
            batch, longest = prompts[first : first + batch_size], max(outputs[first : first + batch_size])
            width = max(map(len, batch))
            ids = torch.tensor([[1] * (width - len(p)) + p for p in batch])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
            lengths = {"max_new_tokens": longest, "min_new_tokens": longest}
            network.generate(input_ids=ids, attention_mask=mask, do_sample=False, pad_token_id=1, **lengths)
        return sum(outputs)

    return timed(generate, prompts, outputs)


def timed(generate, prompts: list[list[int]], outputs: list[int]) -> int:
    """Warm up on two short rows, then time all; prints one JSON line."""
    generate(prompts[:2], [4, 4])
    started = time.perf_counter()
    num_tokens = generate(prompts, outputs)
    seconds = time.perf_counter() - started
    assert num_tokens == sum(outputs), "a request did not get its exact length"
    print(json.dumps({"output_tokens": num_tokens, "seconds": seconds, "tokens_per_second": num_tokens / seconds}), flush=True)
    return num_tokens


def run_one(args: argparse.Namespace) -> None:
    """In the child process: one system, its rows."""
    lengths = drawn_lengths.draw(drawn_lengths.SHORT, args.requests)
    prompts = uniform_ids(lengths, VOCAB_SIZE)
    num_rows = len(prompts) if args.one == "pagecli" or args.sample is None else args.sample
    run = {"pagecli": run_pagecli, "static": run_static, "single": run_single}[args.one]
    run(args.model, args.dtype, args.threads, prompts[:num_rows], [output for _, output in lengths[:num_rows]])


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Tokens per second of every run of every system, the systems in turn."""
    speeds: dict[str, list[float]] = {system: [] for system in args.systems.split(",")}
    for _ in range(args.repeat):
        for system, results in speeds.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--one", system]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            results.append(result["tokens_per_second"])
            print(f"{system:8} {result['tokens_per_second']:8.1f} tokens/s  ({result['seconds']:.1f} s)", flush=True)
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="opt-125m")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32", "int8"])
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--sample", type=int, help="rows that transformers runs (default: all)")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    parser.add_argument("--one", choices=SYSTEMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args)
        return
    speeds = measure(args)
    median = {system: sorted(values)[len(values) // 2] for system, values in speeds.items()}
    for system in median:
        if system != "pagecli" and "pagecli" in median:
            print(f"pagecli / {system}: {median['pagecli'] / median[system]:.1f}")
    if args.save:
        command = " ".join(["python", "benchmarks/throughput.py", *sys.argv[1:]])
        print(results_file.save(f"throughput-{args.model}-{args.dtype}", command, speeds))


if __name__ == "__main__":
    main()
