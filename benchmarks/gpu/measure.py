"""Measures a GPU's ceilings and every kernel against them. Run by run.sh; `python measure.py ceilings|kernels --out DIR`."""

import argparse
import json
import statistics
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from kernel_cases import MAKERS, Case, Sizes

from pagecli.kernels import cuda


def seconds_of(launches: list[Callable[[], object]], repeats: int = 20) -> float:
    """Median time of one launch: all are recorded into a graph once, so that the host's own time stays out."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for launch in launches:  # loads modules, makes handles
            launch()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for launch in launches:
                launch()
        times = []
        for _ in range(repeats + 3):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record(stream)
            graph.replay()
            end.record(stream)
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3 / len(launches))
    return statistics.median(times[3:])


def ceilings() -> dict[str, float]:
    """copy_bytes_per_s (read plus written) and bf16_flops_per_s of a large product of random matrices."""
    source = torch.randn(2**30, device="cuda")
    target = torch.empty_like(source)
    copy = seconds_of([lambda: target.copy_(source)])
    size = 8192
    a, b = (torch.randn(size, size, device="cuda").bfloat16() for _ in range(2))
    out = torch.empty_like(a)
    product = seconds_of([lambda: torch.mm(a, b, out=out)])
    return {"copy_bytes_per_s": 2 * source.numel() * 4 / copy, "bf16_flops_per_s": 2 * size**3 / product}


def measure(case: Case, limits: dict[str, float]) -> dict[str, object]:
    ours = seconds_of([lambda a=arguments: case.ours(*a) for arguments in case.sets])
    theirs = None
    if case.torchs is not None:
        try:
            theirs = seconds_of([lambda a=arguments: case.torchs(*a) for arguments in case.sets])
        except (RuntimeError, torch.OutOfMemoryError):
            traceback.print_exc()
    floor = max(case.num_bytes / limits["copy_bytes_per_s"], case.num_operations / limits["bf16_flops_per_s"])
    return {
        "case": case.name,
        "bytes": case.num_bytes,
        "operations": case.num_operations,
        "floor_us": floor * 1e6,
        "ours_us": ours * 1e6,
        "share_of_floor": floor / ours,
        "bandwidth_share": case.num_bytes / ours / limits["copy_bytes_per_s"],
        "torch": case.torch_name,
        "torch_us": theirs and theirs * 1e6,
    }


def table(rows: list[dict[str, object]]) -> str:
    lines = ["| kernel | floor us | ours us | share of floor | torch us | torch's way |", "|---|---|---|---|---|---|"]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['case']} | - | failed: {row['error']} | - | - | - |")
            continue
        theirs = f"{row['torch_us']:.1f}" if row["torch_us"] else "-"
        share = f"{row['share_of_floor']:.0%}"
        lines.append(f"| {row['case']} | {row['floor_us']:.1f} | {row['ours_us']:.1f} | {share} | {theirs} | {row['torch']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["ceilings", "kernels"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(MAKERS))
    options = parser.parse_args()
    device = cuda.extension().current_device()
    ceilings_file = options.out / "ceilings.json"
    if options.part == "ceilings" or not ceilings_file.exists():
        limits = ceilings()
        ceilings_file.write_text(json.dumps(limits | {"device": device, "torch": torch.__version__}, indent=2) + "\n")
    limits = json.loads(ceilings_file.read_text())
    print(
        f"{device['name']}: copy {limits['copy_bytes_per_s'] / 1e12:.2f} TB/s,",
        f"bf16 {limits['bf16_flops_per_s'] / 1e12:.0f} TFLOP/s",
    )
    if options.part == "ceilings":
        return
    rows: list[dict[str, object]] = []
    for name in options.only:
        try:
            rows.append(measure(MAKERS[name](Sizes(torch.device("cuda"), False, device["multiprocessors"])), limits))
        except (RuntimeError, ValueError) as error:  # the others are still worth having
            traceback.print_exc()
            rows.append({"case": name, "error": str(error).splitlines()[0]})
        torch.cuda.empty_cache()
        (options.out / "kernels.json").write_text(json.dumps(rows, indent=2) + "\n")
        (options.out / "kernels.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
