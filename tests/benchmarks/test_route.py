"""How far a reader walks to follow one row, and one decode step: no farther than today. Lower a bound when a wall falls."""

import json
import operator
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# (files, executed lines) at most
BOUNDS = {
    "row": (59, 2_975),
    "row, with definitions": (59, 6_885),
    "everything imported": (136, 8_850),
    "decode step": (12, 262),
}


RUNS = 3  # on a busy machine a row takes long enough for another report of progress


@pytest.mark.slow
def test_the_route_of_a_row_and_of_a_decode_step_grows_no_longer(tiny_model):
    command = [sys.executable, str(ROOT / "benchmarks/route.py"), "--model", str(tiny_model("llama")), "--json"]
    for _ in range(RUNS):
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        routes = json.loads(done.stdout)
        assert routes.keys() == BOUNDS.keys()
        found = {name: (route["num_files"], route["num_lines"]) for name, route in routes.items()}
        longer = {name for name, bounds in BOUNDS.items() if any(map(operator.gt, found[name], bounds))}
        if not longer:
            return
    pytest.fail(f"{found}, but at most {BOUNDS}: {[routes[name]['lines_by_file'] for name in longer]}")
