"""Every operation is one line of operations.def, and has a header, a source and a binding of the same name."""

import re
from pathlib import Path

import pytest

from pagecli.devices.cpu import kernels

CSRC = Path(__file__).resolve().parents[2] / "csrc"
LIST = (CSRC / "include/pagecli/operations.def").read_text()
CPU = re.findall(r"^CPU_(?:KERNEL\((\w+), \w+|FUNCTION\((\w+)), (\S+)\)$", LIST, re.MULTILINE)
CPU_SOURCES = {kernel or function: source for kernel, function, source in CPU}
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
