"""Speed of the LM head's bound-and-prune argmax (quantized_bounds.py): the same greedy requests with and without, in turn.

    python benchmarks/pruned_argmax.py --model opt-125m --dtype float32 --save           # 64 requests of mean length 60 + 80
    python benchmarks/pruned_argmax.py --dtype bfloat16 --requests 1 --rounds 15 --save  # smollm2-135m, one prompt

Prints the ratio of each round's two runs, and how many of the head's panels (16 tokens of a row) were computed from the weights
in spite of the bounds. The tokens of both are compared.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import results_file

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.cpu import kernels
from pagecli.engine.engine import Engine
from pagecli.profiler.workloads import drawn_lengths
from pagecli.profiler.workloads.prompt_tokens import uniform_ids

SAMPLE_PROMPTS = Path(__file__).resolve().parents[1] / "sample_data" / "prompts.jsonl"
MODELS = {"opt-125m": "dummy", "smollm2-135m": "auto"}  # load formats
OUTPUT_TOKENS = 80
Requests = list[tuple[list[int], int]]  # prompt, output tokens


def requests_for(engine: Engine, count: int) -> Requests:
    """Sample prompts for a real model, random tokens for a random one."""
    if MODELS[engine.config.model] == "dummy":
        lengths = drawn_lengths.draw(drawn_lengths.SHORT, count)
        prompts = uniform_ids(lengths, engine.model_config.vocab_size)
        return [(prompt, output) for prompt, (_, output) in zip(prompts, lengths, strict=True)]
    with SAMPLE_PROMPTS.open() as lines:
        texts = [json.loads(line)["prompt"] for line in itertools.islice(lines, count)]
    return [(engine.tokenizer.apply_chat_template([{"role": "user", "content": t}]), OUTPUT_TOKENS) for t in texts]


def generate(engine: Engine, requests: Requests) -> tuple[float, dict[int, list[int]]]:
    """(output tokens a second, tokens by request)"""
    started = time.perf_counter()
    for i, (prompt, length) in enumerate(requests):
        engine.add_request(i, prompt, SamplingParams(max_tokens=length, ignore_eos=True))
    tokens: dict[int, list[int]] = {}
    while engine.has_unfinished():
        for done in engine.step():
            tokens[done.request_id] = done.sequences[0].token_ids
    return sum(map(len, tokens.values())) / (time.perf_counter() - started), tokens


def panels_computed(engine: Engine, requests: Requests) -> tuple[int, int]:
    """(panels computed from the weights, rows) of one more run, with the bounds."""
    original, counted = kernels.linear_argmax, [0, 0]

    def counting(out, x, weight, bounds):
        computed = original(out, x, weight, bounds)
        counted[0] += computed
        counted[1] += x.shape[0]
        return computed

    kernels.linear_argmax = counting  # type: ignore[assignment]
    try:
        generate(engine, requests)
    finally:
        kernels.linear_argmax = original
    return counted[0], counted[1]


def run(engine: Engine, requests: Requests, rounds: int) -> dict:
    head = engine.loaded.model.lm_head
    bounds, pairs = head.bounds, []
    generate(engine, requests[:2])  # first uses
    for i in range(rounds):
        speeds, texts = {}, {}
        for used in (None, bounds) if i % 2 == 0 else (bounds, None):
            head.bounds = used
            speeds[used is bounds], texts[used is bounds] = generate(engine, requests)
        assert texts[True] == texts[False], "the bounds changed a token"
        pairs.append((speeds[False], speeds[True]))
        print(
            f"without {pairs[-1][0]:.1f} tokens/s, with {pairs[-1][1]:.1f}: {pairs[-1][1] / pairs[-1][0]:.3f} times", flush=True
        )
    head.bounds = bounds
    computed, rows = panels_computed(engine, requests)
    return {
        "ratio": statistics.median(after / before for before, after in pairs),
        "tokens_per_second": {"without": [before for before, _ in pairs], "with": [after for _, after in pairs]},
        "panels_computed_per_row": computed / rows,
        "panels": -(-head.weight.num_rows // 16),
        "kept": head.bounds is not None,
        "bounds_bytes": bounds.nbytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="smollm2-135m")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    args = parser.parse_args()
    engine = Engine(EngineConfig(args.model, load_format=MODELS[args.model], dtype=args.dtype, prefix_caching=False))
    result = run(engine, requests_for(engine, args.requests), args.rounds)
    print(
        f"{args.model}, {args.dtype}, {args.requests} requests: {result['ratio']:.2f} times as fast with the bounds (median); "
        f"{result['panels_computed_per_row']:.1f} of {result['panels']:,} panels a row computed from the weights; same tokens"
    )
    if args.save:
        command = " ".join(["python", "benchmarks/pruned_argmax.py", *sys.argv[1:]])
        print(results_file.save(f"pruned-argmax-{args.model}-{args.dtype}-{args.requests}", command, result))


if __name__ == "__main__":
    main()
