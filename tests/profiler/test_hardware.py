"""Readings of the hardware during a run: what drivers refuse is None and said, and the thread ends with the run always."""

import inspect
import os
import threading
import time
from types import SimpleNamespace

import pynvml
import pytest
from fake_nvml import GIB, Error, FakeNvml, Gpu, mig_part, process

from pagecli.profiler.hardware import monitor as monitoring
from pagecli.profiler.hardware.host_usage import HostSampler
from pagecli.profiler.hardware.monitor import HardwareMonitor
from pagecli.profiler.hardware.nvml import NvmlSampler, NvmlUnavailable

NOT_SUPPORTED = Error(pynvml.NVML_ERROR_NOT_SUPPORTED)
NO_PERMISSION = Error(pynvml.NVML_ERROR_NO_PERMISSION)
LOST = Error(pynvml.NVML_ERROR_GPU_IS_LOST)


def watch(nvml, seconds=0.03, interval=0.005):
    with HardwareMonitor(time.perf_counter(), interval, nvml) as monitor:
        time.sleep(seconds)
    assert not [t for t in threading.enumerate() if t.name == "pagecli-hardware"], "the thread ends with the run"
    return monitor


def by_device(samples):
    return {sample.device: sample for sample in samples}


def test_the_stand_in_has_the_real_librarys_functions():
    functions = {name: f for name, f in vars(FakeNvml).items() if name.startswith("nvml")}
    assert len(functions) > 10
    for name, function in functions.items():
        real = list(inspect.signature(getattr(pynvml, name)).parameters)
        assert list(inspect.signature(function).parameters)[1:] == real, name


def test_a_gpu_is_read_in_all_its_fields():
    ours = process(os.getpid(), 20 * GIB)
    gpu = Gpu(ComputeRunningProcesses=[ours, process(os.getpid() + 1, 5 * GIB)])
    nvml = FakeNvml(gpu)
    sampler = NvmlSampler(nvml)
    sampler.sample(0.0)
    (sample,) = sampler.sample(0.2)
    sampler.close()
    assert sample.device == "gpu0"
    assert (sample.memory_used_bytes, sample.process_memory_bytes) == (30 * GIB, 20 * GIB)
    assert (sample.utilization_percent, sample.memory_utilization_percent) == (90.0, 40.0)
    assert (sample.power_watts, sample.energy_joules) == (300.0, 60.0), "energy counts from the first reading"
    assert (sample.clock_mhz, sample.temperature_celsius) == (1980, 61)
    assert sample.throttle_reasons == ("power cap",), "an idle GPU is not throttled"
    assert sampler.note() == ""
    assert nvml.num_users == 0


def test_fields_a_device_does_not_have_are_asked_for_once_and_said():
    gpu = Gpu(UtilizationRates=NOT_SUPPORTED, PowerUsage=NOT_SUPPORTED, TotalEnergyConsumption=NOT_SUPPORTED)
    sampler = NvmlSampler(FakeNvml(gpu))
    for i in range(3):
        (sample,) = sampler.sample(i)
    assert sample.utilization_percent is sample.power_watts is sample.energy_joules is None
    assert sample.memory_used_bytes == 30 * GIB
    assert gpu.num_reads["UtilizationRates"] == gpu.num_reads["PowerUsage"] == 1
    assert sampler.note() == "gpu0: utilization, power, energy counter cannot be read (Not Supported)"


def test_without_an_energy_counter_power_is_integrated():
    gpu = Gpu(TotalEnergyConsumption=NOT_SUPPORTED, PowerUsage=lambda n: 100_000 * n)
    sampler = NvmlSampler(FakeNvml(gpu))
    energies = [sampler.sample(seconds)[0].energy_joules for seconds in (0.0, 1.0, 3.0)]
    assert energies == [0.0, 150.0, 650.0]


def test_missing_permission_leaves_the_rest_readable():
    sampler = NvmlSampler(FakeNvml(Gpu(ComputeRunningProcesses=NO_PERMISSION)))
    (sample,) = sampler.sample(0.0)
    assert sample.process_memory_bytes is None
    assert sample.power_watts == 300.0
    assert "memory by process cannot be read (Insufficient Permissions)" in sampler.note()


