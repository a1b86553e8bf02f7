"""Tests here import what makes the docs: the hook of the reference's pages, and the report of the benchmarks."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "docs/hooks"), str(ROOT / "benchmarks")]
