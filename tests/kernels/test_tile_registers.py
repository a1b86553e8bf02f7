"""Sums of linear's tiles stay in registers: one kept in memory makes a tile take half as long again, and shows in no result."""

import os
import platform
import re
import shutil
import subprocess

import pytest
from emulated_kernels import ROOT

TILES = {
    "tile_float32": "linear_tile.h",
    "tile_bfloat16_pairs": "linear_tile.h",
    "tile_rotated": "linear_tile_rotated.h",
    "tile_bytes": "linear_tile_bytes.h",
    "tile_int8": "linear_tile_int8.h",
}
pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX-512's tiles"),
    pytest.mark.slow,  # the fixture compiles
]


@pytest.fixture(scope="module")
def assembly(tmp_path_factory):
    """Of the largest tile of each kind with AVX512-BF16, by name."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    source = tmp_path_factory.mktemp("tiles") / "tiles.cpp"
    headers = "".join(f'#include "linear/tiles/{header}"\n' for header in dict.fromkeys(TILES.values()))
    instances = "".join(f"template void {tile}<6, 4>(const TileArgs&);\n" for tile in TILES)
    source.write_text(headers + "namespace pagecli::PAGECLI_ISA {\n" + instances + "}\n")
    options = ["-std=c++17", "-O3", "-march=cooperlake", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi", "-S", "-o", "-"]
    options += ["-DPAGECLI_ISA=avx512bf16", f"-I{ROOT}/csrc/include", f"-I{ROOT}/csrc/cpu"]
    done = subprocess.run([compiler, *options, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    bodies = re.findall(r"^(_ZN\w+):\n(.*?)^\s+\.size\s+\1", done.stdout, re.M | re.S)
    return {tile: next(body for name, body in bodies if f"{len(tile)}{tile}ILi6" in name) for tile in TILES}


@pytest.mark.parametrize("tile", TILES)
def test_no_sum_is_kept_in_memory(assembly, tile):
    products = re.findall(r"vfmadd231ps|vdpbf16ps|vpdpbusd|vpdpwssd", assembly[tile])
    assert len(products) >= 24
    assert not re.findall(r".*\(%r[sb]p\).*%zmm.*|.*%zmm.*\(%r[sb]p\)", assembly[tile])
