"""What vLLM does with flags, beside what it printed on machines of others; each row names where that is published.

Memory in GiB of one GPU. Where the report gives total memory, it is that; names of GPUs stand for the catalogue's.
"""

import json
from dataclasses import replace

import pytest

from pagecli.cli.app import main
from pagecli.model.registry import resolve_model
from pagecli.profiler.plan.gpus import find_gpu
from pagecli.profiler.plan.vllm import GIB, VllmFlags, VllmPlan

PLANNER = "llm-d-incubation/llm-d-planner docs/accuracy/vllm-v0.19.0-accuracy-report.md (49 runs on H100-80GB)"
H100 = ("h100", 79.19)


def plan_of(model, gpu, **flags) -> VllmPlan:
    name, memory = gpu if isinstance(gpu, tuple) else (gpu, None)
    device = find_gpu(name)
    if memory is not None:
        device = replace(device, memory_bytes=int(memory * GIB))
    return VllmPlan(resolve_model(model, "dummy").config, device, VllmFlags(**flags))


# (model, GPU, flags, tokens that "GPU KV cache size" says, source)
KV_CACHE_SIZES = [
    ("llama-3.1-8b", H100, {"gpu_memory_utilization": 0.95, "max_model_len": 8192}, 476_000, PLANNER),
    ("llama-3.1-8b", H100, {"gpu_memory_utilization": 0.95, "kv_cache_dtype": "fp8", "max_model_len": 8192}, 952_032, PLANNER),
    ("qwen2.5-7b", H100, {"gpu_memory_utilization": 0.95, "max_model_len": 8192}, 1_096_000, PLANNER),
    ("qwen2.5-7b", H100, {"gpu_memory_utilization": 0.95, "kv_cache_dtype": "fp8"}, 2_192_000, PLANNER),
    ("llama-3.1-8b", "a100-40gb", {"max_model_len": 32768}, 163_168, "Experiment 2 on GCP a2-highgpu-1g, note of 2026-05-03"),
    ("llama-3.1-8b", "rtx-a6000", {"max_model_len": 32768}, 221_824, "Experiment 2 on Insomnia, runs 8998340 to 8998342"),
]


@pytest.mark.parametrize(("model", "gpu", "flags", "tokens", "source"), KV_CACHE_SIZES)
def test_the_kv_cache_has_the_tokens_that_vllm_printed(model, gpu, flags, tokens, source):
    plan = plan_of(model, gpu, **flags)
    assert plan.kv_tokens == pytest.approx(tokens, rel=0.01), source
    assert plan.starts


# (model, flags, weights, peak of the step, outside of torch) on an H100 at 0.95, as vLLM 0.19.0 printed them
MEMORY = [
    ("llama-3.1-8b", {}, 14.99, 1.89, 0.25),
    ("llama-3.1-8b", {"tensor_parallel_size": 2}, 7.51, 1.89, 2.07),
    ("llama-3.1-8b", {"tensor_parallel_size": 4}, 3.77, 1.89, 2.13),
    ("llama-3.1-8b", {"dtype": "float32"}, 29.98, None, None),
    ("qwen2.5-7b", {}, 14.25, 2.21, 0.24),
    ("qwen2.5-7b", {"tensor_parallel_size": 4}, 3.55, 2.21, 2.13),
    ("qwen3-8b", {}, 15.27, 2.21, 0.25),
]


@pytest.mark.parametrize(("model", "flags", "weights", "peak", "outside"), MEMORY)
def test_memory_goes_where_vllm_said_it_does(model, flags, weights, peak, outside):
    plan = plan_of(model, H100, gpu_memory_utilization=0.95, **flags)
    assert plan.weights_bytes / GIB == pytest.approx(weights, rel=0.01), PLANNER
    if peak is not None:
        assert plan.peak_bytes / GIB == pytest.approx(peak, abs=0.05), PLANNER
        assert plan.outside_bytes / GIB == pytest.approx(outside, abs=0.05), PLANNER


