"""Memory and time that sharing KV blocks saves, beside the PagedAttention paper's results (Kwon et al., SOSP 2023).

    python benchmarks/sharing.py --save                          # every part
    python benchmarks/sharing.py --parts saving --requests 64    # blocks saved by n samples and by beams (Figure 15)
    python benchmarks/sharing.py --parts samples,beams           # n = 3 beside three requests; beams beside transformers
    python benchmarks/sharing.py --parts prefix --prefix-file P.txt --suffix-file S.jsonl    # a prefix of your own (Figure 16)

The model is run and nothing simulated; the saving is the engine's own statistic: blocks saved by sharing / blocks without
sharing, mean over steps. Samples share their prompt's blocks whatever the weights, so a two-layer model with random weights
serves; which blocks beams share depends on the text, so beams run on SmolLM2 and on windows of real text. Prefix caching is
off except where it is what is measured.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import results_file
from streaming_memory import TWO_LAYERS

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.engine import Engine
from pagecli.profiler.workloads import drawn_lengths
from pagecli.profiler.workloads.prompt_tokens import uniform_ids

SAMPLE_DATA = Path(__file__).resolve().parents[1] / "sample_data"
WORKLOADS = {"alpaca": drawn_lengths.ALPACA, "sharegpt": drawn_lengths.SHAREGPT}
LONG_PROMPTS = drawn_lengths.Lengths(240, 0.5, 60, 0.8, 4, 1024)
WIDTHS = (2, 4, 6)
PAPER_SAVING = {
    ("alpaca", "samples"): ("6.09", "8.53", "9.79"),
    ("alpaca", "beams"): ("37.56", "53.13", "55.16"),
    ("sharegpt", "samples"): ("16.2 to 30.5",) * 3,
    ("sharegpt", "beams"): ("44.3 to 66.3",) * 3,
}
Request = tuple[list[int], SamplingParams]


def run(engine: Engine, requests: list[Request]) -> float:
    """Seconds that all of them take together."""
    started = time.perf_counter()
    for i, (prompt, params) in enumerate(requests):
        engine.add_request(i, prompt, params)
    while engine.has_unfinished():
        engine.step()
    return time.perf_counter() - started


def text_windows(engine: Engine, lengths: list[tuple[int, int]]) -> list[list[int]]:
    """Prompts of the wanted lengths, cut out of the sample prompts laid end to end."""
    rows = [json.loads(line) for line in (SAMPLE_DATA / "prompts.jsonl").read_text().splitlines()]
    rows += [{"prompt": json.loads(line)["suffix"]} for line in (SAMPLE_DATA / "gsm8k_8shot.jsonl").read_text().splitlines()]
    ids = engine.tokenizer.encode("\n\n".join(row["prompt"] for row in rows if "prompt" in row))
    rng = np.random.default_rng(2)
    return [ids[at : at + prompt] for prompt, _ in lengths for at in [int(rng.integers(0, len(ids) - prompt))]]


def two_layer_engine(**config: object) -> Engine:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(TWO_LAYERS | {"max_position_embeddings": 2048}))
        return Engine(EngineConfig(folder, load_format="dummy", dtype="float32", prefix_caching=False, **config))


def saving_by_arithmetic(kind: str, lengths: list[tuple[int, int]], width: int, block_size: int) -> float:
    """Shared / unshared blocks over all steps: samples share their prompt's full blocks, and beams at best all but the last."""
    saved = unshared = 0
    for prompt, output in lengths:
        for context in range(prompt + 1, prompt + output):
            common = prompt if kind == "samples" else context - 1
            saved += (width - 1) * (common // block_size)
            unshared += width * -(-context // block_size)
    return saved / unshared


def measure_saving(args: argparse.Namespace) -> dict[str, object]:
    """Figure 15: blocks saved by samples and by beams."""
    results: dict[str, object] = {}
    for name in args.workloads.split(","):
        for kind in args.kinds.split(","):
            lengths = drawn_lengths.draw(WORKLOADS[name], args.requests)
            for width, paper in zip(WIDTHS, PAPER_SAVING[name, kind], strict=True):
                row = saving_of(args, kind, lengths, width)
                results[f"{name} {kind} {width}"] = row | {"paper_percent": paper}
                print(
                    f"{name}, {kind} {width}: {row['saving_percent']:.2f} % of blocks saved (paper {paper} %; by arithmetic "
                    f"{'' if kind == 'samples' else 'at most '}{row['arithmetic_percent']:.2f} %); {row['seconds']:.1f} s",
                    flush=True,
                )
    return results


def saving_of(args: argparse.Namespace, kind: str, lengths: list[tuple[int, int]], width: int) -> dict[str, float]:
    """One bar of Figure 15: every request runs to its exact length."""
    config = {"block_size": args.block_size, "max_num_seqs": args.max_num_seqs}
    if kind == "samples":
        engine = two_layer_engine(**config)
        prompts, sampling = uniform_ids(lengths, engine.model_config.vocab_size), {"temperature": 1.0}
    else:
        engine = Engine(EngineConfig(args.model, dtype="float32", prefix_caching=False, **config))
        prompts, sampling = text_windows(engine, lengths), {"beam_width": width}
    asked = [
        (prompt, SamplingParams(n=width, max_tokens=output, ignore_eos=True, **sampling))
        for prompt, (_, output) in zip(prompts, lengths, strict=True)
    ]
    seconds, stats = run(engine, asked), engine.stats()
    counts = ("num_steps", "num_copy_on_write", "num_preemptions", "kv_blocks_peak")
    return {
        "saving_percent": 100 * stats["kv_sharing_saving"],
        "arithmetic_percent": 100 * saving_by_arithmetic(kind, lengths, width, args.block_size),
        "seconds": seconds,
        **{name: stats[name] for name in counts},
    }


def measure_samples(args: argparse.Namespace) -> dict[str, object]:
    """n = 3 in one request beside three requests, nothing found in a cache. Best of `--repeats` each, taken in turn."""
    results: dict[str, object] = {}
    engine = Engine(EngineConfig(args.timed_model, load_format="dummy", dtype="float32", prefix_caching=False))
    for name, kind in (("long prompts", LONG_PROMPTS), ("short", drawn_lengths.SHORT), ("alpaca", drawn_lengths.ALPACA)):
        lengths = drawn_lengths.draw(kind, args.timed_requests)
        prompts = uniform_ids(lengths, engine.model_config.vocab_size)
        shared = [
            (p, SamplingParams(max_tokens=t, ignore_eos=True, temperature=1.0, n=3)) for p, (_, t) in _pairs(prompts, lengths)
        ]
        apart = [
            (p, SamplingParams(max_tokens=t, ignore_eos=True, temperature=1.0, seed=i))
            for p, (_, t) in _pairs(prompts, lengths)
            for i in range(3)
        ]
        run(engine, shared[:2])
        seconds = [(run(engine, shared), run(engine, apart)) for _ in range(args.repeats)]
        together, separate = (min(times) for times in zip(*seconds, strict=True))
        num_prompt, num_output = (sum(column) for column in zip(*lengths, strict=True))
        tokens = (num_prompt + 3 * num_output) / (3 * num_prompt + 3 * num_output)
        results[name] = {"seconds_n3": together, "seconds_three": separate, "ratio": together / separate, "token_ratio": tokens}
        print(
            f"n = 3, {name} ({num_prompt / len(lengths):.0f}/{num_output / len(lengths):.0f} tokens): {together:.1f} s beside "
            f"{separate:.1f} s of three requests, {together / separate:.3f} (tokens computed: {tokens:.3f})",
            flush=True,
        )
    return results


def _pairs(prompts: list[list[int]], lengths: list[tuple[int, int]]) -> list[tuple[list[int], tuple[int, int]]]:
    return list(zip(prompts, lengths, strict=True))


def measure_beams(args: argparse.Namespace) -> dict[str, object]:
    """Beam width 4: requests per second beside transformers' generate, same shape, same lengths, random weights."""
    lengths = [(60, args.beam_tokens)] * args.timed_requests
    engine = Engine(EngineConfig(args.timed_model, load_format="dummy", dtype="float32", prefix_caching=False))
    prompts = uniform_ids(lengths, engine.model_config.vocab_size)
    asked = [(p, SamplingParams(max_tokens=args.beam_tokens, ignore_eos=True, beam_width=4, n=4)) for p in prompts]
    run(engine, asked[:2])
    ours = len(asked) / min(run(engine, asked) for _ in range(args.repeats))
    print(f"beam width 4: {ours:.3f} requests/s ({len(asked)} requests of 60 + {args.beam_tokens} tokens)", flush=True)
    results: dict[str, object] = {"requests_per_second": ours, "num_threads": engine.num_threads, "transformers": {}}
    sample = prompts[: args.peer_requests]
    for batch in (1, 8):
        theirs = len(sample) / transformers_beams(args.timed_model, sample, args.beam_tokens, batch, engine.num_threads)
        results["transformers"][f"batches of {batch}"] = theirs  # type: ignore[index]
        print(f"  transformers, batches of {batch}: {theirs:.3f} requests/s: ours {ours / theirs:.1f} times", flush=True)
    return results


def transformers_beams(model: str, prompts: list[list[int]], num_tokens: int, batch: int, threads: int) -> float:
    """Seconds of generate(num_beams=4) over prompts of one length."""
    import torch
    from throughput import transformers_model

    network = transformers_model(model, "float32", threads)
    lengths = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens}
    beams = {"num_beams": 4, "num_return_sequences": 4, "do_sample": False, "pad_token_id": 1}
    with torch.inference_mode():
        network.generate(input_ids=torch.tensor(prompts[:1]), max_new_tokens=2, min_new_tokens=2, **beams)
        started = time.perf_counter()
        for first in range(0, len(prompts), batch):
            ids = torch.tensor(prompts[first : first + batch])
            network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **lengths, **beams)
    return time.perf_counter() - started


