"""The GPU runner on a device that is as late as it may be: steps launched ahead, fed on the device, replayed from graphs and
beside swaps give the tokens of steps taken one by one; faults planted into the runner give others, so they would be seen."""

import functools

import pytest
import tiny_mixtures
from fake_device import FakeDevice
from host_gpu import HostGpu
from step_driver import DrivenSequence, StepDriver

from pagecli.core.sampling_params import SamplingParams
from pagecli.core.step_plan import BlockMove, MoveKind, StepPlan
from pagecli.devices.base import RunSettings, find, load_model
from pagecli.devices.cuda.steps.block_mover import CudaBlockMover
from pagecli.devices.cuda.steps.runner import CudaRunner
from pagecli.devices.memory import kv_bytes_per_token
from pagecli.model.registry import resolve_model

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif("not __import__('gpu_tensors').EMULATED", reason="the stand-in device computes on the CPU"),
]
BLOCK_SIZE, NUM_BLOCKS = 8, 24
ORDERS = ["lazy", "side first", "compute first", 1, 2]
GREEDY, SAMPLED = SamplingParams(), SamplingParams(temperature=0.9, top_k=30, top_p=0.95, seed=4)


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(resolve_model(str(tiny_model("llama"))), "float32", 24, "cuda")


def make_runner(model, device, monkeypatch, graphs=False, num_swap_blocks=0, **changes) -> CudaRunner:
    monkeypatch.setattr(model, "gpu", device)
    bytes_each = kv_bytes_per_token(model.config, 4) * BLOCK_SIZE
    values = {
        "name": "tiny", "block_size": BLOCK_SIZE, "kv_dtype": "float32", "max_num_seqs": 6, "max_batch_tokens": 24,
        "max_model_len": 64, "kv_memory_bytes": NUM_BLOCKS * bytes_each, "num_swap_blocks": num_swap_blocks,
        "cuda_graphs": graphs,
    }  # fmt: skip
    runner = find("cuda").start(model, RunSettings(**(values | changes)))
    assert runner.num_blocks == NUM_BLOCKS
    return runner


def sequences() -> list[DrivenSequence]:
    prompts = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [20, 21], [30 + i for i in range(17)]]
    return [
        DrivenSequence(i, list(prompt), SAMPLED if i == 1 else GREEDY, list(range(7 * i, 7 * i + 7)))
        for i, prompt in enumerate(prompts)
    ]


def generate(runner: CudaRunner, pipelined: bool, greedy: bool = False) -> dict[int, list[int]]:
    """One sequence decodes while the next ones' prompts come, in chunks; then all decode, then fewer."""
    driver, (first, second, third) = StepDriver(runner, pipelined), sequences()
    if greedy:
        second.params = GREEDY
    driver.step([(first, first.chunk())])
    driver.step([(first, first.chunk()), (third, third.chunk(10))])
    driver.step([(first, first.chunk()), (third, third.chunk()), (second, second.chunk())])
    for number in range(7):
        alive = [first, second, third] if number < 4 else [second, third]
        driver.step([(sequence, sequence.chunk()) for sequence in alive])
    return driver.finish()


@pytest.fixture(scope="module")
def expected(model):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return functools.cache(lambda greedy: generate(make_runner(model, HostGpu(), monkeypatch), False, greedy))


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
@pytest.mark.parametrize("order", ORDERS)
def test_steps_launched_ahead_give_the_tokens_of_steps_one_by_one(model, expected, monkeypatch, order, graphs):
    runner = make_runner(model, FakeDevice(order), monkeypatch, graphs)
    for greedy in (False, True):
        assert generate(runner, True, greedy) == expected(greedy)
    assert len(runner.graphs) == (2 if graphs else 0)  # batches of 2 and, padded to 4, of 3


@pytest.mark.parametrize("name", ["Qwen2Moe", "GptOss"])
def test_experts_are_chosen_anew_at_each_replay_of_a_graph(tmp_path, monkeypatch, name):
    tiny_mixtures.make(name, tmp_path)
    mixture = load_model(resolve_model(str(tmp_path)), "float32", 24, "cuda")
    one_by_one = generate(make_runner(mixture, HostGpu(), monkeypatch), pipelined=False)
    runner = make_runner(mixture, FakeDevice("lazy"), monkeypatch, graphs=True)
    assert generate(runner, pipelined=True) == one_by_one
    assert len(runner.graphs) > 0


