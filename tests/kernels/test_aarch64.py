"""The plain kernels, which are NEON code on aarch64: cross-compiled with warnings as errors, run under qemu, and compared to
the bit with those of this machine. Nothing in them may depend on the machine, since only fmadd() fuses.
"""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from nightly import NIGHTLY

from pagecli.devices.cpu import kernels

ROOT = Path(__file__).resolve().parents[2]
COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NIGHTLY, reason="half a minute of compiling: make nightly"),
    pytest.mark.skipif(COMPILER is None or EMULATOR is None, reason="needs g++-aarch64-linux-gnu and qemu-user"),
]
KERNELS = (
    *("linear/linear.cpp", "linear/pack_weight.cpp", "attention/paged_attention.cpp", "attention/store_kv.cpp"),
    *("elementwise/rms_norm.cpp", "elementwise/activation.cpp", "sampling/argmax.cpp"),
)


def numbers(seed: int, *shape: int) -> torch.Tensor:
    """As in aarch64_kernels.cpp."""
    with np.errstate(over="ignore"):
        bits = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(2654435761) + np.uint32(seed) * np.uint32(2246822519)
        bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(3266489917)
    bits ^= bits >> np.uint32(13)
    values = (bits >> np.uint32(8)).astype(np.float32) / np.float32(8388608) - np.float32(1)
    return torch.from_numpy(values.reshape(shape))


@pytest.fixture(scope="module")
def there(tmp_path_factory) -> bytes:
    """What the kernels give on an aarch64."""
    folder = tmp_path_factory.mktemp("aarch64")
    options = ["-std=gnu++17", "-O1", "-static", "-pthread", "-ffp-contract=off", "-fno-math-errno", "-Wno-psabi"]
    options += ["-Wall", "-Wextra", "-Werror", "-DPAGECLI_ISA=generic", f"-I{ROOT}/csrc/include", f"-I{ROOT}/csrc/cpu"]
    sources = [ROOT / "csrc/cpu" / source for source in (*KERNELS, "scratch.cpp", "threads.cpp")]
    program = folder / "kernels"
    command = [COMPILER, *options, Path(__file__).with_name("aarch64_kernels.cpp"), *sources, "-o", program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    code = subprocess.run([f"{COMPILER[:-3]}objdump", "-d", program], capture_output=True, text=True).stdout
    assert "v0.4s" in code  # vectors, not loops over numbers
    return subprocess.run([EMULATOR, program], capture_output=True, check=True).stdout


def here() -> list[torch.Tensor]:
    """The same results by this machine's plain kernels."""
    found = []
    for dtype in ("float32", "bfloat16", "int8", "int8-a16"):
        out = torch.empty(5, 37)
        weight = kernels.pack_weight(numbers(2, 37, 200), dtype)
        kernels.linear(out, numbers(1, 5, 200), weight, numbers(3, 37), "silu")
        found.append(out)
    k_cache, v_cache, out = torch.zeros(3, 2, 24, 16), torch.zeros(3, 2, 16, 24), torch.empty(20, 4, 24)
    slots = torch.tensor([*range(32, 48), *range(4)])
    kernels.store_kv(k_cache, v_cache, numbers(5, 20, 2, 24), numbers(6, 20, 2, 24), slots)
    table, context, start = (torch.tensor(values, dtype=torch.int32) for values in ([[2, 0]], [20], [0, 20]))
    kernels.paged_attention(out, numbers(4, 20, 4, 24), k_cache, v_cache, table, context, start, 0.25)
    found.append(out)
    x = numbers(7, 3, 100)
    norm = torch.empty(3, 100)
    kernels.rms_norm(norm, x, numbers(8, 100), 1e-5)
    found.append(norm)
    for name in ("gelu", "gelu_tanh", "silu"):
        out = torch.empty(3, 100)
        kernels.activation(out, x, name)
        found.append(out)
    best = torch.empty(3, dtype=torch.int64)
    kernels.argmax(best, x)
    return [*found, best]


@pytest.mark.usefixtures("restore_isa")
def test_the_kernels_give_the_same_bits_on_aarch64(there):
    assert kernels._native.select_isa("generic")
    results = here()
    assert torch.isfinite(torch.cat([result.flatten().float() for result in results])).all()
    at = 0
    for number, result in enumerate(results):
        size = result.nbytes
        assert there[at : at + size] == result.numpy().tobytes(), f"result {number}"
        at += size
    assert at == len(there)
