"""How far a reader walks to follow one row, and one decode step: no farther than today. Lower a bound when a wall falls."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# (files, executed lines) at most; some eight lines run or not as threads take their turns
BOUNDS = {
    "row": (59, 2_975),
    "row, with definitions": (59, 6_865),
    "everything imported": (136, 8_835),
    "decode step": (12, 262),
}


@pytest.mark.slow
def test_the_route_of_a_row_and_of_a_decode_step_grows_no_longer(tiny_model):
    command = [sys.executable, str(ROOT / "benchmarks/route.py"), "--model", str(tiny_model("llama")), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    routes = json.loads(done.stdout)
    assert routes.keys() == BOUNDS.keys()
    for name, (num_files, num_lines) in BOUNDS.items():
        assert routes[name]["num_files"] <= num_files, (name, routes[name]["lines_by_file"])
        assert routes[name]["num_lines"] <= num_lines, (name, routes[name]["lines_by_file"])
