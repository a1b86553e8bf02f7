"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer: the extension is built again with both, and the kernel
tests run with it in another process. Its object files show, too, that no code of one instruction set can replace another's."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nightly import NIGHTLY

from pagecli.devices.cpu import kernels

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SUPPORTED = [isa for isa in kernels.supported_isas() if isa != "generic"]
GENERIC_TOO = NIGHTLY or not SUPPORTED
PLANTED = """
import torch
from pagecli.devices.cpu import kernels
print("before", flush=True)
kernels._native.write_past_end(torch.zeros({size}))
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    """Directory of the sanitized build."""
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if cmake is None or importlib.util.find_spec("nanobind") is None:
        pytest.skip("needs cmake and nanobind")
    if not _sanitizer_library("asan") or not _sanitizer_library("ubsan"):
        pytest.skip("this compiler has no sanitizers to preload")
    directory = tmp_path_factory.mktemp("sanitized")
    isas = ";".join(SUPPORTED if NIGHTLY else SUPPORTED[:1])  # beside the generic kernels
    options = ["-DPAGECLI_SANITIZE=ON", f"-DPAGECLI_SANITIZE_GENERIC={'ON' if GENERIC_TOO else 'OFF'}"]
    options += [f"-DPAGECLI_ISAS={isas}", f"-DPython_EXECUTABLE={sys.executable}"]
    _run(cmake, "-S", ROOT / "csrc", "-B", directory, *options)
    _run(cmake, "--build", directory, "--parallel", str(os.cpu_count()))
    return directory


def _run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def _sanitizer_library(name: str) -> str:
    """Path of the compiler's lib<name>.so, empty where it has none."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return ""
    path = subprocess.run([compiler, f"-print-file-name=lib{name}.so"], capture_output=True, text=True).stdout.strip()
    return path if os.path.isabs(path) else ""


def _sanitized_python(build: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (module,) = build.glob("_native*.so")
    environment = os.environ | {
        "LD_PRELOAD": f"{_sanitizer_library('asan')} {_sanitizer_library('ubsan')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PAGECLI_NATIVE_MODULE": str(module),
        "PAGECLI_TEST_EXAMPLES": "5",
        "OMP_NUM_THREADS": "2",
    }
    return subprocess.run([sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True)


def test_kernel_tests_pass(build):
    """Those of the machine's own kernels; in `make nightly` of the generic ones, too."""
    chosen = [] if GENERIC_TOO else ["-k", "not generic"]
    done = _sanitized_python(build, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *chosen, "tests/kernels")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert re.search(r"\d+ passed", done.stdout)


@pytest.mark.skipif(not NIGHTLY, reason="minutes more")
def test_whole_mixtures_of_experts_pass(build):
    """Kept in several formats, and with damaged weights."""
    files = [f"tests/families/test_{kind}_mixtures.py" for kind in ("quantized", "damaged")]
    done = _sanitized_python(build, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert re.search(r"\d+ passed", done.stdout)


@pytest.mark.parametrize("size", [5, 64])
def test_a_planted_write_past_the_end_is_caught(build, size):
    done = _sanitized_python(build, "-c", PLANTED.format(size=size))
    assert done.returncode != 0
    assert done.stdout == "before\n"
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


def test_no_symbol_of_an_instruction_set_can_replace_anothers(build):
    """The linker keeps one of several weak symbols of a name: one compiled for AVX-512 would then run on every machine."""
    libraries = sorted(build.glob("CMakeFiles/pagecli_*.dir"))
    assert libraries
    for library in libraries:
        isa = library.name.removeprefix("pagecli_").removesuffix(".dir")
        if isa == "generic":  # which runs on every machine
            continue
        for object_file in library.rglob("*.o"):
            symbols = subprocess.run(["nm", "--defined-only", object_file], capture_output=True, text=True, check=True).stdout
            shared = [line.split()[-1] for line in symbols.splitlines() if line.split()[-2] in "WVuABCDGRST"]
            own = f"7pagecli{len(isa)}{isa}"
            foreign = [name for name in shared if own not in name and not name.startswith("DW.ref.")]
            assert not foreign, f"{object_file.name} for {isa}: {foreign}"