def test_padding_rows_are_written_nowhere(model, monkeypatch):
    """Of a cache of NaN only the slots of the sequences' own tokens are written."""
    device = FakeDevice()
    runner = make_runner(model, device, monkeypatch, graphs=True)
    generate(runner, True)
    device.synchronize()
    lengths = {0: 9 + 7, 1: 2 + 8, 2: 17 + 8}
    for plane in runner.kv_cache.keys + runner.kv_cache.values:
        slots = plane.permute(0, 2, 1, 3).flatten(0, 1)
        written = {i for i in range(len(slots)) if not slots[i].isnan().any()}
        untouched = {i for i in range(len(slots)) if slots[i].isnan().all()}
        assert written | untouched == set(range(len(slots)))
        assert {i // 56 for i in written} == {0, 1, 2}
        for seq_id, length in lengths.items():
            own = {i - 56 * seq_id for i in written if i // 56 == seq_id}
            assert own == set(range(len(own)))
            assert len(own) <= length


def test_steps_with_log_probabilities_come_between(model, expected, monkeypatch):
    """Steps with log probabilities between others; their greedy tokens are the same."""
    runner, (first, *_) = make_runner(model, FakeDevice(), monkeypatch), sequences()
    driver = StepDriver(runner, pipelined=True)
    for number in range(4):
        first.params = SamplingParams(logprobs=2) if number % 2 else GREEDY
        driver.step([(first, first.chunk())])
    assert driver.finish()[0] == expected(False)[0][:4]


def swapping(runner: CudaRunner, pipelined: bool) -> dict[int, list[int]]:
    """A sequence's blocks go to the swap pool, another takes them over, and the first comes back elsewhere."""
    driver, (first, second, _) = StepDriver(runner, pipelined), sequences()
    first.block_ids, second.block_ids = [3, 4, 5], [4, 3, 6]
    for _ in range(3):
        driver.step([(first, first.chunk())])
    driver.finish()
    out = [BlockMove(MoveKind.SWAP_OUT, block, place) for block, place in ((3, 1), (4, 0))]
    driver.step([(second, second.chunk())], out)
    driver.step([(second, second.chunk())])
    driver.finish()
    first.block_ids = [9, 4, 10]  # the second's block, which ends here, is written over while its last step may still run
    driver.step([(second, second.chunk())])
    first.tokens = first.tokens[: first.computed + 1]
    back = [BlockMove(MoveKind.COPY, 6, 11), BlockMove(MoveKind.SWAP_IN, 1, 9), BlockMove(MoveKind.SWAP_IN, 0, 4)]
    driver.step([(first, first.chunk())], back)
    for _ in range(3):
        driver.step([(first, first.chunk())])
    return driver.finish()


@pytest.mark.parametrize("order", ORDERS)
def test_blocks_are_swapped_beside_the_steps(model, expected, monkeypatch, order):
    found = swapping(make_runner(model, FakeDevice(order), monkeypatch, num_swap_blocks=2), True)
    assert found[0] == expected(False)[0][:7]
    assert found == swapping(make_runner(model, HostGpu(), monkeypatch, num_swap_blocks=2), False)


class _Deaf:
    """A stream that does not wait for the other one."""

    def __init__(self, stream):
        self._stream = stream

    def wait(self, event):
        pass

    def __getattr__(self, name):
        return getattr(self._stream, name)


def outcomes(run, make) -> list[object]:
    """What `run` gives in each order; an error is an outcome too."""
    found = []
    for order in ORDERS:
        try:
            found.append(run(make(order)))
        except (AssertionError, IndexError, RuntimeError) as error:
            found.append(type(error))
    return found


@pytest.mark.parametrize(
    "fault", ["compute does not wait for swaps", "swaps do not wait for steps", "swaps are not remembered"]
)
def test_a_missing_wait_would_be_seen(model, monkeypatch, fault):
    def make(order):
        device = FakeDevice(order)
        runner = make_runner(model, device, monkeypatch, num_swap_blocks=2)
        if fault == "compute does not wait for swaps":
            device.compute = _Deaf(device.compute)
        elif fault == "swaps do not wait for steps":
            device.side = _Deaf(device.side)
        else:
            monkeypatch.setattr(CudaBlockMover, "before_use", lambda self, block_ids: None)
        return runner

    right = swapping(make_runner(model, HostGpu(), monkeypatch, num_swap_blocks=2), False)
    assert any(found != right for found in outcomes(lambda runner: swapping(runner, True), make))


def decode_ahead(runner: CudaRunner, share_buffers: bool) -> dict[int, list[int]]:
    """Prompts, then steps of one shape that are launched ahead."""
    driver, all_three = StepDriver(runner, True), sequences()
    for sequence in all_three:
        driver.step([(sequence, sequence.chunk())])
    driver.finish()
    if share_buffers:
        for slot in runner._slots:
            slot.inputs = runner._slots[0].inputs
    for _ in range(5):
        driver.step([(sequence, sequence.chunk()) for sequence in all_three])
    return driver.finish()


def test_buffers_used_again_too_early_would_be_seen(model, monkeypatch):
    found, shared = (
        outcomes(
            lambda r, share=share: decode_ahead(r, share), lambda order: make_runner(model, FakeDevice(order), monkeypatch)
        )
        for share in (False, True)
    )
    assert all(each == found[0] for each in found)
    assert any(each != found[0] for each in shared)


@pytest.mark.parametrize("order", ORDERS)
def test_a_step_nobody_has_collected_keeps_its_tokens(model, expected, monkeypatch, order):
    """More steps launched than there are buffers: the oldest is waited for, and its results kept."""
    runner, (first, *_) = make_runner(model, FakeDevice(order), monkeypatch), sequences()
    pending = []
    for number in range(5):
        feeds = [(0, 0)] if number else []
        pending.append(runner.launch(StepPlan([first.chunk()], [], feeds)))
        first.tokens.append(0)
    tokens = [token_id for step in pending for token_id in runner.collect(step)]
    assert tokens == expected(False)[0][:5]
