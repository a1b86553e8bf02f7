"""Every operation is one line of operations.def, and has a header, a source and a binding of the same name."""

import re
from pathlib import Path

import pytest

from pagecli.devices.cpu import kernels

CSRC = Path(__file__).resolve().parents[2] / "csrc"
LIST = (CSRC / "include/pagecli/operations.def").read_text()
CPU = re.findall(r"^CPU_(KERNEL|PRODUCT|FUNCTION)\((\w+)(?:, \w+)?, (\S+)\)$", LIST, re.MULTILINE)
CPU_SOURCES = {name: source for _, name, source in CPU}
CUDA_SOURCES = dict(re.findall(r"^CUDA_OPERATION\((\w+), (\S+)\)$", LIST, re.MULTILINE))
BOUND_AS = {"peak": "peak_operations"}
SHARED_HEADERS = {
    "swap_blocks": "copy_blocks",
    "forbid_tokens": "mask_logits",
    "paged_attention_decode": "paged_attention",
    "paged_attention_prefill": "paged_attention",
}


@pytest.mark.parametrize("name", CPU_SOURCES)
def test_operation_of_the_cpu_has_all_that_belongs_to_it(name):
    room, _, _ = CPU_SOURCES[name].partition("/")
    assert (CSRC / "cpu" / CPU_SOURCES[name]).is_file()
    assert (CSRC / "include" / "pagecli" / room / f"{name}.h").is_file()
    assert hasattr(kernels._native, BOUND_AS.get(name, name))


@pytest.mark.parametrize("name", CUDA_SOURCES)
def test_operation_of_gpus_has_all_that_belongs_to_it(name):
    room, _, _ = CUDA_SOURCES[name].partition("/")
    assert (CSRC / "cuda" / CUDA_SOURCES[name]).is_file()
    assert (CSRC / "include" / "pagecli" / "cuda" / room / f"{SHARED_HEADERS.get(name, name)}.h").is_file()


def test_no_kernel_is_left_out():
    listed = {CSRC / "cpu" / source for source in CPU_SOURCES.values()} | {CSRC / "cuda" / s for s in CUDA_SOURCES.values()}
    kernels = [*(CSRC / "cpu").glob("*/*.cpp"), *(CSRC / "cuda").glob("*/*.cu")]
    assert {path.name for path in kernels if path not in listed} == {"isa.cpp", "kernel_table.cpp", "paged_attention_e4m3.cu"}


def includes(path: Path) -> set[Path]:
    """The file, and what it includes of csrc/cpu."""
    found, left = set(), [path]
    while left:
        path = left.pop()
        found.add(path)
        for name in re.findall(r'^#include "(.*)"', path.read_text(), re.MULTILINE):
            left += [p for p in (path.parent / name, CSRC / "cpu" / name) if p.is_file() and p not in found]
    return found


def test_instruction_sets_that_add_products_change_no_other_kernel():
    """What a set adds to the one below it stands in the files of products, and in vec.h under these names."""
    added = r"quads\.h|matrix_unit\.h|accumulate_(pairs|int16|bytes)|pair_dot|pairs_can_be_widened|BF16|VNNI|MATMUL_INT8|AMX"
    sources = {kind: {CSRC / "cpu" / source for k, _, source in CPU if k == kind} for kind in ("KERNEL", "PRODUCT")}
    uses = {kind: {p for source in sources[kind] for p in includes(source)} for kind in sources}
    users = {kind: {p.name for p in uses[kind] if re.search(added, p.read_text())} for kind in uses}
    vectors = {"vec.h", "vec_avx512.h", "vec_neon.h", "vec_avx2.h", "vec_generic.h"}
    assert users["KERNEL"] == vectors
    assert {"quads.h", "linear_tile_amx.h", "linear_run.h"} < users["PRODUCT"] - vectors
