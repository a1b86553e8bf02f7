"""The kernels on aarch64: cross-compiled with warnings as errors, run under qemu, and compared with this machine's.

The plain ones are NEON code there too, and give the same bits everywhere, since only fmadd() fuses. `neon` adds in the order of
`avx2`, so that it gives that one's bits; so does `neon_bf16`, but for products of bfloat16 pairs, which bfdot rounds otherwise.
"""

import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from nightly import NIGHTLY

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NIGHTLY, reason="minutes of compiling: make nightly"),
    pytest.mark.skipif(COMPILER is None or EMULATOR is None, reason="needs g++-aarch64-linux-gnu and qemu-user"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="compares with the kernels of an x86-64"),
]
OPTIONS = [
    "-std=gnu++17",
    "-O1",
    "-pthread",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-Wno-psabi",
    "-Wall",
    "-Wextra",
    "-Werror",
]
FLAGS = {
    "generic": [],
    "avx2": ["-march=x86-64-v3", "-DPAGECLI_EMULATE_PAIR_DOT"],
    "neon": ["-march=armv8.2-a+dotprod", "-DPAGECLI_NEON"],
    "neon_bf16": ["-march=armv8.2-a+dotprod+bf16+i8mm", "-DPAGECLI_NEON"],
}


def sources() -> list[Path]:
    """Every source that is compiled once per instruction set, and what they call."""
    lines = (CSRC / "include/pagecli/operations.def").read_text().splitlines()
    kinds = ("CPU_KERNEL(", "CPU_PRODUCT(")
    kernels = dict.fromkeys(line.split(", ")[-1].rstrip(")") for line in lines if line.startswith(kinds))
    return [CSRC / "cpu" / source for source in (*kernels, "pair_products.cpp", "scratch.cpp", "threads.cpp")]


def build(folder: Path, compiler: str, isa: str, *flags: str) -> Path:
    command = [compiler, *OPTIONS, f"-DPAGECLI_ISA={isa}", *flags, f"-I{CSRC}/include", f"-I{CSRC}/cpu"]

    def compiled(source: Path) -> Path:
        done = subprocess.run([*command, "-c", source, "-o", folder / f"{source.stem}.o"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return folder / f"{source.stem}.o"

    folder.mkdir()
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, [Path(__file__).with_name("aarch64_kernels.cpp"), *sources()]))
    static = [flag for flag in flags if flag == "-static"]
    subprocess.run([compiler, *static, "-pthread", *objects, "-o", folder / "kernels"], check=True)
    return folder / "kernels"


def results(*command: str | Path) -> dict[str, bytes]:
    """What the program wrote, by name."""
    rest, found = subprocess.run(command, capture_output=True, check=True).stdout, {}
    while rest:
        line, _, rest = rest.partition(b"\n")
        name, size = line.decode().split()
        found[name], rest = rest[: int(size)], rest[int(size) :]
    return found


def here(folder: Path, isa: str, *flags: str) -> dict[str, bytes]:
    return results(build(folder / "here", "g++", isa, *flags))


def there(folder: Path, isa: str) -> tuple[dict[str, bytes], str]:
    """On an aarch64; and the instructions of the program."""
    program = build(folder / "there", COMPILER, isa, "-static", *FLAGS[isa])
    code = subprocess.run(["aarch64-linux-gnu-objdump", "-d", program], capture_output=True, text=True, check=True).stdout
    return results(EMULATOR, "-cpu", "max", program), code


def check_same_bits(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert all(np.isfinite(np.frombuffer(found[name], np.float32)).all() for name in found if name.startswith("linear"))


def test_the_plain_kernels_give_the_same_bits(tmp_path):
    found, code = there(tmp_path, "generic")
    assert "v0.4s" in code  # vectors, not loops over numbers
    check_same_bits(found, here(tmp_path, "generic"))


def test_neon_gives_the_bits_of_avx2(tmp_path):
    found, code = there(tmp_path, "neon")
    assert {"fmla", "sdot"} <= set(code.split())
    assert not {"bfdot", "usdot"} & set(code.split())
    check_same_bits(found, here(tmp_path, "avx2", "-march=x86-64-v3"))


def test_neon_with_bfloat16_gives_them_but_for_products_of_pairs(tmp_path):
    found, code = there(tmp_path, "neon_bf16")
    assert {"fmla", "bfdot", "sdot", "usdot"} <= set(code.split())
    expected = here(tmp_path, "avx2", *FLAGS["avx2"])
    pairs = {name for name in found if "bfloat16" in name and not name.startswith(("attention", "embedding"))}
    check_same_bits({n: b for n, b in found.items() if n not in pairs}, {n: b for n, b in expected.items() if n not in pairs})
    for name in pairs:
        if name.startswith("argmax"):
            assert found[name] == expected[name], name
        else:
            ours, theirs = (np.frombuffer(each[name], np.float32) for each in (found, expected))
            np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5, err_msg=name)
    assert any(found[name] != expected[name] for name in pairs), "bfdot rounds in its own way, or was not used"


CHOICE = """
#include <stdio.h>
#include "pagecli/isa.h"
#define TABLE(isa) namespace pagecli::isa { extern const KernelTable table; const KernelTable table = {#isa}; }
TABLE(generic) TABLE(neon) TABLE(neon_bf16)
int main() { puts(pagecli::kernels().isa); }
"""


def test_the_kernels_are_chosen_by_what_the_processor_has(tmp_path):
    (tmp_path / "choice.cpp").write_text(CHOICE)
    known = [f"-DPAGECLI_HAS_{isa}" for isa in ("neon", "neon_bf16")]
    command = [COMPILER, *OPTIONS, "-Wno-missing-field-initializers", "-static", *known, f"-I{CSRC}/include"]
    subprocess.run([*command, tmp_path / "choice.cpp", CSRC / "cpu/isa/isa.cpp", "-o", tmp_path / "choice"], check=True)

    def chosen(cpu: str) -> str:
        done = subprocess.run([EMULATOR, "-cpu", cpu, tmp_path / "choice"], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert {cpu: chosen(cpu) for cpu in ("cortex-a72", "neoverse-n1", "max")} == {
        "cortex-a72": "generic",
        "neoverse-n1": "neon",
        "max": "neon_bf16",
    }