@pytest.mark.parametrize(
    ("processes", "seen"),
    [
        ([], 0),
        ([process(1, GIB)], None),  # a container: the driver's process ids are not ours
        ([process(os.getpid(), None)], None),  # the driver does not say how much
        ([process(os.getpid(), GIB), process(os.getpid(), GIB)], 2 * GIB),
    ],
)
def test_memory_by_process(processes, seen):
    (sample,) = NvmlSampler(FakeNvml(Gpu(ComputeRunningProcesses=processes))).sample(0.0)
    assert sample.process_memory_bytes == seen


def test_older_drivers_know_throttle_reasons_by_their_older_name():
    gpu = Gpu(CurrentClocksEventReasons=Error(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND), CurrentClocksThrottleReasons=0x44)
    sampler = NvmlSampler(FakeNvml(gpu))
    (sample,) = sampler.sample(0.0)
    assert sample.throttle_reasons == ("power cap", "hardware thermal slowdown")


def test_a_gpu_divided_by_mig_shows_memory_by_part_and_power_as_a_whole():
    parts = [mig_part(5 * GIB, ComputeRunningProcesses=[process(os.getpid(), 4 * GIB)]), None, mig_part(1 * GIB)]
    whole = Gpu(mig=parts, MemoryInfo=NO_PERMISSION, UtilizationRates=NOT_SUPPORTED)
    sampler = NvmlSampler(FakeNvml(whole))
    samples = by_device(sampler.sample(0.0))
    assert list(samples) == ["gpu0", "gpu0/mig0", "gpu0/mig2"]
    assert samples["gpu0"].power_watts == 300.0
    assert samples["gpu0"].memory_used_bytes is samples["gpu0"].utilization_percent is None
    assert samples["gpu0/mig0"].memory_used_bytes == 5 * GIB
    assert samples["gpu0/mig0"].process_memory_bytes == 4 * GIB
    assert samples["gpu0/mig2"].power_watts is None
    assert "mig" not in sampler.note(), "what a part cannot have is not missing"


def test_a_device_lost_during_the_run_ends_its_own_series_only():
    dying = Gpu(PowerUsage=lambda n: 250_000 if n < 3 else LOST)
    sampler = NvmlSampler(FakeNvml(dying, Gpu()))
    seen = [list(by_device(sampler.sample(i))) for i in range(5)]
    assert seen == [["gpu0", "gpu1"]] * 2 + [["gpu1"]] * 3
    assert sampler.note() == "gpu0: device lost after 2.0 s (GPU is lost)"
    assert dying.num_reads["PowerUsage"] == 3


def test_a_hiccup_costs_one_reading():
    gpu = Gpu(PowerUsage=lambda n: Error(pynvml.NVML_ERROR_TIMEOUT) if n == 2 else 200_000)
    sampler = NvmlSampler(FakeNvml(gpu))
    assert [sampler.sample(i)[0].power_watts for i in range(3)] == [200.0, None, 200.0]
    assert sampler.note() == ""


@pytest.mark.parametrize(
    ("nvml", "why"),
    [
        (FakeNvml(init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND), "NVML Shared Library Not Found"),
        (FakeNvml(init_error=pynvml.NVML_ERROR_DRIVER_NOT_LOADED), "Driver Not Loaded"),
        (FakeNvml(init_error=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH), "version mismatch"),
        (FakeNvml(), "shows no device"),
        (FakeNvml(LOST), "shows no device"),
    ],
)
def test_without_a_usable_gpu_the_host_takes_its_place_and_one_line_says_so(nvml, why):
    with pytest.raises(NvmlUnavailable, match=why):
        NvmlSampler(nvml)
    assert nvml.num_users == 0
    monitor = watch(nvml)
    assert monitor.note.count("no GPU readings") == 1
    assert "\n" not in monitor.note
    assert {sample.device for sample in monitor.samples} == {"host"}


def test_the_real_library_on_a_machine_without_a_driver_is_refused_alike():
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        assert {s.device for s in watch(None).samples} == {"host"}
    else:
        pynvml.nvmlShutdown()
        assert "gpu0" in {s.device for s in watch(None, seconds=0.5).samples}


