"""Charts of the hardware while it ran: memory, utilization and power by device."""

from collections.abc import Callable, Sequence
from statistics import fmean as mean

from pagecli.profiler.recording.downsampling import column
from pagecli.profiler.recording.records import HardwareSample
from pagecli.profiler.report.chart_style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    Chart,
    bytes_text,
    new_figure,
    number_axis,
    outside_legend,
)
from pagecli.profiler.report.time_series import draw_samples, time_axis

# (title of the panel, its fields with what each line is called, divisor)
_PANELS = (
    ("Memory (GiB)", (("memory_used_bytes", "in use"), ("process_memory_bytes", "this process")), 2**30),
    ("Utilization (%)", (("utilization_percent", "compute"), ("memory_utilization_percent", "memory")), 1),
    ("Power (W)", (("power_watts", "power"),), 1),
)
NOT_READ = "not read"
_COLUMNS = (
    *("device", "most memory in use", "most of this process", "mean utilization", "mean power", "energy"),
    *("mean clock", "highest temperature", "throttled"),
)
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GREY, INK)


def hardware(samples: Sequence[HardwareSample], note: str = "") -> Chart | None:
    """A panel for each quantity that some device reported; None if none did."""
    devices = sorted({sample.device for sample in samples})
    panels = [panel for panel in _PANELS if any(_has(samples, name) for name, _ in panel[1])]
    if not panels:
        return None
    figure, axes_list = new_figure(0.7 + 1.45 * len(panels), len(panels), 1, sharex=True)
    end = max(sample.seconds for sample in samples)
    for axes, (title, fields, divisor) in zip(axes_list, panels, strict=True):
        lines = [(device, field, word) for device in devices for field, word in fields]
        for (device, field, word), colour in zip(lines, _COLOURS * len(lines), strict=False):
            own = [sample for sample in samples if sample.device == device and getattr(sample, field) is not None]
            if own:
                seconds, values = column(own, "seconds"), column(own, field) / divisor
                draw_samples(axes, seconds, values, colour=colour, label=f"{device}, {word}", gid=f"{device}-{field}")
        axes.set_ylabel(title)
        axes.set_ylim(bottom=0)
        number_axis(axes.yaxis)
        outside_legend(axes)
    time_axis(axes_list[-1], end)
    figure.align_ylabels()
    rows = [_row(device, [sample for sample in samples if sample.device == device]) for device in devices]
    read = [at for at in range(len(_COLUMNS)) if any(row[at] != NOT_READ for row in rows)]
    return Chart(
        "hardware",
        "Hardware over time",
        f"Read by a thread of its own while the job ran. {note}".strip(),
        "; ".join(f"{row[0]}: " + ", ".join(f"{_COLUMNS[at]} {row[at]}" for at in read[1:]) for row in rows) + ".",
        figure,
        tuple(_COLUMNS[at] for at in read),
        [tuple(row[at] for at in read) for row in rows],
    )


def _has(samples: Sequence[HardwareSample], field: str) -> bool:
    return any(getattr(sample, field) is not None for sample in samples)


def _values(samples: Sequence[HardwareSample], field: str) -> list[float]:
    return [value for sample in samples if (value := getattr(sample, field)) is not None]


def _row(device: str, samples: Sequence[HardwareSample]) -> tuple[str, ...]:
    def cell(field: str, reduce: Callable[[list[float]], float], text: Callable[[float], str]) -> str:
        values = _values(samples, field)
        return text(reduce(values)) if values else NOT_READ

    reasons = sorted({reason for sample in samples for reason in sample.throttle_reasons})
    return (
        device,
        cell("memory_used_bytes", max, bytes_text),
        cell("process_memory_bytes", max, bytes_text),
        cell("utilization_percent", mean, "{:.0f} %".format),
        cell("power_watts", mean, "{:.1f} W".format),
        cell("energy_joules", max, "{:,.0f} J".format),
        cell("clock_mhz", mean, "{:,.0f} MHz".format),
        cell("temperature_celsius", max, "{:.0f} °C".format),
        ", ".join(reasons) or "no",
    )
