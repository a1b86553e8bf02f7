"""A small torture campaign: kills, faults and damaged journals; the full one is `python tests/torture/kill.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_job_that_is_killed_starved_and_damaged_comes_out_unharmed():
    script = Path(__file__).with_name("kill.py")
    command = [sys.executable, str(script), "--kills", "9", "--rows", "150", "--processes", "1", "--seed", "11"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    counts = json.loads(ended.stdout[ended.stdout.index("{") :])["counts"]
    assert counts["kills"] >= 9
    assert counts["faults"] > 0
    assert counts["outputs identical to the undisturbed run"] == counts["jobs"] >= 2
    assert counts["losses"] == 0
