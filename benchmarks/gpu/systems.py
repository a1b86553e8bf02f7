"""One system over one model shape with dummy weights, in a process of its own, for a limited time; prints a line of JSON for
each measurement as it is made, so that a stopped process has printed those before.

    python systems.py pagecli|transformers|vllm --model opt-13b --requests 1000 --seconds 60 --out DIR
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import timing
import torch
from model_shapes import Workload, model_directory, requests
from timing import DEVICE

from pagecli.model.registry import resolve_model
from pagecli.profiler.hardware.monitor import HardwareMonitor

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for peers/

MARK = "RESULT "
STATIC_BATCH = 32


def report(way: str, output_tokens: int, seconds: float, joules: float | None, **more: object) -> None:
    per_token = None if joules is None or not output_tokens else joules / output_tokens
    row = {"way": way, "output_tokens": output_tokens, "seconds": seconds, "tokens_per_second": output_tokens / seconds}
    print(MARK + json.dumps(row | {"joules_per_token": per_token} | more), flush=True)


def report_failure(way: str, error: Exception) -> None:
    """A way that does not run on this model or this version is a line of the table; the ways after it run."""
    said = str(error).strip().splitlines()
    row = {"way": way, "error": f"{type(error).__name__}: {said[0] if said else 'no message'}"}
    print(MARK + json.dumps(row), flush=True)


def metered(work: Callable[[], Any]) -> tuple[Any, float, float | None]:
    """The result of `work`, the seconds it took, and the joules that the GPUs took (None where NVML has no reading)."""
    started = time.perf_counter()
    with HardwareMonitor(started) as monitor:
        timing.synchronize()
        started = time.perf_counter()
        result = work()
        timing.synchronize()
        seconds = time.perf_counter() - started
    readings: dict[str, list[float]] = {}
    for sample in monitor.samples:
        if sample.energy_joules is not None and sample.device.startswith("gpu"):
            readings.setdefault(sample.device, []).append(sample.energy_joules)
    joules = sum(energy[-1] - energy[0] for energy in readings.values()) if readings else None
    return result, seconds, joules


def run_pagecli(directory: Path, workload: Workload, options: argparse.Namespace) -> None:
    """n = 1 over all requests, then n = 3 over a third of them."""
    import engine_run

    limits = timing.limits(options.out, options.tiny)
    settings: dict[str, object] = {"kv_dtype": options.kv_dtype} if options.kv_dtype else {}
    started = time.perf_counter()
    engine = engine_run.build(engine_run.engine_config(str(directory), options.tiny, dtype=options.dtype, **settings))
    print(f"{options.model}: loaded in {time.perf_counter() - started:.1f} s", flush=True)
    third = len(workload.prompts) // 3
    parts = {
        1: (workload, options.seconds * 0.7),
        3: (Workload(workload.prompts[:third], workload.outputs[:third]), options.seconds * 0.3),
    }
    for n in options.samples:
        part, seconds = parts[n]
        done, taken, joules = metered(lambda part=part, seconds=seconds, n=n: engine_run.run(engine, part, limits, seconds, n))
        types = "".join(f" {name}" for name in (options.dtype, options.kv_dtype) if name not in (None, "bfloat16"))
        report(
            f"pagecli{types}, n = {n}",
            done.output_tokens,
            taken,
            joules,
            requests=done.num_requests,
            whole=done.whole,
            mean_running=done.mean_running,
            roofline_share=done.roofline_share,
            kv_slot_utilization=done.stats["kv_slot_utilization"],
            num_preemptions=done.stats["num_preemptions"],
        )


def run_transformers(directory: Path, workload: Workload, options: argparse.Namespace) -> None:
    """generate one by one, generate in static batches, and continuous batching, a share of the time each."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(directory)
    attention = "sdpa"
    with DEVICE:
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention
        ).eval()
    share = options.seconds / 4
    batches = [(workload.prompts[i : i + 1], workload.outputs[i : i + 1]) for i in range(len(workload.prompts))]
    size = STATIC_BATCH
    static = [(workload.prompts[i : i + size], workload.outputs[i : i + size]) for i in range(0, len(workload.prompts), size)]
    with suppress(Exception):  # warms up; what fails is said by the ways below
        generate(model, [([[5, 6, 7]], [2])], 60.0)
    ways: dict[str, Callable[[], tuple[int, int, bool]]] = {
        "transformers one by one": lambda: generate(model, batches, share),
        f"transformers static batches of {size}": lambda: generate(model, static, 1.5 * share),
        "transformers continuous batching": lambda: continuous(model, workload, 1.5 * share, options.tiny),
    }
    for way, work in ways.items():
        try:
            (tokens, num_done, whole), taken, joules = metered(work)
        except Exception as error:
            report_failure(way, error)
        else:
            report(way, tokens, taken, joules, requests=num_done, whole=whole)


