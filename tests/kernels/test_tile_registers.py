"""Sums of linear's tiles stay in registers: one kept in memory makes a tile take half as long again, and shows in no result."""

import os
import platform
import re
import shutil
import subprocess

import pytest
from emulated_kernels import ROOT

TILES = {  # to what its name begins with in assembly
    "tile_float32<6, 4>": "12tile_float32I",
    "tile_bfloat16_pairs<6, 4>": "19tile_bfloat16_pairsI",
    "tile_integers<RotatedQuads, 6, 4>": r"13tile_integersI\w+12RotatedQuadsE",
    "tile_integers<BoundsQuads, 6, 4>": r"13tile_integersI\w+11BoundsQuadsE",
    "tile_integers<Int8Pairs, 6, 4>": r"13tile_integersI\w+9Int8PairsE",
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
    instances = "".join(f"template void {tile}(const TileArgs&);\n" for tile in TILES)
    header = '#include "linear/tiles/linear_tile_integers.h"\nnamespace pagecli::PAGECLI_ISA {\n'
    source.write_text(header + instances + "}\n")
    options = ["-std=c++17", "-O3", "-march=cooperlake", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi", "-S", "-o", "-"]
    options += ["-DPAGECLI_ISA=avx512bf16", f"-I{ROOT}/csrc/include", f"-I{ROOT}/csrc/cpu"]
    done = subprocess.run([compiler, *options, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    bodies = re.findall(r"^(_ZN\w+):\n(.*?)^\s+\.size\s+\1", done.stdout, re.M | re.S)
    return {tile: next(body for name, body in bodies if re.search(f"{start}Li6", name)) for tile, start in TILES.items()}


@pytest.mark.parametrize("tile", TILES)
def test_no_sum_is_kept_in_memory(assembly, tile):
    products = re.findall(r"vfmadd231ps|vdpbf16ps|vpdpbusd|vpdpwssd", assembly[tile])
    assert len(products) >= 24
    assert not re.findall(r".*\(%r[sb]p\).*%zmm.*|.*%zmm.*\(%r[sb]p\)", assembly[tile])
