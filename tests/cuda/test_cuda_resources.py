"""What ptxas says of every kernel: machine code for each GPU, registers within bounds, nothing spilled to local memory, and at
least one block that fits into a multiprocessor of every compute capability that README names. The
build leaves its reports beside the object files (csrc/cuda/keep_report.py); without nvcc there is nothing to check."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CUDA = ROOT / "csrc" / "cuda"
KERNEL_FILES = sorted(CUDA.rglob("*.cu"))
TARGETS = {"sm_80", "sm_90", "sm_100", "sm_120"}


@dataclass(frozen=True)
class Capability:
    """A multiprocessor, by the CUDA C++ Programming Guide ("Technical Specifications per Compute Capability")."""

    target: str  # whose machine code it runs
    block_bytes: int  # of shared memory, at most
    bytes: int
    threads: int


CAPABILITIES = {
    "8.0": Capability("sm_80", 163 * 1024, 164 * 1024, 2048),
    "8.6": Capability("sm_80", 99 * 1024, 100 * 1024, 1536),
    "8.9": Capability("sm_80", 99 * 1024, 100 * 1024, 1536),
    "9.0": Capability("sm_90", 227 * 1024, 228 * 1024, 2048),
    "10.0": Capability("sm_100", 227 * 1024, 228 * 1024, 2048),
    "12.0": Capability("sm_120", 99 * 1024, 100 * 1024, 1536),
}
REGISTERS, RESERVED_BYTES = 65536, 1024  # of a multiprocessor; of shared memory for each block
_OF_128 = ("decode_kernel", "mma_decode_kernel", "prefill_kernel", "exact_linear_kernel", "router_kernel")
_OF_128 += ("grouped_linear_kernel", "grouped_linear_float_kernel", "shrink_kernel", "expand_kernel")
THREADS = dict.fromkeys(_OF_128, 128)  # others: up to 1,024
LEAST_BLOCKS = {  # others: 1
    ("decode_kernel", "8.0"): 2,
    ("decode_kernel", "9.0"): 3,
    **{("shrink_kernel", capability): 4 for capability in ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")},
    ("mma_decode_kernel", "8.0"): 2,
    ("mma_decode_kernel", "9.0"): 2,
    ("mma_decode_kernel<BFloat16, 128>", "9.0"): 3,
    ("grouped_linear_kernel<BFloat16, 16>", "8.0"): 3,
    ("grouped_linear_kernel<BFloat16, 16>", "8.6"): 2,
    ("grouped_linear_kernel<BFloat16, 16>", "9.0"): 5,
    ("grouped_linear_kernel<BFloat16, 64>", "8.0"): 2,
    ("grouped_linear_kernel<BFloat16, 64>", "9.0"): 3,
}
# Most registers a thread may take: 65,536 on a multiprocessor let this many threads run at once.
MAX_REGISTERS = {
    "decode_kernel": 128,  # 3 blocks of 128 threads, as the plan counts on, would need no more than 170
    "mma_decode_kernel": 255,
    "prefill_kernel": 255,
    "norm_kernel": 64,  # one block of 1,024 threads
    "grouped_linear_kernel": 144,  # 3 blocks of 128 threads
    "grouped_linear_float_kernel": 128,
    "exact_linear_kernel": 80,
    "router_kernel": 128,
    "shrink_kernel": 128,
    "other": 64,
}


@dataclass(frozen=True)
class Usage:
    kernel: str
    target: str
    registers: int
    stack_bytes: int
    spill_bytes: int
    symbol: str = ""
    static_bytes: int = 0  # of shared memory


def parse(report: str) -> list[Usage]:
    """The entries of one `ptxas -v` output."""
    found = []
    for part in report.split("Compiling entry function ")[1:]:
        symbol, target = re.search(r"'(\S+)' for '(\w+)'", part).groups()
        stack, stores, loads = map(
            int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part).groups()
        )
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        static = re.search(r"Used \d+ registers.*?(\d+) bytes smem", part)
        found.append(Usage(readable(symbol), target, registers, stack, stores + loads, symbol, int(static[1]) if static else 0))
    return found


def readable(symbol: str) -> str:
    """A kernel's name and template arguments, from its mangled symbol: decode_kernel<BFloat16, 128, 4>, with E4M3 before the
    numbers where the cache has 8 bits."""
    name = max(re.findall(r"[a-z_]*kernel", symbol), key=len)
    types = re.findall(r"8BFloat16|7Float16|kernelI(f)", symbol)
    element = "float" if "f" in types else "BFloat16" if "8BFloat16" in symbol else "Float16" if "7Float16" in symbol else ""
    arguments = [element, *re.findall(r"4(E4M3)", symbol)[:1], *re.findall(r"L[ib](\d+)E", symbol)] if element else []
    return f"{name}<{', '.join(arguments)}>" if arguments else name


def reports() -> list[Path]:
    """One report for each kernel file, newer than all of csrc/cuda; built here where no install has left them."""
    newest_source = max(path.stat().st_mtime for path in [*CUDA.rglob("*.cu"), *CUDA.rglob("*.h")])
    for directory in [*(ROOT / "build").glob("*/cuda/CMakeFiles/pagecli_cuda.dir")]:
        found = [directory / f"{path.relative_to(CUDA)}.o.report" for path in KERNEL_FILES]
        if all(path.is_file() and path.stat().st_mtime > newest_source for path in found):
            return found
    build = ROOT / "build" / "cuda-check"
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    cmake, ninja = shutil.which("cmake", path=tools), shutil.which("ninja", path=tools)
    assert cmake, "needs cmake"
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    options = ["-DPAGECLI_CUDA=ON", "-DPAGECLI_ISAS=", f"-DPython_EXECUTABLE={sys.executable}"]
    for command in (
        [cmake, *generator, "-S", ROOT / "csrc", "-B", build, *options],
        [cmake, "--build", build, "--target", "pagecli_cuda", "--parallel", str(os.cpu_count())],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [build / "cuda" / "CMakeFiles" / "pagecli_cuda.dir" / f"{path.relative_to(CUDA)}.o.report" for path in KERNEL_FILES]


@pytest.fixture(scope="module")
def usages() -> list[Usage]:
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    return [usage for path in reports() for usage in parse(path.read_text())]


def test_every_kernel_is_compiled_for_every_target(usages):
    assert {usage.target for usage in usages} == TARGETS
    names = {usage.kernel.split("<")[0] for usage in usages}
    sources = [path.read_text() for path in [*KERNEL_FILES, *CUDA.rglob("*.h")]]
    assert {name for source in sources for name in re.findall(r"__global__[^;{]*?(\w+_kernel)\(", source)} == names


def test_registers_are_bounded_and_nothing_is_spilled(usages):
    for usage in sorted(usages, key=lambda usage: (usage.kernel, usage.target)):
        print(f"{usage.kernel:45} {usage.target:7} {usage.registers:4} registers")
        assert usage.spill_bytes == 0, usage
        assert usage.stack_bytes == 0, usage
        assert usage.registers <= MAX_REGISTERS.get(usage.kernel.split("<")[0], MAX_REGISTERS["other"]), usage


def demangled(symbols: list[str]) -> list[str]:
    return subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture(scope="module")
def dynamic_bytes(usages) -> dict[str, int]:
    """Shared memory of a kernel's launches, by its name as nm writes it (allow_shared_bytes, csrc/cuda/device/launch.h)."""
    found: dict[str, str] = {}
    for path in reports():
        symbols = subprocess.run(["nm", "-C", path.with_suffix("")], capture_output=True, text=True, check=True).stdout
        found |= dict(re.findall(r"allow_shared_bytes<&(.*), (\d+)ul>\(\)::allowed", symbols))
    return {name: int(size) for name, size in found.items()}


