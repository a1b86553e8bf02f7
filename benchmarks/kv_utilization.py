"""KV slot utilization on lengths like the PagedAttention paper's, with the model run and not simulated.

    python benchmarks/kv_utilization.py --save

The paper (Kwon et al., SOSP 2023, Figure 2) reports 96.3 % for vLLM, and 20.4 to 38.2 % for contiguous allocation.
"""

import argparse
import json
import sys

import results_file

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.engine import Engine
from pagecli.profiler.workloads import drawn_lengths
from pagecli.profiler.workloads.prompt_tokens import uniform_ids

WORKLOADS = {"sharegpt": drawn_lengths.SHAREGPT, "alpaca": drawn_lengths.ALPACA}


def run(engine: Engine, lengths: list[tuple[int, int]]) -> dict[str, object]:
    """Run every request to its exact length; the engine's own statistics."""
    prompts = uniform_ids(lengths, engine.model_config.vocab_size)
    for i, (prompt, (_, output)) in enumerate(zip(prompts, lengths, strict=True)):
        engine.add_request(i, prompt, SamplingParams(max_tokens=output, ignore_eos=True))
    while engine.has_unfinished():
        engine.step()
    return engine.stats()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="opt-125m")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--workloads", default="sharegpt,alpaca")
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    args = parser.parse_args()
    results = {}
    for name in args.workloads.split(","):
        engine = Engine(EngineConfig(model=args.model, load_format="dummy", block_size=args.block_size))
        stats = run(engine, drawn_lengths.draw(WORKLOADS[name], args.requests))
        results[name] = stats
        print(f"{name}: kv_slot_utilization {stats['kv_slot_utilization']:.4f} over {stats['num_steps']} steps", flush=True)
    if args.save:
        command = " ".join(["python", "benchmarks/kv_utilization.py", *sys.argv[1:]])
        print(results_file.save("kv-utilization", command, results))
    else:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
