"""A plan's rates on this machine: measured once, kept, said, and the same for `profile` and `generate --dry-run`."""

import json
from dataclasses import replace

import pytest
import torch

from pagecli.cli.app import main
from pagecli.devices.cuda import rates as gpu_rates
from pagecli.model.registry import resolve_model
from pagecli.profiler.plan import local_device, measured_rates
from pagecli.profiler.plan.gpus import find_gpu
from pagecli.profiler.plan.local_device import LocalGpus, host_device
from pagecli.profiler.plan.measured_rates import Rates, at_measured_rates
from pagecli.profiler.plan.roofline import StepTime

RATES = Rates(3e9, 5e10, 2e10)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """measured(kind) -> the measurements of that kind of device, one entry each, which give RATES; nothing is kept before."""
    monkeypatch.setenv("PAGECLI_CACHE_DIR", str(tmp_path / "kept"))
    calls = {"gpu": [], "host": []}
    for kind, found in calls.items():
        monkeypatch.setattr(measured_rates, f"_measure_{kind}", lambda found=found: found.append(1) or RATES)
    return calls.__getitem__


def test_a_device_is_measured_by_its_first_plans_and_another_again(measured, monkeypatch):
    monkeypatch.setattr(measured_rates, "MEASUREMENTS", 1)
    host = host_device()
    for _ in range(2):
        found = at_measured_rates(host)
        assert (found.bandwidth, found.half_flops, found.single_flops) == (3e9, 5e10, 2e10)
        assert (found.source, found.is_reached) == ("measured on this machine", True)
    assert len(measured("host")) == 1
    at_measured_rates(replace(host, title="twice the cores"))
    gpu = find_gpu("t4")
    at_measured_rates(gpu)
    at_measured_rates(replace(gpu, memory_bytes=gpu.memory_bytes - 1))
    assert (len(measured("host")), len(measured("gpu"))) == (2, 2)


def test_of_several_measurements_the_highest_rates_count(measured, monkeypatch):
    found = iter(
        [Rates(4.0, 9.0, 5.0), Rates(6.0, 8.0, 7.0), Rates(1.0, 1.0, 1.0), Rates(2.0, 10.0, 2.0), Rates(99.0, 99.0, 99.0)]
    )
    monkeypatch.setattr(measured_rates, "_measure_host", lambda: next(found))
    expected = [(4.0, 9.0, 5.0), (6.0, 9.0, 7.0), (6.0, 9.0, 7.0), (6.0, 10.0, 7.0), (6.0, 10.0, 7.0)]
    for rates in expected:
        device = at_measured_rates(host_device())
        assert (device.bandwidth, device.half_flops, device.single_flops) == rates
    assert len(list(found)) == 1


def test_where_nothing_is_kept_every_plan_measures(measured, monkeypatch):
    monkeypatch.setenv("PAGECLI_CACHE_DIR", "")
    assert at_measured_rates(host_device()) == at_measured_rates(host_device())
    assert len(measured("host")) == 2


def test_what_cannot_be_measured_is_as_the_table_or_the_data_sheet_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PAGECLI_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(measured_rates, "_measure_host", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in (find_gpu("h200"), host_device()):
        assert at_measured_rates(device) == device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_rates, "measure", lambda place: (_ for _ in ()).throw(torch.OutOfMemoryError("no room")))
    assert at_measured_rates(find_gpu("h200")).source == "data sheet"


def test_kernels_of_another_instruction_set_measure_nothing(monkeypatch):
    monkeypatch.setattr(measured_rates, "isa", lambda: "another")
    assert measured_rates._measure_host() is None


def test_the_cpu_and_the_emulated_gpu_reach_something(monkeypatch):
    monkeypatch.delenv("PAGECLI_CPU_ISA", raising=False)
    for each in ("READ_BYTES", "COLUMNS", "OUTPUTS"):
        monkeypatch.setattr(measured_rates, each, getattr(measured_rates, each) >> 3)
    host, gpu = measured_rates._measure_host(), Rates(*gpu_rates.measure(torch.device("cpu"), 1 << 16, 32, 16))
    for found in (host, gpu):
        assert min(found.bandwidth, found.half_flops, found.single_flops) > 1e6


def test_reached_rates_have_no_share_taken_off():
    config, sheet = resolve_model("opt-13b", "dummy").config, find_gpu("a100-80gb")
    half, reached = (StepTime(config, device).seconds(1, 1, 0) for device in (sheet, replace(sheet, is_reached=True)))
    assert half * 0.9 == pytest.approx(reached)


def test_profile_and_dry_run_say_the_time_of_the_same_rates(measured, monkeypatch, tmp_path, capsys, tiny_model):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"prompt": "x" * 100, "max_tokens": 100}) + "\n" for _ in range(8)))
    monkeypatch.setattr(local_device, "available_bytes", lambda: 8 << 30)
    monkeypatch.setattr("pagecli.cli.profile.plan.find_gpus", lambda: LocalGpus(None, 0, "no GPU"))

    def run(*command: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(list(command))
        assert ended.value.code == 0
        return capsys.readouterr().out

    model = str(tiny_model("llama"))
    dry = run("generate", str(source), str(tmp_path / "out.jsonl"), "-m", model, "--dry-run")
    flags = ("-m", model, "--workload", str(source), "--no-replay")
    report = json.loads(run("profile", *flags, "--json"))["plan"]
    rate = f"{report['estimate']['output_tokens_per_second']:,.0f} output tokens/s"
    assert f"at {rate}" in dry
    assert report["device"]["source"] == "measured on this machine"
    assert report["device"]["bandwidth_bytes_per_second"] == RATES.bandwidth
    assert "rates: measured on this machine" in run("profile", *flags, "--all")


def test_a_gpu_at_hand_is_planned_at_what_it_reaches(measured, monkeypatch, capsys):
    def device_of(*flags: str) -> dict:
        with pytest.raises(SystemExit):
            main(["profile", "-m", "opt-125m", "--json", "--no-replay", *flags])
        return json.loads(capsys.readouterr().out)["plan"]["device"]

    monkeypatch.setattr("pagecli.cli.profile.plan.find_gpus", lambda: LocalGpus(find_gpu("t4"), 1, ""))
    here, named = device_of(), device_of("--gpu", "t4")
    assert (here["kind"], here["source"]) == ("gpu", "measured on this machine")
    assert (here["bandwidth_bytes_per_second"], here["flops_per_second"]) == (3e9, 5e10)
    assert (named["source"], named["bandwidth_bytes_per_second"]) == ("data sheet", find_gpu("t4").bandwidth)
