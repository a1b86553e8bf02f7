"""Builds the CUDA kernels for the emulator (CMakeLists.txt beside this) and runs Python with them, in another process."""

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / f"cuda-emulated-{sys.implementation.cache_tag}"  # kept: the next session builds what changed


def build() -> Path:
    """Directory with sanitized/_cuda*.so, race/_cuda*.so and plain/_cuda*.so; skips the test where tools are missing."""
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    ninja = shutil.which("ninja", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if cmake is None or ninja is None or importlib.util.find_spec("nanobind") is None:
        pytest.skip("needs cmake, ninja and nanobind")
    if not _sanitizer_library("asan") or not _sanitizer_library("ubsan"):
        pytest.skip("this compiler has no sanitizers to preload")
    options = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"]
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:  # tests run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(cmake, "-S", ROOT / "tests" / "cuda", "-B", BUILD, *options)
        run(cmake, "--build", BUILD, "--parallel", str(os.cpu_count()))
    return BUILD


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def _sanitizer_library(name: str) -> str:
    """Path of the compiler's lib<name>.so, empty where it has none."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return ""
    path = subprocess.run([compiler, f"-print-file-name=lib{name}.so"], capture_output=True, text=True).stdout.strip()
    return path if os.path.isabs(path) else ""


def environment(directory: Path, variant: str) -> dict[str, str]:
    """What a process needs to compute with the kernels of `variant`: "sanitized", "race" or "plain"."""
    (module,) = (directory / variant).glob("_cuda*.so")
    variables = os.environ | {"PAGECLI_CUDA_MODULE": str(module), "PAGECLI_CUDA_EMULATED": "1", "OMP_NUM_THREADS": "1"}
    if variant == "sanitized":
        variables |= {
            "LD_PRELOAD": f"{_sanitizer_library('asan')} {_sanitizer_library('ubsan')}",
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",  # the leaks are Python's own
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
    return variables


def python(directory: Path, variant: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with the kernels of `variant`."""
    command, variables = [sys.executable, *arguments], environment(directory, variant)
    return subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True)
