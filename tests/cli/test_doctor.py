"""`pagecli doctor`: each check's verdicts, on this machine and on ones it is told of."""

import json
import os
import re
from pathlib import Path

import pytest

from pagecli.cli.app import main
from pagecli.cli.doctor import install_checks, machine_checks
from pagecli.cli.doctor.check import Check, Health, guarded, is_writable, nearest_existing
from pagecli.cli.doctor.install_checks import size_of


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    for name in os.environ:
        if name.startswith(("PAGECLI_", "XDG_", "OMP_NUM")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def doctor(capsys):
    def run(*args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["doctor", *args])
        return ended.value.code, capsys.readouterr().out

    return run


def test_every_check_has_a_verdict_and_this_machine_can_run_jobs(doctor):
    code, out = doctor("--json")
    report = json.loads(out)
    found = {check["name"]: check for check in report["checks"]}
    assert list(found) == [
        *("versions", "kernels", "cores", "processes", "memory", "GPU", "model cache", "state", "disk", "temporary", "settings")
    ]
    assert (code, report["ok"]) == (0, True)
    assert found["kernels"]["details"]["isa"] in found["kernels"]["details"]["supported_isas"]
    assert found["cores"]["details"]["usable_cores"] >= 1
    assert found["memory"]["details"]["available_bytes"] > 0
    assert {"torch", "pyarrow", "python"} <= set(found["versions"]["details"]["versions"])
    assert all(check["hint"] is None or "\n" not in check["hint"] for check in found.values())
    assert all((check["state"] == "ok") == (check["hint"] is None) for check in found.values())


@pytest.mark.slow
def test_a_failed_check_is_shown_with_its_hint_and_exit_code_1(doctor, place):
    (place / "pagecli.toml").write_text("max-token = 3")
    code, out = doctor()
    assert code == 1
    assert re.search(r"^fail  settings     pagecli.toml:1: max-token is no setting", out, re.MULTILINE)
    assert out.splitlines()[-1].strip().startswith("-> ")
    (place / "pagecli.toml").write_text('max-tokens = "many"')
    assert "max-tokens is 'many'" in doctor()[1]


def test_unknown_variables_are_a_warning(doctor, monkeypatch):
    monkeypatch.setenv("PAGECLI_SEAD", "1")
    code, out = doctor()
    assert code == 0
    assert "warn  settings     PAGECLI_SEAD in the environment is no setting of pagecli; did you mean PAGECLI_SEED" in out


def test_secrets_are_not_shown(doctor, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "opensesame42")
    monkeypatch.setenv("PAGECLI_MODEL", "https://u:opensesame42@h/m")
    code, out = doctor("--json")
    assert code == 0
    assert "opensesame42" not in out


@pytest.mark.parametrize(("gigabytes", "health"), [(0.1, "fail"), (1, "warn"), (16, "ok")])
def test_memory(monkeypatch, gigabytes, health):
    monkeypatch.setattr("pagecli.devices.memory.available_bytes", lambda: int(gigabytes * 2**30))
    assert machine_checks.memory().health == health


def test_threads_limited_from_outside_are_a_warning(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "99")
    assert machine_checks.cores().health is Health.warn


@pytest.mark.parametrize(("free", "health"), [(1 << 20, "fail"), (1 << 30, "warn"), (100 << 30, "ok")])
def test_disk_space(monkeypatch, free, health):
    monkeypatch.setattr(install_checks, "free_bytes", lambda path: free)
    assert install_checks.working_directory().health == health


def test_packages_that_are_missing_or_too_old(monkeypatch):
    wanted = ["torch>=2.10,<2.14", "surely-not-installed>=1", "numpy<1", "pytest; python_version < '3'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: wanted)
    found = install_checks.versions()
    assert found.health is Health.fail
    assert found.hint == "pip install 'surely-not-installed>=1'"
    wanted.pop(1)
    found = install_checks.versions()
    assert found.health is Health.warn
    assert "not tried with: numpy" in found.found


def test_a_native_module_that_does_not_load(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pagecli.devices.cpu.kernels", None)
    monkeypatch.delattr("pagecli.devices.cpu.kernels", raising=False)
    found = machine_checks.native_kernels()
    assert found.health is Health.fail
    assert "pip install" in found.hint


class FakeNvml:
    """As much of pynvml as the check asks for."""

    class NVMLError(Exception): ...

    def __init__(self, num_devices=1, error=None):
        self._num_devices, self._error = num_devices, error
        self.is_shut_down = False

    def nvmlInit(self):
        if self._error == "init":
            raise self.NVMLError("Driver/library version mismatch")

    def nvmlShutdown(self):
        self.is_shut_down = True

    def nvmlDeviceGetCount(self):
        if self._error == "count":
            raise self.NVMLError("GPU is lost")
        return self._num_devices

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetMemoryInfo(self, handle):
        return type("Memory", (), {"total": 140 << 30, "free": 139 << 30})

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        return 9, 0

    def nvmlDeviceGetName(self, handle):
        return b"NVIDIA H200"

    def nvmlSystemGetCudaDriverVersion(self):
        return 12080

    def nvmlSystemGetDriverVersion(self):
        return "570.1"


@pytest.mark.parametrize(
    ("nvml", "has_driver", "health", "says"),
    [
        (FakeNvml(2), True, None, "NVIDIA H200 and 1 more, 139.0 GiB of 140.0 GiB free, driver 570.1, CUDA 12.8"),
        (FakeNvml(0), True, "ok", "a driver without a device"),
        (FakeNvml(error="init"), False, "ok", "none; the CPU computes"),
        (FakeNvml(error="init"), True, "warn", "the driver does not answer: Driver/library version mismatch"),
        (FakeNvml(error="count"), True, "warn", "a GPU that does not answer: GPU is lost"),
        (None, False, "ok", "none; the CPU computes"),
        (None, True, "warn", "a driver, but it cannot be asked"),
    ],
)
def test_gpus(monkeypatch, tmp_path, nvml, has_driver, health, says):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml)
    monkeypatch.setattr(machine_checks, "DRIVER", tmp_path if has_driver else tmp_path / "none")
    found = machine_checks.gpu()
    assert says in found.found
    assert health is None or found.health == health
    assert nvml is None or nvml._error == "init" or nvml.is_shut_down


def test_a_check_that_breaks_is_a_failed_check():
    def broken() -> Check:
        raise RuntimeError("no /proc here")

    found = guarded("x", broken)
    assert (found.health, found.found) == (Health.fail, "RuntimeError: no /proc here")


def test_caches_that_are_not_there_yet_are_judged_by_what_is_above_them(tmp_path, monkeypatch):
    assert nearest_existing(tmp_path / "a" / "b") == tmp_path
    assert is_writable(tmp_path / "a" / "b")
    monkeypatch.setattr(install_checks, "is_writable", lambda path: False)
    found = install_checks.state()
    assert found.health is Health.warn
    assert "not there yet, not writable" in found.found


def test_sizes_count_what_is_on_the_disk_once(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "blob").write_bytes(os.urandom(1 << 20))
    os.link(tmp_path / "folder" / "blob", tmp_path / "again")
    os.symlink(tmp_path / "folder" / "blob", tmp_path / "link")
    size, is_whole = size_of(tmp_path)
    assert is_whole
    assert 1 << 20 <= size < 1.5 * (1 << 20)
    assert size_of(tmp_path, seconds=-1)[1] is False
    assert size_of(Path("/nowhere/at/all")) == (0, True)
