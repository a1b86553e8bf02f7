"""The files, functions and lines of pagecli that a row of `generate` runs through, and a decode step.

    python benchmarks/route.py                  # a tiny random Llama, made for this
    python benchmarks/route.py --model DIR --files --save

The row goes through the real command line in this process, from a JSON Lines file to a JSON Lines file, on every thread. The
command runs twice, first with pagecli's imports under the trace, then without, and gives three counts:

    row                     the second run: files in which a function runs for the row, and the lines that run in functions
    row, with definitions   the same files, with the lines that ran when they were imported (definitions, constants)
    everything imported     the first run: all files that were executed at all, those that only define something included

The decode step is one `Engine.step` of a sequence whose prompt has been computed. Lines are distinct lines that were executed;
a call across files is one of a function of ours by a function of ours in another file.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, field, replace
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PACKAGE = ROOT / "pagecli"
_BODY = {"<module>", "<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>", "<lambda>"}  # part of the function they stand in


@dataclass(frozen=True, slots=True)
class Route:
    """What ran: counts, and the lines of each file, longest first. `num_crossings`: calls into another file."""

    num_files: int
    num_functions: int
    num_lines: int
    num_calls: int
    num_crossings: int
    lines_by_file: dict[str, int] = field(repr=False)


class Tracer:
    """Collects what runs between `start` and `stop`, on this thread and those started meanwhile."""

    def __init__(self) -> None:
        self._lines: dict[str, set[int]] = {}
        self._functions: set[tuple[str, str]] = set()
        self._calls: Counter[bool] = Counter()  # by whether they enter another file

    def __enter__(self) -> "Tracer":
        threading.settrace(self._on_call)
        sys.settrace(self._on_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]

    def _on_call(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        path = frame.f_code.co_filename
        if not path.startswith(str(PACKAGE)):
            return None
        lines = self._lines.setdefault(path, set())
        if frame.f_code.co_name not in _BODY:
            self._functions.add((path, frame.f_code.co_qualname))
            caller = _caller(frame)
            if caller is not None:
                self._calls[caller != path] += 1

        def on_line(frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
            if event == "line":
                lines.add(frame.f_lineno)
            return on_line

        return on_line

    def route(self) -> Route:
        counts = Counter({str(Path(path).relative_to(ROOT)): len(lines) for path, lines in self._lines.items() if lines})
        total = sum(self._calls.values())
        return Route(len(counts), len(self._functions), counts.total(), total, self._calls[True], dict(counts.most_common()))


def _caller(frame: FrameType) -> str | None:
    """The file of the nearest function of ours that the call came from; None if the thread began elsewhere."""
    above = frame.f_back
    while above is not None and not above.f_code.co_filename.startswith(str(PACKAGE)):
        above = above.f_back
    return None if above is None else above.f_code.co_filename


def trace_row(model: str, folder: Path) -> Route:
    """One row through `pagecli generate`. What it imports for the first time is traced too."""
    source, output = folder / "rows.jsonl", folder / "out.jsonl"
    source.write_text(json.dumps({"prompt": "The quick brown fox", "id": 7}) + "\n")
    arguments = ["generate", str(source), str(output), "--model", model, "--max-tokens", "4", "--ignore-eos", "--overwrite"]
    arguments += ["--kv-memory", "1MiB", "--threads", "1", "--no-chat"]
    said = StringIO()
    ticks = map((1e-6).__mul__, itertools.count())  # a clock of its own: on a busy machine a job reports its progress once more
    with redirect_stderr(said), mock.patch("time.perf_counter", ticks.__next__), Tracer() as tracer:
        try:
            from pagecli.cli.app import main

            main(arguments)
        except SystemExit as ended:
            code = ended.code
    if code or len(output.read_text().splitlines()) != 1:
        raise RuntimeError(f"the job ended with {code}: {said.getvalue()}")
    return tracer.route()


def trace_decode_step(model: str) -> Route:
    """One step of an engine in which one sequence decodes."""
    from pagecli.core.engine_config import EngineConfig
    from pagecli.core.sampling_params import SamplingParams
    from pagecli.engine.engine import Engine

    engine = Engine(EngineConfig(model, kv_memory_bytes=1 << 20, threads=1))
    engine.add_request(0, [5, 6, 7], SamplingParams(max_tokens=8, ignore_eos=True))
    engine.step()
    engine.step()
    with Tracer() as tracer:
        engine.step()
    return tracer.route()


def measure(model: str) -> dict[str, Route]:
    """The routes by name; run it in a process that has not imported pagecli."""
    sys.path[:] = [path for path in sys.path if path != str(HERE)]  # transformers would take kernels.py here for the package
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PAGECLI_CACHE_DIR"] = str(Path(folder) / "cache")
        imported = trace_row(model, Path(folder))
        row = trace_row(model, Path(folder))
    lines = {path: imported.lines_by_file[path] for path in row.lines_by_file}
    defined = replace(row, num_lines=sum(lines.values()), lines_by_file=lines)
    return {
        "row": row,
        "row, with definitions": defined,
        "everything imported": imported,
        "decode step": trace_decode_step(model),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model's directory or name (a tiny random Llama is made if left out)")
    parser.add_argument("--files", action="store_true", help="list the files of each route and their lines")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", action="store_true", help="keep the results in benchmarks/results/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        routes = measure(options.model or _tiny_model(Path(folder)))
    if options.json:
        print(json.dumps({name: asdict(route) for name, route in routes.items()}))
    else:
        _print(routes, options.files)
    if options.save:
        sys.path.insert(0, str(HERE))
        import results_file

        command = " ".join(["python benchmarks/route.py", *sys.argv[1:]])
        print(f"saved {results_file.save('route', command, {n: asdict(r) for n, r in routes.items()})}", file=sys.stderr)


def _tiny_model(folder: Path) -> str:
    """Made by another process: what this one imports for the first time is traced."""
    code = "import sys, pathlib, tiny_models; print(tiny_models.build('llama', pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, cwd=ROOT / "tests", check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _print(routes: dict[str, Route], files: bool) -> None:
    print(f"{'':24}{'files':>8}{'functions':>11}{'lines':>8}{'calls':>8}{'across files':>14}")
    for name, r in routes.items():
        print(f"{name:24}{r.num_files:>8,}{r.num_functions:>11,}{r.num_lines:>8,}{r.num_calls:>8,}{r.num_crossings:>14,}")
    for name, r in routes.items() if files else ():
        print(f"\n{name}")
        for path, num_lines in r.lines_by_file.items():
            print(f"{num_lines:>6}  {path}")


if __name__ == "__main__":
    main()
