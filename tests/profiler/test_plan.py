"""The memory plan: the paper's Table 1 by one rule, sums that come out, and how many requests fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecli.devices.memory import AUTO_SHARE
from pagecli.errors import UsageError
from pagecli.model.build_program import build
from pagecli.model.registry import resolve_model
from pagecli.profiler.plan.estimate import estimate, generate_flags
from pagecli.profiler.plan.gpus import Device, find_gpu, gpu_names
from pagecli.profiler.plan.plan import PlanSettings, make_plan, num_too_long, smallest_that_fits
from pagecli.profiler.plan.processes import plan_processes
from pagecli.profiler.workloads.workloads import Workload, WorkloadRequest, built_in

GIB = 2**30
SHAREGPT = built_in("sharegpt", 200)


def settings(model: str = "opt-13b", device: str | Device = "a100-40gb", num_devices: int = 1, **changes) -> PlanSettings:
    device = find_gpu(device) if isinstance(device, str) else device
    return PlanSettings(model, resolve_model(model, "dummy").config, device, num_devices, **changes)


@pytest.mark.parametrize(("ranks", "workers"), [(1, 3), (2, 1), (4, 5)])
def test_processes_have_the_plans_memory_between_them(ranks, workers):
    plan = make_plan(settings("opt-13b", "a100-80gb", ranks), SHAREGPT)
    planned = plan_processes(plan, estimate(plan, SHAREGPT), len(SHAREGPT.requests), ranks, workers)
    rank, worker, everything = planned.memory
    assert [part.num_processes for part in planned.memory] == [1, ranks, ranks * workers]
    assert worker.kv_bytes == ranks * rank.kv_bytes == plan.kv_slots * plan.settings.kv_bytes_per_token
    embedding = 2 * build(plan.settings.config).head_weight.num_elements  # each rank has its own, norms and positions, too
    least = plan.weights_bytes + (ranks * embedding if ranks > 1 else 0)
    assert least <= worker.weights_bytes <= least + ranks * 2**25
    assert everything.weights_bytes == workers * worker.weights_bytes
    assert planned.output_tokens_per_second == pytest.approx(workers * estimate(plan, SHAREGPT).output_tokens_per_second)


def test_many_workers_are_as_fast_as_their_driver_at_most():
    plan = make_plan(settings("opt-125m", "h200"), SHAREGPT)
    planned = plan_processes(plan, estimate(plan, SHAREGPT), len(SHAREGPT.requests), 1, 64)
    assert planned.bound_by_driver
    assert planned.rows_per_second == pytest.approx(1 / 187e-6)
    with pytest.raises(UsageError, match="does not divide"):
        plan_processes(plan, None, 1, 5, 1)


def host(memory_bytes: int) -> Device:
    return Device("host", "a machine", memory_bytes, 40e9, 130e9, 120e9, 40e9, kind="host")


def requests_of(*lengths: tuple[int, int]) -> Workload:
    return Workload("made", tuple(WorkloadRequest(*one) for one in lengths))


@pytest.mark.parametrize(
    ("model", "gpu", "num_gpus", "parameter_gb", "kv_gib", "slots"),
    [
        ("opt-13b", "a100-40gb", 1, 26, 12, "15.7K"),
        ("opt-66b", "a100-40gb", 4, 132, 21, "9.7K"),
        ("opt-175b", "a100-80gb", 8, 346, 264, "60.1K"),
    ],
)
def test_table_1_of_the_paper(model, gpu, num_gpus, parameter_gb, kv_gib, slots):
    """Kwon et al., SOSP 2023. It counts 13, 66 and 173 billion parameters, which is within 1.2 % of the exact numbers."""
    plan = make_plan(settings(model, gpu, num_gpus), SHAREGPT)
    assert plan.weights_bytes / 1e9 == pytest.approx(parameter_gb, rel=0.012)
    assert round(plan.kv_memory_bytes / GIB) == kv_gib
    assert f"{plan.kv_slots / 1000:.1f}K" == slots


def test_opt_13b_on_one_a100_to_the_slot():
    plan = make_plan(settings(), SHAREGPT)
    assert plan.settings.kv_bytes_per_token == 819_200
    assert (plan.kv_blocks, plan.kv_slots) == (983, 15_728)
    given_outright = make_plan(settings(kv_memory_bytes=12 * GIB), SHAREGPT)
    assert (given_outright.kv_memory_bytes, given_outright.kv_slots) == (12 * GIB, 15_728)


def test_reserving_2048_slots_a_request_leaves_room_for_seven_as_in_the_paper():
    """Figure 13: Orca (Max) runs 7.00 requests at a time, whatever they are."""
    plan = make_plan(settings(), requests_of((1024, 1024)))
    assert [one.num_requests for one in plan.concurrency] == [7, 7, 7, 7]
    assert plan.concurrency[-1].blocks == 128


@pytest.mark.slow
@given(
    st.sampled_from(["opt-125m", "opt-13b", "llama-3.1-8b", "qwen2.5-0.5b"]),
    st.sampled_from(gpu_names()),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([1, 16, 256]),
    st.one_of(st.none(), st.integers(2**20, 2**36)),
)
def test_parts_sum_to_the_memory_there_is_and_blocks_fill_what_the_cache_gets(model, gpu, num_gpus, block_size, kv_memory):
    plan = make_plan(settings(model, gpu, num_gpus, block_size=block_size, kv_memory_bytes=kv_memory), SHAREGPT)
    total = sum(part.num_bytes for part in plan.parts)
    block_bytes = plan.settings.kv_bytes_per_token * block_size
    if plan.missing_bytes == 0:
        assert total == plan.memory_bytes
        assert 0 <= plan.kv_memory_bytes - plan.kv_blocks * block_bytes < block_bytes
    else:
        assert (plan.kv_blocks, plan.kv_slots, plan.fits) == (0, 0, False)


@pytest.mark.slow
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 4, 16]))
def test_the_largest_batch_counts_the_blocks_held_in_each_step(prompt, output, block_size):
    plan = make_plan(settings(block_size=block_size), requests_of((prompt, output)))
    held = sum(-(-(prompt + i) // block_size) for i in range(1, output + 1))
    assert plan.largest_batch == int(plan.kv_blocks * output / held)


def test_on_a_host_the_rule_is_the_engines_own():
    plan = make_plan(settings("opt-125m", host(8 * GIB), dtype="float32", kv_dtype="float32"), SHAREGPT)
    assert plan.kv_memory_bytes == int((8 * GIB - plan.weights_bytes) * AUTO_SHARE)
    assert "Python and libraries" in [part.note for part in plan.parts]


def test_the_largest_cache_that_fits_is_what_is_said_to_be_missing():
    asked = settings(kv_memory_bytes=30 * GIB)
    too_much = make_plan(asked, SHAREGPT)
    assert not too_much.fits
    largest = 30 * GIB - too_much.missing_bytes
    assert make_plan(settings(kv_memory_bytes=largest), SHAREGPT).fits
    assert not make_plan(settings(kv_memory_bytes=largest + 1), SHAREGPT).fits


def test_what_does_not_fit_has_no_estimate_and_no_flags():
    plan = make_plan(settings(device="t4"), SHAREGPT)
    assert plan.missing_bytes > 10 * GIB
    assert plan.kv_slots == 0
    assert estimate(plan, SHAREGPT) is None
    assert generate_flags(plan, SHAREGPT) == []


def test_a_cache_of_less_than_a_block_does_not_fit_though_nothing_is_missing():
    plan = make_plan(settings(kv_memory_bytes=2**20), SHAREGPT)
    assert (plan.missing_bytes, plan.kv_blocks, plan.fits) == (0, 0, False)


def test_a_smaller_kv_dtype_holds_twice_the_slots():
    half, quarter = (make_plan(settings(kv_dtype=dtype), SHAREGPT) for dtype in ("bfloat16", "fp8"))
    assert quarter.kv_blocks in (2 * half.kv_blocks, 2 * half.kv_blocks + 1)
    assert quarter.weights_bytes == half.weights_bytes


def test_an_int8_cache_counts_the_scales_of_every_slot_and_is_handed_on_to_generate():
    """On a CPU: GPUs have none, so their plans are for comparison."""
    on_cpu, on_gpu = {"device": host(80 * 2**30)}, {}
    plan = make_plan(settings(kv_dtype="int8", **on_cpu), SHAREGPT)
    assert plan.settings.kv_bytes_per_token == 2 * 40 * 40 * (128 + 4)
    assert plan.kv_slots > 1.9 * make_plan(settings(**on_cpu), SHAREGPT).kv_slots
    flags = dict(zip(*[iter(generate_flags(plan, SHAREGPT))] * 2, strict=True))
    assert flags["--kv-dtype"] == "int8"
    for others in (settings(**on_cpu), settings(**on_gpu), settings(kv_dtype="int8", **on_gpu)):
        assert "--kv-dtype" not in generate_flags(make_plan(others, SHAREGPT), SHAREGPT)


def test_int8_weights_take_a_byte_and_their_scales_and_leave_the_cache_in_bfloat16():
    plan = make_plan(settings(dtype="int8"), SHAREGPT)
    assert plan.weights_bytes == build(plan.settings.config).num_parameters * 17 // 16
    assert plan.settings.kv_bytes_per_token == 819_200
    assert plan.kv_slots > 1.8 * make_plan(settings(), SHAREGPT).kv_slots


def test_flags_for_generate_take_no_more_memory_than_the_batch_can_fill():
    on_gpu = make_plan(settings(), SHAREGPT)
    flags = dict(zip(*[iter(generate_flags(on_gpu, SHAREGPT))] * 2, strict=True))
    assert flags["--kv-memory"] == f"{on_gpu.kv_memory_bytes // 2**20}MiB"
    assert flags["--max-num-seqs"] == str(on_gpu.largest_batch)
    short = requests_of((10, 6))
    plan = make_plan(settings("opt-125m", host(8 * GIB), max_num_seqs=4, max_batch_tokens=64), short)
    flags = dict(zip(*[iter(generate_flags(plan, short))] * 2, strict=True))
    assert flags["--kv-memory"] == "3MiB"  # 4 sequences x 1 block x 16 slots x 36,864 bytes = 2.25 MiB
    assert flags["--max-num-seqs"] == "4"


def test_the_estimate_is_one_batch_after_the_other_and_says_what_a_step_waits_for():
    plan = make_plan(settings(), SHAREGPT)
    estimated = estimate(plan, SHAREGPT)
    assert estimated is not None
    assert estimated.batch == plan.largest_batch
    assert estimated.bound == "memory"
    outputs = sum(r.output_tokens for r in SHAREGPT.requests)
    assert estimated.seconds > outputs / estimated.batch * estimated.step_seconds
    assert estimated.output_tokens_per_second == pytest.approx(outputs / estimated.seconds)
    slower = estimate(make_plan(settings("opt-125m", host(8 * GIB)), SHAREGPT), SHAREGPT)
    assert slower is not None
    assert slower.bound == "compute"


def test_requests_beyond_the_models_positions_are_counted():
    workload = requests_of((2000, 49), (2000, 48), (5, 5))
    assert num_too_long(make_plan(settings(), workload), workload) == 1


@pytest.mark.slow
def test_the_smallest_gpus_that_hold_a_model_are_found():
    devices = [find_gpu(name) for name in ("t4", "a100-40gb", "a100-80gb")]

    def found(model: str) -> tuple[str, int] | None:
        plan = smallest_that_fits(lambda device, n: make_plan(settings(model, device, n), SHAREGPT), devices)
        return None if plan is None else (plan.settings.device.name, plan.settings.num_devices)

    assert found("opt-125m") == ("t4", 1)
    assert found("opt-13b") == ("a100-40gb", 1)
    assert found("opt-66b") == ("a100-80gb", 2)
    assert found("llama-3.1-405b") is None