@torch.inference_mode()
def generate(model: Any, batches: list[tuple[list[list[int]], list[int]]], seconds: float) -> tuple[int, int, bool]:
    """(tokens asked for and generated, requests, whether all) of left-padded batches that run to their longest output.

    A batch that time stops counts with the tokens it has: its rows had not begun to finish, which flatters it.
    """
    started, tokens, num_done = time.perf_counter(), 0, 0
    for prompts, outputs in batches:
        left = seconds - (time.perf_counter() - started)
        if left <= 0:
            return tokens, num_done, False
        width = max(map(len, prompts))
        ids = torch.tensor([[1] * (width - len(p)) + p for p in prompts], device=DEVICE)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=DEVICE)
        lengths = {"max_new_tokens": max(outputs), "min_new_tokens": max(outputs), "max_time": left}
        found = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, pad_token_id=1, **lengths)
        generated = found.shape[1] - width
        tokens += sum(min(generated, length) for length in outputs)
        num_done += sum(generated >= length for length in outputs)
    return tokens, num_done, num_done == sum(len(outputs) for _, outputs in batches)


def continuous(model: Any, workload: Workload, seconds: float, tiny: bool) -> tuple[int, int, bool]:
    """(tokens, finished requests, whether all) of transformers' own continuous batching with its own choice of settings."""
    from peers.paged_cache_length import add_paged_cache_length
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    add_paged_cache_length()
    sizes = {"num_blocks": 8, "max_batch_tokens": 64, "use_cuda_graph": False} if tiny else {}
    settings = ContinuousBatchingConfig(allow_block_sharing=False, **sizes)
    generation = GenerationConfig(do_sample=False, max_new_tokens=1024, eos_token_id=-1, pad_token_id=1)
    lengths: dict[str, int] = {}
    num_done, started = 0, time.perf_counter()
    with (
        torch.inference_mode(),
        model.continuous_batching_context_manager(
            generation_config=generation, continuous_batching_config=settings, warmup=not tiny, block=False
        ) as manager,
    ):
        for i, (prompt, length) in enumerate(zip(workload.prompts, workload.outputs, strict=True)):
            manager.add_request(prompt, request_id=str(i), max_new_tokens=length, eos_token_id=-1, streaming=True)
        while num_done < len(workload.prompts) and time.perf_counter() - started < seconds and manager.is_running():
            found = manager.get_result(timeout=0.5)
            if found is None:
                continue
            if found.error:
                raise RuntimeError(found.error)
            lengths[found.request_id] = len(found.generated_tokens)
            num_done += bool(found.is_finished())
    return sum(lengths.values()), num_done, num_done == len(workload.prompts)


def run_vllm(directory: Path, workload: Workload, options: argparse.Namespace) -> None:
    """vLLM's offline engine with its own choice of settings, all requests at once."""
    import vllm

    model = vllm.LLM(
        model=str(directory),
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype="bfloat16",
        enable_prefix_caching=False,
        max_num_seqs=512,
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in workload.prompts]
    third = len(prompts) // 3
    for n, rows in ((1, prompts), (3, prompts[:third])):
        settings = [
            vllm.SamplingParams(n=n, max_tokens=length, ignore_eos=True, temperature=0.0 if n == 1 else 1.0, detokenize=False)
            for length in workload.outputs[: len(rows)]
        ]
        found, taken, joules = metered(lambda rows=rows, settings=settings: model.generate(rows, settings, use_tqdm=False))
        tokens = sum(len(sample.token_ids) for output in found for sample in output.outputs)
        report(f"vLLM {vllm.__version__}, n = {n}", tokens, taken, joules, requests=len(rows), whole=True)


RUNNERS = {"pagecli": run_pagecli, "transformers": run_transformers, "vllm": run_vllm}


def results_in(output: str) -> Iterator[dict[str, Any]]:
    """The measurements in what a process printed, whole lines only."""
    for line in itertools.filterfalse(lambda line: not line.startswith(MARK), output.splitlines()):
        with suppress(ValueError):  # cut off where the process was stopped
            yield json.loads(line.removeprefix(MARK))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=RUNNERS)
    parser.add_argument("--model", required=True, help="a preset of pagecli")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="of generation, for all measurements together")
    parser.add_argument("--samples", type=int, nargs="*", default=[1, 3], choices=[1, 3], help="pagecli's n")
    parser.add_argument("--dtype", default="bfloat16", help="pagecli's")
    parser.add_argument("--kv-dtype", help="pagecli's")
    parser.add_argument("--out", type=Path, required=True, help="where the ceilings are kept")
    parser.add_argument("--tiny", action="store_true", help="the architecture alone: shows that it runs")
    options = parser.parse_args()
    directory = model_directory(options.model, options.tiny)
    vocab_size = resolve_model(str(directory), "dummy").config.vocab_size
    RUNNERS[options.system](directory, requests(options.requests, vocab_size, options.tiny), options)


if __name__ == "__main__":
    main()
