"""Which kernels a process uses: the best the machine has, another when PAGECLI_CPU_ISA says so, an error when it cannot."""

import pytest
import torch

from pagecli.devices.cpu import kernels
from pagecli.errors import UsageError


def test_the_generic_kernels_are_always_there():
    assert kernels.supported_isas()[-1] == "generic"
    assert kernels.isa_name() in kernels.supported_isas()


def test_forced(isa, monkeypatch):
    monkeypatch.setenv("PAGECLI_CPU_ISA", "generic")
    kernels._force_isa(kernels._native)
    assert kernels.isa_name() == "generic"


def test_unknown_or_absent(monkeypatch):
    before = kernels.isa_name()
    monkeypatch.setenv("PAGECLI_CPU_ISA", "sse9")
    with pytest.raises(UsageError, match="PAGECLI_CPU_ISA: this machine has no kernels for 'sse9'") as error:
        kernels._force_isa(kernels._native)
    assert error.value.hint is not None
    assert "generic" in error.value.hint
    assert kernels.isa_name() == before


def test_another_extension_file_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("PAGECLI_NATIVE_MODULE", str(tmp_path / "none.so"))
    with pytest.raises(UsageError, match=r"PAGECLI_NATIVE_MODULE: .*none\.so is not an extension module"):
        kernels._load_extension()


@pytest.mark.usefixtures("restore_threads")
def test_the_number_of_threads_is_ours_alone():
    torchs = torch.get_num_threads()
    kernels.set_num_threads(torchs + 1)
    assert kernels._native.num_threads() == torchs + 1
    assert torch.get_num_threads() == torchs
    with pytest.raises(ValueError, match="num_threads: expected 1 or more, got 0"):
        kernels.set_num_threads(0)
