"""From runs to the table, its ratios and what is kept: pure functions of what was measured."""

from collections.abc import Iterable
from statistics import median

from comparison.runs import Run
from peers.catalog import PAGECLI

Runs = dict[str, list[Run]]  # by system, in the order they ran


def speed(runs: list[Run]) -> float | None:
    """Median output tokens per second; None when no run succeeded."""
    good = [run.tokens_per_second for run in runs if run.error is None]
    return median(good) if good else None


def time_taken(runs: list[Run]) -> float | None:
    good = [run.seconds for run in runs if run.error is None]
    return median(good) if good else None


def ratios(runs: Runs) -> dict[str, float]:
    """How many times faster pagecli is than each other system, by output tokens per second."""
    speeds = {name: speed(done) for name, done in runs.items()}
    ours = speeds.get(PAGECLI)
    return {name: ours / theirs for name, theirs in speeds.items() if ours and theirs and name != PAGECLI}


def same_rows(name: str, runs: Runs) -> str:
    """How many of the rows a system ran have the very tokens that pagecli gave them."""
    theirs = next((run.outputs for run in runs[name] if run.error is None), None)
    ours = next((run.outputs for run in runs.get(PAGECLI, []) if run.error is None), None)
    if name == PAGECLI or theirs is None or ours is None:
        return "-"
    num_rows = min(len(ours), len(theirs))
    return f"{sum(a == b for a, b in zip(ours, theirs, strict=False))} of {num_rows}"


def rows(runs: Runs, whole_process: bool) -> list[list[str]]:
    """The table's cells, its heading first; systems in order of speed, those without results last."""
    measure = "seconds, start to last token" if whole_process else "output tokens/s"
    heading = ["system", measure, "pagecli is faster by", "rows", "as pagecli's", "loaded in s", "peak MiB", "computes in"]
    faster = ratios(runs)
    cells = [heading]
    for name in sorted(runs, key=lambda name: -(speed(runs[name]) or 0)):
        good = [run for run in runs[name] if run.error is None]
        if not good:
            continue
        values = [run.seconds if whole_process else run.tokens_per_second for run in good]
        load = [run.load_seconds for run in good if run.load_seconds is not None]
        cells.append(
            [
                name,
                with_range(values),
                f"{faster[name]:.2f}" if name in faster else "-",
                str(len(good[0].outputs)),
                same_rows(name, runs),
                f"{median(load):.1f}" if load else "-",
                f"{max(run.peak_rss_mib for run in good):,.0f}",
                good[0].precision,
            ]
        )
    return cells


def with_range(values: list[float]) -> str:
    spread = f" [{min(values):.1f}-{max(values):.1f}]" if len(values) > 1 else ""
    return f"{median(values):.1f}{spread}"


def markdown(cells: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def versions(runs: Runs) -> str:
    used = (run.versions.items() for done in runs.values() for run in done)
    named = {f"{package} {version}": None for packages in used for package, version in packages}
    return ", ".join(named)


def closing_lines(runs: Runs, missing: dict[str, str]) -> Iterable[str]:
    """The ratio to the fastest peer, and why each system without results has none."""
    faster = ratios(runs)
    if faster:
        fastest = min(faster, key=lambda name: faster[name])
        yield f"pagecli / fastest peer ({fastest}): {faster[fastest]:.2f}"
    yield f"versions: {versions(runs)}"
    for name, done in runs.items():
        errors = [run.error for run in done if run.error is not None]
        if errors:
            yield f"{name}: {f'{len(errors)} of {len(done)} runs: ' if len(errors) < len(done) else ''}{errors[0]}"
    for name, reason in missing.items():
        yield f"{name}: {reason}"


def kept(runs: Runs, missing: dict[str, str]) -> dict[str, object]:
    """The content of a results file: every run's metrics, without the tokens."""
    systems = {
        name: {"runs": [metrics(run) for run in done], "same_rows": same_rows(name, runs)} for name, done in runs.items()
    }
    return {"pagecli_faster_by": ratios(runs), "systems": systems, "not_run": missing}


def metrics(run: Run) -> dict[str, object]:
    if run.error is not None:
        return {"error": run.error}
    return {
        "tokens_per_second": run.tokens_per_second,
        "seconds": run.seconds,
        "output_tokens": run.num_tokens,
        "rows": len(run.outputs),
        "load_seconds": run.load_seconds,
        "peak_rss_mib": run.peak_rss_mib,
        "precision": run.precision,
        "versions": run.versions,
    }
