"""The KV pool asks the system for pages of 2 MiB, unless PAGECLI_HUGE_PAGES=0, and is as good without them."""

import mmap
import re
from pathlib import Path

import pytest

from pagecli.core import arrays
from pagecli.devices.cpu import runner
from pagecli.model.registry import resolve_model

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def flags_of(array) -> set[str]:
    """The flags of the mapping that an array lies in."""
    address = array.ctypes.data
    for entry in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", entry)
        if bounds and int(bounds[1], 16) <= address < int(bounds[2], 16):
            return set(re.findall(r"VmFlags: (.*)", entry)[0].split())
    raise AssertionError("the array lies in no mapping")


def pool(num_blocks: int = 64):
    config = resolve_model("opt-125m", "dummy").config
    return runner.allocate(config, num_blocks, 16, "bfloat16")


@pytest.mark.skipif(not THP.exists(), reason="this kernel has no transparent huge pages")
@pytest.mark.parametrize(("setting", "asks"), [(None, True), ("1", True), ("0", False)])
def test_the_pool_asks_for_huge_pages(monkeypatch, setting, asks):
    monkeypatch.delenv("PAGECLI_HUGE_PAGES", raising=False)
    if setting is not None:
        monkeypatch.setenv("PAGECLI_HUGE_PAGES", setting)
    cache = pool()
    assert {"hg" in flags_of(plane) for plane in cache.keys + cache.values} == {asks}


def test_a_kernel_that_refuses_them_gives_ordinary_ones(monkeypatch):
    class Refusing(mmap.mmap):
        def madvise(self, *_):
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(arrays.mmap, "mmap", Refusing)
    plane = arrays.empty((1 << 20,), huge_pages=True)
    plane[:] = 1.0
    assert plane.sum() == 1 << 20