def test_experts_count_as_weights():
    """Qwen3-30B-A3B on two devices: 28.4767 GiB of weights on each, as a vLLM-Ascend log of 2026-07-16 says."""
    assert plan_of("qwen3-30b-a3b", H100, tensor_parallel_size=2).weights_bytes / GIB == pytest.approx(28.4767, rel=0.005)


def test_a_request_that_does_not_fit_is_refused_with_the_length_that_vllm_names():
    """vllm-project/vllm issue 34076: 262,144 tokens need 24.0 GiB, and 3.18 GiB of KV memory take 34,736 tokens."""
    plan = plan_of("qwen3-30b-a3b", H100)
    assert plan.request_bytes(262_144) == 24 * GIB
    assert (plan.request_bytes(34_736) / GIB, plan.request_bytes(34_752) / GIB) == pytest.approx((3.18, 3.1817), abs=0.002)


def test_what_does_not_start_starts_with_each_of_the_changes_that_are_named():
    """Llama-3.1-8B at its own length on a 24 GiB GPU, the commonest of such reports (vllm issue 10517)."""
    plan = plan_of("llama-3.1-8b", ("rtx-3090", 23.58))
    assert not plan.starts
    assert 30_000 < plan.longest() < 50_000
    changes = dict(plan.changes())
    assert f"--max-model-len {plan.longest()}" in changes
    assert "--tensor-parallel-size 2" in changes
    assert all(changed.starts for changed in changes.values())
    assert not plan.with_flags(max_model_len=plan.longest() + 16).starts


def test_weights_that_do_not_fit_leave_no_length_and_want_more_gpus():
    plan = plan_of("llama-3.1-70b", "h100")
    assert (plan.starts, plan.longest()) == (False, 0)
    assert [flag for flag, _ in plan.changes()] == ["--tensor-parallel-size 4"]


def test_layers_with_a_sliding_window_keep_the_window_and_a_step():
    plan = plan_of("gpt-oss-20b", "h100", max_model_len=131_072)
    windows = [plan.config.window(layer) for layer in range(plan.config.num_layers)]
    full = windows.count(0)
    assert 0 < full < len(windows)
    whole = 131_072 // 16 * full
    held = (127 + 8192 + 15) // 16 + 1
    assert plan.request_bytes(131_072) == (whole + held * (len(windows) - full)) * plan.block_bytes


@pytest.fixture
def profile(capsys, monkeypatch):
    def run(*flags: str) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as ended:
            main(["profile", "--engine", "vllm", *flags])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_the_command_that_starts_can_be_copied(profile):
    code, out, _ = profile("-m", "llama-3.1-8b", "--gpu", "a100-40gb", "--max-model-len", "32768", "--kv-dtype", "fp8")
    assert code == 0
    assert out.splitlines()[1].startswith("Starts: 326,")
    command = "vllm serve meta-llama/Llama-3.1-8B --gpu-memory-utilization 0.9 --max-model-len 32768 --kv-cache-dtype fp8"
    assert command in out.replace(" \\\n    ", " ")


def test_what_does_not_start_ends_with_exit_code_4_and_the_flags_that_help(profile):
    code, out, _ = profile("-m", "llama-3.1-8b", "--gpu", "rtx-3090")
    assert code == 4
    assert "needs 16.00 GiB of KV cache" in out
    longest = json.loads(profile("-m", "llama-3.1-8b", "--gpu", "rtx-3090", "--json")[1])["vllm"]["longest_max_model_len"]
    assert f"--max-model-len {longest}" in out
    code, out, _ = profile("-m", "opt-175b", "--gpu", "t4")
    assert (code, "No change of its flags" in out) == (4, True)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--dtype", "int8"), "--engine vllm with --dtype int8"),
        (("--kv-dtype", "int8"), "--engine vllm with --kv-dtype int8"),
        (("--gpu-memory-utilization", "1.5"), "--gpu-memory-utilization is 1.5"),
        (("--num-gpus", "3"), "3 GPUs cannot share 32 heads"),
    ],
)
def test_what_vllm_does_not_take_is_one_line(profile, flags, says):
    code, out, err = profile("-m", "llama-3.1-8b", "--gpu", "l4", *flags)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {says}")