def test_the_monitor_reads_from_the_beginning_to_the_end():
    nvml = FakeNvml(Gpu())
    monitor = watch(nvml, seconds=0.1)
    gpu = [s for s in monitor.samples if s.device == "gpu0"]
    host = [s for s in monitor.samples if s.device == "host"]
    assert len(gpu) == len(host) > 3
    assert gpu[0].seconds < 0.05
    assert gpu[-1].seconds > 0.09
    assert [s.seconds for s in gpu] == sorted(s.seconds for s in gpu)
    assert gpu[-1].energy_joules == 60.0 * (len(gpu) - 1)
    assert host[-1].process_memory_bytes > 1 << 20
    assert host[-1].cpu_seconds >= 0
    assert nvml.num_users == 0


def test_an_end_right_after_the_beginning_still_has_a_reading():
    assert len(watch(FakeNvml(Gpu()), seconds=0, interval=60).samples) >= 2


def test_a_failing_run_ends_the_thread_too():
    monitor = HardwareMonitor(time.perf_counter(), 0.005, FakeNvml(Gpu()))
    with pytest.raises(RuntimeError), monitor:
        raise RuntimeError("the run failed")
    assert not monitor._thread.is_alive()
    assert monitor.samples


def test_a_driver_that_hangs_does_not_hold_the_run_up(monkeypatch):
    monkeypatch.setattr(monitoring, "JOIN_SECONDS", 0.05)
    released = threading.Event()
    gpu = Gpu(PowerUsage=lambda n: released.wait(10) and 100_000)
    monitor = HardwareMonitor(time.perf_counter(), 0.005, FakeNvml(gpu))
    started = time.perf_counter()
    with monitor:
        pass
    assert time.perf_counter() - started < 5
    assert "did not come back" in monitor.note
    released.set()
    monitor._thread.join(10)


def test_a_bug_in_a_reading_is_a_note_and_no_crash():
    gpu = Gpu(UtilizationRates=SimpleNamespace())  # a structure without its fields
    monitor = watch(FakeNvml(gpu))
    assert "hardware was not read to the end (AttributeError" in monitor.note


@pytest.mark.slow
def test_a_long_run_keeps_a_bounded_number_of_readings(monkeypatch):
    monkeypatch.setattr(monitoring, "MAX_ROUNDS", 8)
    monitor = watch(FakeNvml(Gpu()), seconds=0.25, interval=0.001)
    assert 4 <= len(monitor.samples) // 2 <= 8
    assert monitor.samples[-1].seconds > 0.2
    assert monitor.samples[0].seconds < 0.1


def package(folder, name, microjoules, limit=1000_000):
    folder.mkdir()
    (folder / "name").write_text(name + "\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{limit}\n")


def test_the_processors_energy_is_summed_over_packages_and_past_the_counters_limit(tmp_path):
    package(tmp_path / "intel-rapl:0", "package-0", 900_000)
    package(tmp_path / "intel-rapl:1", "package-1", 0)
    package(tmp_path / "intel-rapl:0:0", "core", 500)  # a part of package 0, counted there
    sampler = HostSampler(tmp_path)
    assert sampler.sample(0.0)[0].energy_joules == 0.0
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("100000\n")  # past 1 J, begun anew
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("300000\n")
    (sample,) = sampler.sample(2.0)
    assert sample.energy_joules == pytest.approx(0.5)
    assert sample.power_watts == pytest.approx(0.25)
    assert sampler.note() == ""


def test_a_reading_right_after_another_is_no_mean_of_its_own(tmp_path):
    """As the last one of a run may be: CPU time is counted in hundredths of a second."""
    package(tmp_path / "intel-rapl:0", "package-0", 0)
    sampler = HostSampler(tmp_path)
    sampler.sample(0.0)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("500000\n")
    (soon,) = sampler.sample(0.002)
    assert soon.utilization_percent is soon.power_watts is None
    (later,) = sampler.sample(2.0)
    assert later.utilization_percent is not None
    assert later.power_watts == pytest.approx(0.25)  # of all the time since the first one


def test_energy_that_cannot_be_read_is_said(tmp_path):
    assert "no energy counter" in HostSampler(tmp_path).note()
    package(tmp_path / "intel-rapl:0", "package-0", 5)
    (tmp_path / "intel-rapl:0" / "max_energy_range_uj").unlink()
    sampler = HostSampler(tmp_path)
    assert "cannot be read" in sampler.note()
    assert sampler.sample(0.0)[0].energy_joules is None
