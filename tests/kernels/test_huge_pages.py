"""Packed weights lie in pages of 2 MiB where products read those faster, and are as good where the system has none."""

import mmap
import re
from pathlib import Path

import pytest
import torch

from pagecli.core import arrays
from pagecli.devices.cpu import kernels

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def asks_for_huge_pages(array) -> bool:
    """Whether the mapping that an array lies in has asked for them."""
    address = array.ctypes.data
    for entry in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", entry)
        if bounds and int(bounds[1], 16) <= address < int(bounds[2], 16):
            return "hg" in re.findall(r"VmFlags: (.*)", entry)[0].split()
    raise AssertionError("the array lies in no mapping")


@pytest.mark.skipif(not THP.exists(), reason="this kernel has no transparent huge pages")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int8-a16"])
def test_large_float_weights_ask_for_them_on_avx2(isa, dtype):
    expected = isa == "avx2" and dtype == "float32"
    packed = kernels.pack_weight(torch.zeros(1024, 2048), dtype)
    assert asks_for_huge_pages(packed.data) == expected
    experts = kernels.pack_experts([torch.zeros(1024, 1024)] * 2, 2, dtype)
    assert asks_for_huge_pages(experts.data) == expected


def test_a_kernel_that_refuses_them_gives_ordinary_ones(monkeypatch):
    asked = []

    class Refusing(mmap.mmap):
        def madvise(self, *advice):
            asked.append(advice)
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(arrays.mmap, "mmap", Refusing)
    plane = arrays.empty((1 << 20,), huge_pages=True)
    plane[:] = 1.0
    assert plane.sum() == 1 << 20
    assert asked == [(mmap.MADV_HUGEPAGE,)]