def measure_prefix(args: argparse.Namespace) -> dict[str, object]:
    """One prefix before every row: computed prompt tokens, and requests per second with and without prefix caching."""
    prefix = Path(args.prefix_file).read_text()
    rows = [json.loads(line) for line in Path(args.suffix_file).read_text().splitlines()][: args.prefix_requests]
    results: dict[str, object] = {"file": Path(args.suffix_file).name, "num_requests": len(rows)}
    rates = {}
    for caching in (True, False):
        config = {"prefix_caching": caching, "block_size": args.block_size, "max_num_seqs": args.max_num_seqs}
        engine = Engine(EngineConfig(args.model, dtype="float32", **config))
        prompts = [engine.tokenizer.encode(prefix + row["suffix"]) for row in rows]
        run(engine, [([5, 6, 7], SamplingParams(max_tokens=2))])
        before = engine.stats()
        seconds = run(engine, [(p, SamplingParams(max_tokens=args.prefix_tokens, ignore_eos=True)) for p in prompts])
        num_decoded = len(rows) * (args.prefix_tokens - 1)
        computed = engine.stats()["num_computed_tokens"] - before["num_computed_tokens"] - num_decoded
        num_prompt = sum(map(len, prompts))
        rates[caching] = len(rows) / seconds
        results["with" if caching else "without"] = {
            "requests_per_second": rates[caching],
            "prompt_tokens": num_prompt,
            "computed_prompt_tokens": computed,
            "computed_share": computed / num_prompt,
            "seconds": seconds,
        }
        print(
            f"{results['file']}, prefix caching {'on' if caching else 'off'}: {rates[caching]:.2f} requests/s, {computed:,} of "
            f"{num_prompt:,} prompt tokens computed ({computed / num_prompt:.1%})",
            flush=True,
        )
    results |= prefix_arithmetic(prompts, args.block_size) | {"ratio": rates[True] / rates[False]}
    print(
        f"  {rates[True] / rates[False]:.2f} times (paper, over Orca Oracle: 1.67 with 80 tokens in common, 3.58 with 341); "
        f"the rows have {results['common_tokens']} tokens in common, {results['common_in_blocks']} of them in whole blocks, of "
        f"{results['mean_prompt_tokens']:.1f} on average: computing at least {results['least_computed_share']:.1%}"
    )
    return results


