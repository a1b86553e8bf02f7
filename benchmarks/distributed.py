"""One job over several processes: tensor parallel, pools of engines, and what larger ones could do.

    python benchmarks/distributed.py --save            # opt-125m's shape with random weights, 64 short requests
    python benchmarks/distributed.py --save --only engines     # a part of it: engines, jobs

Measured, one after the other on one machine with all its cores, of each the median of --repeats runs
behind one that is not counted: one process; one process
that sums in as many segments as there are ranks; as many ranks, a thread each; pools of one, two and three workers. `waited` is
the largest share of the time that a rank waited for another before a sum, skew included. Then half of the requests as jobs of
the command line, start and loading included: by one process, and in eight parts by one and by two, with a part's rows in a
batch. A reduction is that of [64 x 768] between two processes, alone.

Simulated, with the arithmetic: a pool of W workers does W times the rows of one, until the driver, which reads, tokenizes,
journals and writes (--driver-us a row, by default what was measured), has no time left.
"""

import argparse
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import results_file

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.cpu import kernels
from pagecli.engine import loaded_model
from pagecli.engine.engine import Engine
from pagecli.engine.replicas import config_of_each
from pagecli.jobs.workers.pool import EnginePool
from pagecli.jobs.workers.sources import LocalWorkers
from pagecli.profiler.workloads import drawn_lengths

SIMULATED = (8, 64)
PARTS = 8


def run(engine: Any, lengths: list[tuple[int, int]]) -> tuple[float, list[str]]:
    """(seconds, what came out in the order of the requests) of all requests; engine: an Engine or a pool."""
    started = time.perf_counter()
    for request_id, (num_prompt, num_output) in enumerate(lengths):
        prompt = [3 + (request_id * 31 + i * 7) % 9000 for i in range(num_prompt)]
        engine.add_request(request_id, prompt, SamplingParams(max_tokens=num_output, ignore_eos=True))
    found = {}
    while engine.has_unfinished():
        found |= {output.request_id: repr(output.sequences) for output in engine.step()}
    return time.perf_counter() - started, [found[request_id] for request_id in range(len(lengths))]


def measure(name: str, engine: Any, lengths: list[tuple[int, int]], repeats: int) -> tuple[dict[str, Any], list[str]]:
    """One row of the table; ends the engine. AssertionError if a run's output is not the first one's."""
    try:
        while len(engine.stats().get("workers", ())) < engine.num_replicas > 1:  # all of a pool's have loaded
            engine.step()
        run(engine, lengths)  # first uses, of memory too
        waited = max((rank["waited_seconds"] for rank in engine.stats().get("ranks", ())), default=None)
        taken, texts = [], list[str]()
        for _ in range(repeats):
            seconds, found = run(engine, lengths)
            assert found == (texts or found), "another output"
            texts = found
            taken.append(seconds)
        seconds = float(np.median(taken))
        row: dict[str, Any] = {"case": name, "seconds": seconds, "tokens_per_second": sum(out for _, out in lengths) / seconds}
        row["of_each_run"] = taken
        if waited is not None:
            after = max(rank["waited_seconds"] for rank in engine.stats()["ranks"])
            row["waited"] = (after - waited) / sum(taken)
        return row, texts
    finally:
        engine.close()


