"""Whether memory grows with the number of rows: 200,000 short rows through a 2-layer model, RSS watched from outside.

    python benchmarks/streaming_memory.py --save

Prints the RSS at every tenth of the run. The output file is checked: one row for each input row, in order.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import results_file

TWO_LAYERS = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "eos_token_id": 2,
    "bos_token_id": 1,
}


def rss_mib(pid: int) -> float | None:
    """Resident memory of a process; None when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    lines = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(lines[0].split()[1]) / 1024 if lines else None


def write_job(folder: Path, num_rows: int) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(TWO_LAYERS))
    with (folder / "in.jsonl").open("w") as file:
        file.writelines(json.dumps({"id": f"row-{i}", "prompt": f"row number {i}"}) + "\n" for i in range(num_rows))


def run_job(folder: Path, output: Path) -> list[tuple[float, float]]:
    """Run the command; (seconds since its start, RSS in MiB) twice a second."""
    command = [sys.executable, "-m", "pagecli", "generate", str(folder / "in.jsonl"), str(output), "--quiet"]
    command += [
        "--model",
        str(folder / "model"),
        "--load-format",
        "dummy",
        "--max-tokens",
        "4",
        "--stats",
        str(folder / "stats.json"),
    ]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    samples = []
    while process.poll() is None:
        rss = rss_mib(process.pid)
        if rss is not None:
            samples.append((time.perf_counter() - started, rss))
        time.sleep(0.5)
    if process.returncode != 0:
        raise SystemExit(f"the job ended with exit code {process.returncode}")
    return samples


def check_output(output: Path, num_rows: int) -> None:
    at = 0
    for batch in pq.ParquetFile(output).iter_batches(columns=["id"]):
        for row_id in batch.column(0).to_pylist():
            assert row_id == f"row-{at}", f"row {at} is {row_id}"
            at += 1
    assert at == num_rows, f"{at} rows of {num_rows}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--save", action="store_true", help="keep the result under benchmarks/results/")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_job(folder, args.rows)
        samples = run_job(folder, folder / "out.parquet")
        check_output(folder / "out.parquet", args.rows)
        stats = json.loads((folder / "stats.json").read_text())
    tenths = [samples[min(len(samples) - 1, len(samples) * tenth // 10)] for tenth in range(1, 11)]
    for seconds, rss in tenths:
        print(f"{seconds:7.1f} s  {rss:8.1f} MiB")
    growth = tenths[-1][1] - tenths[1][1]
    print(
        f"growth from 20 % to the end: {growth:+.1f} MiB; {args.rows / samples[-1][0]:.0f} rows/s, start and loading included"
    )
    if args.save:
        command = " ".join(["python", "benchmarks/streaming_memory.py", *sys.argv[1:]])
        results = {"rss_mib_by_tenth": tenths, "growth_mib": growth, "stats": stats}
        print(results_file.save("streaming-memory", command, results))


if __name__ == "__main__":
    main()
