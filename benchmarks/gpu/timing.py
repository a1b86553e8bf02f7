"""Times launches on a GPU, and measures the two ceilings everything is compared with. Where the kernels are emulated, "the GPU"
is the CPU and times mean nothing: the scripts run there to show that they run."""

import gc
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pagecli.devices.cuda import kernels, rates

EMULATED = bool(os.environ.get("PAGECLI_CUDA_EMULATED"))
DEVICE = torch.device("cpu" if EMULATED else "cuda")
if EMULATED:
    sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "cuda"))
    importlib.import_module("host_gpu").register()


def seconds_of(launches: list[Callable[[], object]], repeats: int = 20) -> float:
    """Median time of one launch: all are recorded into a graph once, so that the host's own time stays out."""
    if EMULATED:
        return statistics.median(_wall_seconds(launches) for _ in range(2)) / len(launches)
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


def _wall_seconds(launches: list[Callable[[], object]]) -> float:
    started = time.perf_counter()
    for launch in launches:
        launch()
    return time.perf_counter() - started


def synchronize() -> None:
    if not EMULATED:
        torch.cuda.synchronize()


def free_memory() -> None:
    """Give back what nothing holds any more."""
    gc.collect()
    if not EMULATED:
        torch.cuda.empty_cache()


def ceilings(tiny: bool = False) -> dict[str, float]:
    """copy_bytes_per_s (read plus written) and bf16_flops_per_s, by what plans are made with."""
    copy, product, _ = rates.measure(DEVICE, 2**18, 64, 64) if tiny else rates.measure(DEVICE)
    return {"copy_bytes_per_s": copy, "bf16_flops_per_s": product}


def limits(folder: Path, tiny: bool = False, measure_again: bool = False) -> dict[str, float]:
    """The ceilings kept in `folder`, measured where there are none."""
    file = folder / "ceilings.json"
    if measure_again or not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        machine = {"device": kernels.extension().current_device(), "torch": torch.__version__, "emulated": EMULATED}
        file.write_text(json.dumps(ceilings(tiny) | machine, indent=2) + "\n")
    found = json.loads(file.read_text())
    return {name: found[name] for name in ("copy_bytes_per_s", "bf16_flops_per_s")}
