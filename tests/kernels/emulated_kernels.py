"""Kernels compiled as for instructions this machine may not have, those emulated by plain code, as a C library."""

import ctypes
import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from nightly import NIGHTLY

from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.weights import packed_weight
from pagecli.devices.cpu.weights.packed_weight import PackedWeight

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "cpu/linear/linear.cpp",
    "cpu/linear/pack_bounds.cpp",
    "cpu/linear/pack_weight.cpp",
    "cpu/pair_products.cpp",
    "cpu/scratch.cpp",
    "cpu/threads.cpp",
)
TYPES = ("float32", "bfloat16", "int8", "int8-a16")  # WeightType of packed_weight.h


def build(tmp_path_factory: pytest.TempPathFactory, *definitions: str) -> ctypes.CDLL:
    """The library of emulated_linear.cpp, the instructions named by `definitions` emulated, which all tests of a run share."""
    if definitions == ("PAGECLI_EMULATE_PAIR_DOT",) and "avx512bf16" in kernels.supported_isas() and not NIGHTLY:
        pytest.skip("this machine has the instruction, whose kernels other tests run; make nightly runs its emulation, too")
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent
    library = directory / f"{'-'.join(sorted(definitions))}.so"
    options = ["-std=c++17", "-O1", "-fPIC", "-shared", "-pthread", "-ffp-contract=off", "-Wno-psabi"]
    options += ["-DPAGECLI_ISA=emulated", *(f"-D{name}" for name in definitions)]
    options += [f"-I{ROOT}/csrc/include", f"-I{ROOT}/csrc/cpu"]
    sources = [Path(__file__).with_name("emulated_linear.cpp"), *(ROOT / "csrc" / source for source in SOURCES)]
    with open(library.with_suffix(".lock"), "w") as lock:  # tests run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            made = library.with_suffix(".made")
            done = subprocess.run([compiler, *options, *map(str, sources), "-o", made], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            made.rename(library)
    functions = ctypes.CDLL(str(library))
    functions.emulated_widen.argtypes = [ctypes.c_bool]
    functions.emulated_widen(False)  # of a library that another test has loaded
    functions.emulated_linear.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 3 + [ctypes.c_int32]
    functions.emulated_handed_over.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_int64] * 5
    functions.emulated_grouped.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 6 + [ctypes.c_int32]
    functions.emulated_quantized.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 3
    functions.emulated_pruned.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 3
    functions.emulated_pruned.restype = ctypes.c_int64
    return functions


def linear(library: ctypes.CDLL, x: torch.Tensor, weight: torch.Tensor, dtype: str = "bfloat16") -> torch.Tensor:
    """x @ weight.T by the emulated kernels, the weight packed as `dtype`."""
    tokens, (rows, cols) = x.shape[0], weight.shape
    out = torch.full((tokens, rows), float("nan"))
    packed = packed_weight.allocate(rows, cols, dtype).data
    pointers = out.data_ptr(), x.data_ptr(), weight.data_ptr(), packed.ctypes.data
    library.emulated_linear(*pointers, tokens, rows, cols, TYPES.index(dtype))
    return out


def handed_over(library: ctypes.CDLL, x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(x @ first.T) @ second.T of bfloat16 weights, what is between handed over; gated where `first` has twice its columns."""
    tokens, (first_rows, cols), (rows, between) = x.shape[0], first.shape, second.shape
    out, values = torch.full((tokens, rows), float("nan")), torch.full((tokens, between), float("nan"))
    room = max((packed_weight.allocate(*weight.shape, "bfloat16").data for weight in (first, second)), key=len)
    pointers = (*(tensor.data_ptr() for tensor in (out, values, x, first, second)), room.ctypes.data)
    library.emulated_handed_over(*pointers, tokens, rows, between, cols, first_rows)
    return out


def grouped_linear(library: ctypes.CDLL, x: torch.Tensor, ids: torch.Tensor, weight: torch.Tensor, dtype: str) -> torch.Tensor:
    """out[T, C, N] = x[T, K] @ weight[ids[T, C], N, K].T by the emulated kernels, the weights packed as `dtype`."""
    experts, rows, cols = weight.shape
    out = torch.full((*ids.shape, rows), float("nan"))
    packed = packed_weight.allocate_experts(experts, rows, cols, dtype).data
    pointers = *(tensor.data_ptr() for tensor in (out, x, ids, weight)), packed.ctypes.data
    library.emulated_grouped(*pointers, packed.nbytes // experts, *ids.shape, experts, rows, cols, TYPES.index(dtype))
    return out


def quantized(library: ctypes.CDLL, x: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
    """x @ weight.T of a weight that stays quantized."""
    out = torch.full((x.shape[0], weight.num_rows), float("nan"))
    library.emulated_quantized(
        out.data_ptr(), x.data_ptr(), weight.data.ctypes.data, x.shape[0], weight.num_rows, weight.num_cols
    )
    return out
