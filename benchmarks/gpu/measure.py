"""Measures a GPU's ceilings and every kernel against them. Run by run.sh; `python measure.py ceilings|kernels --out DIR`."""

import argparse
import json
import time
import traceback
from pathlib import Path

import timing
import torch
from kernel_cases import MAKERS, Case, Sizes
from timing import DEVICE, seconds_of

from pagecli.devices.cuda import kernels


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
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which no further kernel is begun")
    parser.add_argument("--tiny", action="store_true", help="the same at next to no size: shows that it runs")
    options = parser.parse_args()
    started, device = time.perf_counter(), kernels.extension().current_device()
    limits = timing.limits(options.out, options.tiny, measure_again=options.part == "ceilings")
    print(
        f"{device['name']}: copy {limits['copy_bytes_per_s'] / 1e12:.2f} TB/s,",
        f"bf16 {limits['bf16_flops_per_s'] / 1e12:.0f} TFLOP/s",
    )
    if options.part == "ceilings":
        return
    rows: list[dict[str, object]] = []
    for name in options.only:
        try:
            if time.perf_counter() - started > options.limit:
                raise RuntimeError("no time was left")
            rows.append(measure(MAKERS[name](Sizes(DEVICE, options.tiny)), limits))
        except (RuntimeError, ValueError) as error:  # the others are still worth having
            traceback.print_exc()
            rows.append({"case": name, "error": str(error).splitlines()[0]})
        timing.free_memory()
        (options.out / "kernels.json").write_text(json.dumps(rows, indent=2) + "\n")
        (options.out / "kernels.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
