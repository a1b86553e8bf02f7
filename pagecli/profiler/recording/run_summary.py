"""The metrics of a recorded run as one JSON object: summary.json, and `summaries[]` of `profile --run --json`."""

from statistics import fmean
from typing import Any

from pagecli.profiler.recording.latency import PERCENTILES, latencies
from pagecli.profiler.recording.records import HardwareSample, Recording
from pagecli.profiler.recording.run_totals import block_size_of, end_seconds, num_requests, num_steps, total

SCHEMA_VERSION = 1
PHASES = ("schedule", "prepare", "forward", "sample", "commit", "detokenize", "outside")


def summarize(recording: Recording) -> dict[str, Any]:
    """Times in seconds, shares 0 to 1; None where nothing was recorded."""
    hardware = hardware_summary(recording.hardware)
    return {
        "schema_version": SCHEMA_VERSION,
        "title": recording.title,
        "facts": recording.metadata,
        **_throughput(recording),
        "seconds_by_phase": {phase: total(recording, f"{phase}_seconds") for phase in PHASES},
        "kv": _kv(recording),
        "latency": {
            kind.name.replace(" ", "_"): {"mean": kind.mean, **{f"p{p}": kind.percentile(p) for p in PERCENTILES}}
            for kind in latencies(recording.requests)
        },
        "hardware": hardware,
        "hardware_note": recording.hardware_note,
        "joules_per_output_token": joules_per_token(hardware, _output_tokens(recording)),
    }


def _output_tokens(recording: Recording) -> int:
    return int(recording.totals.get("output_tokens", sum(r.output_tokens for r in recording.requests)))


def _throughput(recording: Recording) -> dict[str, Any]:
    steps, seconds, output_tokens = num_steps(recording), end_seconds(recording.steps), _output_tokens(recording)
    return {
        "seconds": seconds,
        "num_steps": steps,
        "num_requests": num_requests(recording),
        "prefill_tokens": total(recording, "prefill_tokens"),
        "decode_tokens": total(recording, "decode_tokens"),
        "output_tokens": output_tokens,
        "output_tokens_per_second": output_tokens / seconds if seconds else None,
        "mean_batch": total(recording, "num_running") / steps if steps else None,
        "num_preemptions": total(recording, "num_preemptions"),
    }


def _kv(recording: Recording) -> dict[str, Any]:
    """Of the blocks in use over all steps, how much was filled, and what sharing saved."""
    block_size, used = block_size_of(recording), total(recording, "blocks_used")
    filled, unshared = total(recording, "slots_filled"), total(recording, "blocks_unshared")
    steps = num_steps(recording)
    return {
        "block_size": block_size,
        "blocks_total": recording.steps[-1].blocks_total if recording.steps else None,
        "blocks_used_mean": used / steps if steps else None,
        "blocks_used_peak": max((step.blocks_used for step in recording.steps), default=None),
        "slot_utilization": filled / (used * block_size) if used and block_size else None,
        "slots_wasted_mean": (used * block_size - filled) / steps if steps and block_size else None,
        "sharing_saving": 1 - used / unshared if unshared else None,
        "num_copies": total(recording, "num_copies"),
        "num_swapped_blocks": total(recording, "num_swapped_blocks"),
    }


def hardware_summary(samples: list[HardwareSample]) -> dict[str, dict[str, Any]]:
    """By device: peaks, means, and the energy from the first reading to the last."""
    by_device: dict[str, list[HardwareSample]] = {}
    for sample in samples:
        by_device.setdefault(sample.device, []).append(sample)
    return {device: _device_summary(own) for device, own in by_device.items()}


def _device_summary(samples: list[HardwareSample]) -> dict[str, Any]:
    def values(name: str) -> list[float]:
        return [value for sample in samples if (value := getattr(sample, name)) is not None]

    def reduced(name: str, reduce: Any) -> float | None:
        found = values(name)
        return reduce(found) if found else None

    throttled = sum(bool(sample.throttle_reasons) for sample in samples)
    return {
        "memory_used_bytes_peak": reduced("memory_used_bytes", max),
        "process_memory_bytes_peak": reduced("process_memory_bytes", max),
        "utilization_percent_mean": reduced("utilization_percent", fmean),
        "memory_utilization_percent_mean": reduced("memory_utilization_percent", fmean),
        "power_watts_mean": reduced("power_watts", fmean),
        "energy_joules": reduced("energy_joules", lambda found: found[-1] - found[0]),
        "clock_mhz_mean": reduced("clock_mhz", fmean),
        "temperature_celsius_peak": reduced("temperature_celsius", max),
        "cpu_seconds": reduced("cpu_seconds", lambda found: found[-1] - found[0]),
        "throttled_share": throttled / len(samples),
        "throttle_reasons": sorted({reason for sample in samples for reason in sample.throttle_reasons}),
    }


def joules_per_token(hardware: dict[str, dict[str, Any]], output_tokens: int) -> float | None:
    """Energy of all GPUs for each output token; of the host's processors where no GPU was read."""
    energies = {
        device: metrics["energy_joules"] for device, metrics in hardware.items() if metrics["energy_joules"] is not None
    }
    of_gpus = [joules for device, joules in energies.items() if device != "host"]
    joules = sum(of_gpus) if of_gpus else energies.get("host")
    return joules / output_tokens if joules is not None and output_tokens else None