def prefix_arithmetic(prompts: list[list[int]], block_size: int) -> dict[str, object]:
    """What can be shared by all: the least share of prompt tokens that is left to compute with blocks of this size."""
    first = prompts[0]
    common = next(i for i in range(len(first)) if any(p[i : i + 1] != first[i : i + 1] for p in prompts))
    in_blocks, total = common // block_size * block_size, sum(map(len, prompts))
    least = (total - (len(prompts) - 1) * in_blocks) / total
    tokens = {"common_tokens": common, "common_in_blocks": in_blocks, "mean_prompt_tokens": total / len(prompts)}
    return tokens | {"least_computed_share": least}


PARTS = {"saving": measure_saving, "samples": measure_samples, "beams": measure_beams, "prefix": measure_prefix}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="which of " + ", ".join(PARTS))
    parser.add_argument("--model", default="smollm2-135m", help="of beams' savings and of shared prefixes")
    parser.add_argument("--timed-model", default="opt-125m", help="of the timed comparisons, with random weights")
    parser.add_argument("--workloads", default="alpaca,sharegpt", help="of the savings")
    parser.add_argument("--kinds", default="samples,beams", help="of the savings")
    parser.add_argument("--requests", type=int, default=64, help="of the savings")
    parser.add_argument("--timed-requests", type=int, default=32)
    parser.add_argument("--peer-requests", type=int, default=8, help="requests that transformers runs")
    parser.add_argument("--beam-tokens", type=int, default=64)
    parser.add_argument("--prefix-file", default=str(SAMPLE_DATA / "gsm8k_8shot_prefix.txt"))
    parser.add_argument("--suffix-file", default=str(SAMPLE_DATA / "gsm8k_8shot.jsonl"), help="rows with a column suffix")
    parser.add_argument("--prefix-requests", type=int, default=64)
    parser.add_argument("--prefix-tokens", type=int, default=16, help="output tokens of each request")
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    return parser.parse_args()


def main() -> None:
    args = parse()
    results = {name: PARTS[name](args) for name in args.parts.split(",")}
    if args.save:
        command = " ".join(["python", "benchmarks/sharing.py", *sys.argv[1:]])
        print(results_file.save("sharing-" + "-".join(results), command, results))


if __name__ == "__main__":
    main()
