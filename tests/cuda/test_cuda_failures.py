"""A GPU that runs out of memory or is lost, at any call: one clear line at the start, rows that are done again or an end with
one clear line under way; never a hang, never a wrong token, nothing left behind."""

import dataclasses
import gc

import pytest
from fake_device import FakeDevice

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.cuda.errors import DeviceLostError
from pagecli.devices.cuda.model.attention import most_partial_bytes
from pagecli.devices.cuda.steps import startup
from pagecli.engine import loaded_model
from pagecli.engine.engine import Engine
from pagecli.errors import ModelError

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif("not __import__('gpu_tensors').EMULATED", reason="the stand-in device computes on the CPU"),
]
BYTES_OF_BLOCK = 2 * 3 * 2 * 32 * 4 * 8
SUM = r"^.* does not fit: weights .* = .* of GPU memory are available.*$"
LOST_AT_THE_START = r"^the GPU failed while .*an illegal memory access[^\n]*$"
MOST_STEPS = 200  # far more than the rows below need, failures included


@pytest.fixture(scope="module")
def config(tiny_model):
    return EngineConfig(
        str(tiny_model("llama")), device="cuda", dtype="float32", block_size=8, max_num_seqs=2, max_batch_tokens=6,
        max_model_len=32, kv_memory_bytes=4 * BYTES_OF_BLOCK, preemption="swap", swap_memory_bytes=4 * BYTES_OF_BLOCK,
    )  # fmt: skip


@pytest.fixture(scope="module")
def loaded(config):
    return loaded_model.load(config)


@pytest.fixture
def start(config, loaded, monkeypatch):
    """start(device) -> an engine on it"""

    def start_on(device: FakeDevice) -> Engine:
        monkeypatch.setattr(loaded.model, "gpu", device)
        return Engine(config, loaded)

    return start_on


def run_rows(engine: Engine) -> dict[int, list[int] | str]:
    """Three rows through the engine as a job runs them: token ids of each, or its error."""
    found = {}
    for i, prompt in enumerate(([5, 6, 7, 8, 9, 10, 11], [20, 21, 22], [30])):
        engine.add_request(i, prompt, SamplingParams(max_tokens=14, ignore_eos=True))
    for _ in range(MOST_STEPS):
        if not engine.has_unfinished():
            return found
        for output in engine.step():
            found[output.request_id] = output.error or list(output.sequences[0].token_ids)
    raise AssertionError("the engine does not end")


@pytest.fixture
def undisturbed(start):
    """(token ids of each row, calls until the engine stood, calls of the whole run)"""
    device = FakeDevice()
    engine = start(device)
    at_start = device.calls.copy()
    found = run_rows(engine)
    assert engine.stats()["num_swapped_blocks"] > 0
    gc.collect()
    gc.freeze()  # what is imported by now is no garbage: to look for some in it took a quarter of the time
    return found, at_start, device.calls


def assert_nothing_is_left(device: FakeDevice) -> None:
    device.compute.queue.clear()
    device.side.queue.clear()
    gc.collect()
    assert device.num_buffers == 0


def indices(count: int, most: int) -> list[int]:
    """Up to `most` of range(count), the first and the last among them."""
    return sorted({round(i * (count - 1) / max(1, min(count, most) - 1)) for i in range(min(count, most))})


def assert_ends_at_the_start(start, fail_at: tuple[str, int, str], error: type[Exception], message: str) -> None:
    """With one line and exit code 4, and nothing left on the GPU."""
    device = FakeDevice(fail_at=fail_at)
    with pytest.raises(error, match=message) as raised:
        start(device)
    assert raised.value.exit_code == 4
    del raised
    assert_nothing_is_left(device)


def test_out_of_memory_at_any_allocation_of_the_start_is_explained_by_the_sum(start, undisturbed):
    _, calls, _ = undisturbed
    for kind, most in (("empty", 100), ("pinned", 100), ("activation", 5)):
        for i in indices(calls[kind], most):
            assert_ends_at_the_start(start, (kind, i, "memory"), ModelError, SUM)


def test_a_gpu_lost_at_any_call_of_the_start_is_one_line(start, undisturbed):
    _, calls, _ = undisturbed
    for kind in calls:
        for i in indices(calls[kind], 2):
            assert_ends_at_the_start(start, (kind, i, "lost"), DeviceLostError, LOST_AT_THE_START)


def test_a_gpu_lost_under_way_ends_the_run_with_one_line(start, undisturbed):
    found, before, calls = undisturbed
    for kind in calls:
        for i in indices(calls[kind] - before[kind], 2) if calls[kind] > before[kind] else []:
            device = FakeDevice(fail_at=(kind, before[kind] + i, "lost"))
            engine = start(device)
            with pytest.raises(DeviceLostError, match=r"^the GPU failed while [^\n]*$"):
                assert run_rows(engine) == found  # where the last calls only fail
            del engine
            assert_nothing_is_left(device)


@pytest.mark.parametrize("what", ["memory", "refused"])
def test_work_that_is_refused_or_has_no_memory_costs_no_row(start, undisturbed, what):
    found, before, calls = undisturbed
    for kind in ("activation", "capture", "submit"):
        for i in indices(calls[kind] - before[kind], 3):
            device = FakeDevice(fail_at=(kind, before[kind] + i, what))
            assert run_rows(start(device)) == found


def test_what_loading_left_reserved_is_given_to_the_cache(config, loaded, monkeypatch):
    config = dataclasses.replace(config, kv_memory_bytes=None, preemption="recompute", swap_memory_bytes=0, max_model_len=4096)
    blocks = []
    for reserved in (0, 300_000):
        device = FakeDevice(total_bytes=2**20)
        device.activations.reserved = reserved
        monkeypatch.setattr(loaded.model, "gpu", device)
        blocks.append(Engine(config, loaded).stats()["kv_blocks_total"])
    assert blocks[0] == blocks[1] > 10


def test_the_largest_step_is_measured_before_memory_is_divided(config, loaded, monkeypatch):
    """Whatever the GPU's size: if the engine starts, every step fits, and each byte left over has its reason."""
    config = dataclasses.replace(config, kv_memory_bytes=None, preemption="recompute", swap_memory_bytes=0, max_model_len=256)
    measure, plans, most_blocks, divided = startup.measure, [], 64, 0
    monkeypatch.setattr(startup, "measure", lambda *given: plans.append(measure(*given)) or plans[-1])
    partials = len(loaded.model.windows) * most_partial_bytes(loaded.model.attention_shape, config.max_batch_tokens)
    for total in range(2**18, 2**20, 2**17):
        device = FakeDevice(total_bytes=total)
        monkeypatch.setattr(loaded.model, "gpu", device)
        try:
            engine = Engine(config, loaded)
        except ModelError:
            assert not divided
            continue
        assert len(run_rows(engine)) == 3
        plan, blocks = plans[-1], engine.stats()["kv_blocks_total"]
        undivided = plan.room - blocks * BYTES_OF_BLOCK
        not_captured = plan.graphs - device.graph_bytes
        smaller_steps = device.released[-1] - device.activations.reserved  # than the largest, as measured
        reasons = plan.headroom + undivided + BYTES_OF_BLOCK + partials + not_captured + smaller_steps
        assert device.free_bytes() == reasons
        assert blocks == most_blocks or undivided < BYTES_OF_BLOCK
        divided += blocks < most_blocks
    assert divided >= 2
