"""What is planned for: the catalogue of GPUs, this machine's own by NVML, its CPUs, and the time of a step on them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pynvml
import pytest
from fake_nvml import GIB, FakeNvml, Gpu, mig_part
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.devices.cpu import kernels
from pagecli.errors import UsageError
from pagecli.model.registry import resolve_model
from pagecli.profiler.plan import local_device
from pagecli.profiler.plan.gpus import find_gpu, gpu_names, match_gpu
from pagecli.profiler.plan.local_device import find_gpus, host_device
from pagecli.profiler.plan.roofline import StepTime

OPT_13B = resolve_model("opt-13b", "dummy").config


class NamedNvml(FakeNvml):
    """With what a plan asks beside the sampler: names, and for unknown devices clocks, bus and cores."""

    def nvmlDeviceGetName(self, device):
        return self._read(device, "Name")

    def nvmlDeviceGetMemoryBusWidth(self, device):
        return self._read(device, "MemoryBusWidth")

    def nvmlDeviceGetNumGpuCores(self, device):
        return self._read(device, "NumGpuCores")

    def nvmlDeviceGetMaxClockInfo(self, device, kind):
        return self._read(device, "MaxMemoryClock" if kind == pynvml.NVML_CLOCK_MEM else "MaxClock")


def memory(gib: float) -> SimpleNamespace:
    return SimpleNamespace(total=int(gib * GIB), free=0, used=0)


def test_names_are_taken_however_they_are_written():
    assert find_gpu("A100_80GB") == find_gpu("a100-80gb")
    assert find_gpu("h100-80gb").name == "h100"
    assert {"a100-40gb", "a100-80gb", "a10g", "h100", "h200", "l4", "l40s", "t4", "v100", "b200"} <= set(gpu_names())


@pytest.mark.parametrize(
    ("name", "hint"),
    [("a100", "a100-40gb or a100-80gb"), ("h10", "h100"), ("rtx4090", "rtx-4090"), ("", "known: a100"), ("tpu", "known: a100")],
)
def test_an_unknown_gpu_is_a_usage_error_with_near_names(name, hint):
    with pytest.raises(UsageError, match="no GPU") as caught:
        find_gpu(name)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("driver_name", "gib", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", 79.2, "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", 79.2, "a100-80gb"),
        ("NVIDIA H100 PCIe", 79.1, "h100-pcie"),
        ("NVIDIA H100 80GB HBM3", 79.1, "h100"),
        ("NVIDIA H200", 139.8, "h200"),
        ("Tesla V100-SXM2-32GB", 31.7, "v100-32gb"),
        ("Tesla T4", 14.6, "t4"),
        ("NVIDIA A10G", 22.1, "a10g"),
        ("NVIDIA L40S", 44.4, "l40s"),
        ("NVIDIA GeForce RTX 4090", 23.6, "rtx-4090"),
        ("NVIDIA RTX A6000", 47.5, "rtx-a6000"),
    ],
)
def test_a_drivers_name_finds_the_data_sheet_and_keeps_the_real_memory(driver_name, gib, name):
    device = match_gpu(driver_name, int(gib * GIB))
    assert device is not None
    assert (device.name, device.memory_bytes) == (name, int(gib * GIB))
    assert device.bandwidth == find_gpu(name).bandwidth


def test_this_machines_gpus_are_read_by_nvml(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    two = [Gpu(Name=name, MemoryInfo=memory(139.8)) for name in ("NVIDIA H200", b"NVIDIA H200")]
    nvml = NamedNvml(*two)
    local = find_gpus(nvml)
    assert local.device is not None
    assert (local.device.name, local.device.memory_bytes, local.num_devices) == ("h200", int(139.8 * GIB), 2)
    assert nvml.num_users == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert find_gpus(nvml).num_devices == 1
    for nothing in ("", "\u00b2"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", nothing)
        assert find_gpus(nvml).device is None


def test_a_mig_instance_has_its_share_of_the_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    divided = Gpu(mig=[None, mig_part()], Name="NVIDIA A100-SXM4-80GB", MemoryInfo=memory(80))
    device = find_gpus(NamedNvml(divided)).device
    assert device is not None
    assert device.memory_bytes == 10 * GIB
    assert device.bandwidth == pytest.approx(find_gpu("a100-80gb").bandwidth / 8)


def test_a_gpu_the_catalogue_has_not_is_estimated_by_its_clocks(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    clocks = {"MemoryBusWidth": 256, "MaxMemoryClock": 7000, "MaxClock": 1800, "NumGpuCores": 5120}
    device = find_gpus(NamedNvml(Gpu(Name="NVIDIA GeForce GTX 9999", MemoryInfo=memory(12), **clocks))).device
    assert device is not None
    assert (device.bandwidth, device.single_flops) == (2 * 32 * 7e9, 2 * 5120 * 1.8e9)


@pytest.mark.parametrize("code", ["DRIVER_NOT_LOADED", "LIBRARY_NOT_FOUND", "NO_PERMISSION"])
def test_no_driver_is_a_note_of_one_line(code):
    local = find_gpus(NamedNvml(init_error=getattr(pynvml, f"NVML_ERROR_{code}")))
    assert local.device is None
    assert local.note.startswith("no NVIDIA GPU: ")
    assert "\n" not in local.note


def test_the_host_is_its_free_memory_and_its_cores(monkeypatch):
    monkeypatch.setattr(local_device, "available_bytes", lambda: 7 * GIB)
    monkeypatch.setattr(local_device, "usable_cores", lambda: 4)
    monkeypatch.setenv("PAGECLI_CPU_ISA", "avx512bf16")
    device = host_device()
    assert (device.kind, device.memory_bytes, device.half_flops) == ("host", 7 * GIB, 4 * 200e9)
    assert local_device.multiplies_bfloat16()
    monkeypatch.setenv("PAGECLI_CPU_ISA", "avx2")
    assert not local_device.multiplies_bfloat16()


def test_the_instruction_set_is_found_as_the_kernels_find_it(monkeypatch):
    monkeypatch.delenv("PAGECLI_CPU_ISA", raising=False)
    assert local_device.isa() == kernels.supported_isas()[0]


@pytest.mark.parametrize(
    ("line", "isa"),
    [
        ("Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs", "neon"),
        ("Features\t: fp asimd asimdhp asimddp sve i8mm svebf16 bf16 dgh rng", "neon_bf16"),
        ("Features\t: fp asimd evtstrm crc32 cpuid", "generic"),
        ("flags\t\t: fpu sse2 avx fma avx2", "avx2"),
    ],
)
def test_the_instruction_set_is_read_of_any_processor(monkeypatch, line, isa):
    monkeypatch.delenv("PAGECLI_CPU_ISA", raising=False)
    monkeypatch.setattr(Path, "read_text", lambda path: f"processor\t: 0\n{line}\n")
    assert local_device.isa() == isa
    assert local_device.multiplies_bfloat16() == (isa == "neon_bf16")


def test_a_step_of_opt_13b_on_an_h200_is_as_by_hand():
    """25.7 GB of weights and 400 x 330 x 819,200 bytes of KV at 4.32 TB/s: 31 ms."""
    seconds = StepTime(OPT_13B, find_gpu("h200")).seconds(400, 400, 400 * 330)
    assert seconds == pytest.approx((25.7e9 + 400 * 331 * 819_200) / (0.9 * 4.8e12), rel=0.01)
    prefill = StepTime(OPT_13B, find_gpu("h200")).seconds(8192, 4, 8192)
    assert prefill == pytest.approx(2 * 12.6e9 * 8192 / (0.8 * 989e12), rel=0.1)


@given(st.lists(st.tuples(st.integers(1, 2048), st.integers(1, 256), st.integers(1, 10**6)), min_size=1, max_size=5))
@settings(max_examples=25)
def test_arrays_of_steps_take_what_each_step_takes(steps):
    timer = StepTime(OPT_13B, find_gpu("a100-80gb"), num_gpus=2)
    columns = [np.array(column, float) for column in zip(*steps, strict=True)]
    each = [timer.seconds(*map(float, step)) for step in steps]
    np.testing.assert_allclose(timer.seconds(*columns), each)


def test_more_gpus_more_work_and_more_overhead_change_a_step_as_they_should():
    a100 = find_gpu("a100-80gb")
    one, two = StepTime(OPT_13B, a100), StepTime(OPT_13B, a100, num_gpus=2)
    assert one.seconds(32, 32, 10_000) / 2 < two.seconds(32, 32, 10_000) < one.seconds(32, 32, 10_000)
    assert one.seconds(32, 32, 20_000) > one.seconds(32, 32, 10_000)
    assert one.seconds(4096, 32, 10_000) > one.seconds(64, 32, 10_000)
    with_overhead = StepTime(OPT_13B, a100, overhead_seconds=0.01)
    assert with_overhead.seconds(32, 32, 10_000) == pytest.approx(one.seconds(32, 32, 10_000) + 0.01)
    assert one.is_memory_bound(32, 32, 10_000)
    assert not one.is_memory_bound(4096, 4, 4096)