def cases(settings: dict[str, Any], threads: int, ranks: int) -> list[tuple[str, Any]]:
    """(name, a function that makes the engine)"""

    def one(**changes: Any) -> Engine:
        return Engine(EngineConfig(**{**settings, "threads": threads, **changes}))

    def pool(count: int) -> EnginePool:
        config = EngineConfig(**settings)
        each = config_of_each(config, loaded_model.resolve(config), count)
        return EnginePool(each, count, LocalWorkers())

    each_rank = max(1, threads // ranks)
    return [
        (f"one process, {threads} threads", one),
        (f"one process, {threads} threads, {ranks} segments", lambda: one(sum_segments=ranks)),
        (f"{ranks} ranks, {each_rank} threads each", lambda: one(tensor_parallel_size=ranks, threads=each_rank)),
        *((f"pool of {count}", lambda count=count: pool(count)) for count in (1, 2, 3)),
    ]


def jobs(settings: dict[str, Any], lengths: list[tuple[int, int]], threads: int) -> list[dict[str, Any]]:
    """The same rows by the command line: in one process, and in parts. AssertionError if the outputs differ."""
    rows, expected = [], b""
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/in.jsonl", "w") as file:
            for index, (num_prompt, num_output) in enumerate(lengths):
                prompt = [3 + (index * 31 + i * 7) % 9000 for i in range(num_prompt)]
                file.write(json.dumps({"prompt_token_ids": prompt, "max_tokens": num_output}) + "\n")
        command = [sys.executable, "-m", "pagecli", "generate", "in.jsonl", "out.jsonl", "--ignore-eos", "--quiet"]
        command += ["--model", settings["model"], "--load-format", "dummy", "--dtype", settings["dtype"]]
        command += ["--max-num-seqs", str(max(1, len(lengths) // PARTS)), "--kv-memory", "512MiB"]
        for name, count, parts in (("job", 1, 0), (f"job in {PARTS} parts", 1, PARTS), (f"job in {PARTS} parts", 2, PARTS)):
            flags = ["--threads", str(max(1, threads // count)), *(["--shard", f"auto/{parts}"] if parts else [])]
            started = time.perf_counter()
            processes = [subprocess.Popen([*command, *flags], cwd=folder) for _ in range(count)]
            codes = [process.wait() for process in processes]
            seconds = time.perf_counter() - started
            assert not any(codes), codes
            found = Path(folder, "out.jsonl").read_bytes()
            assert found == (expected or found), "another output"
            expected = found
            name = f"{name}, {count} process{'es' if count > 1 else ''}"
            rows.append({"case": name, "seconds": seconds, "tokens_per_second": sum(out for _, out in lengths) / seconds})
            for left in Path(folder).glob("*out.jsonl*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return rows


def reduction_us(tokens: int = 64, width: int = 768, rounds: int = 4000) -> dict[str, float]:
    """Of a sum of two parts between two processes of a thread each, waiting included: median and 10th percentile."""
    shared = mmap.mmap(-1, 1 << 20)
    words = np.frombuffer(shared, np.int32, 48).reshape(3, 16)
    parts = np.frombuffer(shared, np.float32, 4 * tokens * width, 4096).reshape(2, 2, tokens, width)
    other = os.fork()
    kernels.set_num_threads(1)
    meeting, out = kernels.rendezvous(words, int(other == 0), 60.0), np.zeros((tokens, width), np.float32)
    taken = []
    for number in range(rounds):
        started = time.perf_counter()
        kernels.reduce(out, list(parts[number % 2]), False, meeting)
        taken.append((time.perf_counter() - started) * 1e6)
    if other == 0:
        os._exit(0)
    os.waitpid(other, 0)
    return {"median_us": float(np.median(taken)), "p10_us": float(np.percentile(taken, 10))}


def simulated(rows_per_second: float, driver_us: float) -> list[dict[str, Any]]:
    most = 1e6 / driver_us
    return [
        {
            "workers": count,
            "rows_per_second": min(count * rows_per_second, most),
            "arithmetic": f"min({count} x {rows_per_second:,.1f}, 1 / {driver_us:g} us = {most:,.0f})",
        }
        for count in SIMULATED
    ]


def of_engines(settings: dict[str, Any], lengths: list[tuple[int, int]], args: argparse.Namespace) -> dict[str, Any]:
    """Ranks, segments and pools beside one process, a reduction alone, and what larger pools could do."""
    reduction, rows, texts = reduction_us(), [], {}
    for name, make in cases(settings, args.threads, args.ranks):
        row, texts[name] = measure(name, make(), lengths, args.repeats)
        row["of_one_process"] = rows[0]["seconds"] / row["seconds"] if rows else 1.0
        row["same_text_as"] = next(other for other in texts if texts[other] == texts[name])
        rows.append(row)
        waited = "" if "waited" not in row else f", waited {row['waited']:.1%}"
        shown = f"{row['tokens_per_second']:,.1f} tokens/s, {row['of_one_process']:.2f} of one process{waited}"
        print(f"{name}: {shown}, the text of {row['same_text_as']}", flush=True)
    print(f"a reduction of [64 x 768]: {reduction['median_us']:.1f} us (median), {reduction['p10_us']:.1f} us (p10)")
    larger = simulated(args.requests / rows[0]["seconds"], args.driver_us)
    for row in larger:
        print(f"pool of {row['workers']} (simulated): {row['rows_per_second']:,.0f} rows/s = {row['arithmetic']}")
    return {"measured": rows, "reduction": reduction, "simulated": larger}


def of_jobs(settings: dict[str, Any], lengths: list[tuple[int, int]], args: argparse.Namespace) -> dict[str, Any]:
    rows = jobs(settings, lengths[: args.requests // 2], args.threads)
    for row in rows:
        row["of_the_job"] = rows[0]["seconds"] / row["seconds"]
        print(f"{row['case']}: {row['tokens_per_second']:,.1f} tokens/s, {row['of_the_job']:.2f} of the job")
    return {"jobs": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="opt-125m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--threads", type=int, default=loaded_model.usable_cores())
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--driver-us", type=float, default=187.0, help="of the driver's CPU a row")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("engines", "jobs"))
    parser.add_argument("--save", action="store_true", help="keep the results under benchmarks/results/")
    args = parser.parse_args()
    settings = {
        "model": args.model,
        "load_format": "dummy",
        "dtype": args.dtype,
        "kv_memory_bytes": 1 << 30,
        "max_num_seqs": 64,
    }
    lengths = drawn_lengths.draw(drawn_lengths.SHORT, args.requests)
    for part, measured in (("engines", of_engines), ("jobs", of_jobs)):
        if args.only in (None, part):
            found = measured(settings, lengths, args)
            command = f"python benchmarks/distributed.py --model {args.model} --dtype {args.dtype} --requests {args.requests}"
            if args.save:
                print(results_file.save(f"distributed-{part}-{args.model}-{args.dtype}", f"{command} --only {part}", found))


if __name__ == "__main__":
    main()
