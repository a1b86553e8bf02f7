"""Which kernels a process uses: the best the machine has, another when PAGECLI_CPU_ISA says so, an error when it cannot."""

import pytest
import torch

from pagecli.errors import UsageError
from pagecli.kernels import native


def test_the_generic_kernels_are_always_there():
    assert native.supported_isas()[-1] == "generic"
    assert native.isa_name() in native.supported_isas()


def test_forced(isa, monkeypatch):
    monkeypatch.setenv("PAGECLI_CPU_ISA", "generic")
    native._force_isa(native._native)
    assert native.isa_name() == "generic"


def test_unknown_or_absent(monkeypatch):
    before = native.isa_name()
    monkeypatch.setenv("PAGECLI_CPU_ISA", "sse9")
    with pytest.raises(UsageError, match="PAGECLI_CPU_ISA: this machine has no kernels for 'sse9'") as error:
        native._force_isa(native._native)
    assert error.value.hint is not None
    assert "generic" in error.value.hint
    assert native.isa_name() == before


def test_another_extension_file_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("PAGECLI_NATIVE_MODULE", str(tmp_path / "none.so"))
    with pytest.raises(UsageError, match=r"PAGECLI_NATIVE_MODULE: .*none\.so is not an extension module"):
        native._load_extension()


@pytest.mark.usefixtures("restore_threads")
def test_threads_are_shared_with_torch():
    native.set_num_threads(2)
    assert native._native.num_threads() == torch.get_num_threads() == 2
    with pytest.raises(ValueError, match="num_threads: expected 1 or more, got 0"):
        native.set_num_threads(0)