def resident_blocks(usage: Usage, shared_bytes: int, of: Capability) -> int:
    """Blocks that a multiprocessor runs at once; 0: the kernel cannot be launched."""
    threads = THREADS.get(usage.kernel.split("<")[0], 1024)
    registers = -(-usage.registers // 8) * 8 * threads
    if shared_bytes > of.block_bytes or registers > REGISTERS:
        return 0
    return min(of.bytes // (shared_bytes + RESERVED_BYTES), REGISTERS // registers, of.threads // threads)


def test_every_kernel_fits_every_capability(usages, dynamic_bytes):
    names = demangled([usage.symbol for usage in usages])
    for capability, of in CAPABILITIES.items():
        for usage, name in zip(usages, names, strict=True):
            if usage.target == of.target:
                dynamic = dynamic_bytes[f"({name})" if "<" in name else name.split("_kernel(")[0] + "_kernel"]
                blocks = resident_blocks(usage, usage.static_bytes + dynamic, of)
                alike = LEAST_BLOCKS.get((usage.kernel.split("<")[0], capability), 1)
                least = LEAST_BLOCKS.get((usage.kernel, capability), alike)
                assert blocks >= least, (
                    f"{name} on {capability}: {usage.registers} registers, {dynamic:,} bytes, {blocks} blocks"
                )


def test_a_kernel_too_large_for_a_capability_would_be_seen():
    """102,400 bytes, which decode with heads of 128 once asked for, are more than 8.6, 8.9 and 12.0 have."""
    usage = Usage("mma_decode_kernel<BFloat16, 128>", "sm_80", 168, 0, 0)
    assert {name for name, of in CAPABILITIES.items() if not resident_blocks(usage, 102_400, of)} == {"8.6", "8.9", "12.0"}


def test_spills_would_be_seen():
    """The words of ptxas 13.0."""
    text = """ptxas info    : Compiling entry function '_ZN14prefill_kernelINS0_8BFloat16ELi256EEEvNS0_4ArgsE' for 'sm_80'
ptxas info    : Function properties for _ZN14prefill_kernelINS0_8BFloat16ELi256EEEvNS0_11PrefillArgsE
    24 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 24 bytes cumulative stack size, 512 bytes cmem[0]
"""
    (usage,) = parse(text)
    assert usage == Usage("prefill_kernel<BFloat16, 256>", "sm_80", 255, 24, 12, usage.symbol)
