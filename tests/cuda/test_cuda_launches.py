"""What a step costs in launches, counted on a GPU that computes nothing: steps that only decode are one launch, of a graph, and
newcomers are gathered so that most steps are such; contexts that are not cut need no merge."""

import functools

import pytest
import torch
from host_gpu import HostGpu
from model.paged_steps import PagedSteps

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.base import load_model
from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.model import attention
from pagecli.engine import loaded_model
from pagecli.engine.engine import Engine
from pagecli.model.registry import resolve_model

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif("not __import__('gpu_tensors').EMULATED", reason="the stand-in device computes on the CPU"),
]
PLANNING = ("choose_run_length", "cut_into_runs", "cut_into_tiles", "resident_decode_blocks", "current_device", "num_devices")
NUM_SEQS = 64


class CountingGpu(HostGpu):
    """Buffers hold zeros, so every token is 0; a graph's replay is one launch."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[str] = []

    def empty(self, *shape, dtype):
        return torch.zeros(*shape, dtype=dtype)

    pinned = empty

    def capture(self, work):
        return self

    def replay(self):
        self.launches.append("graph")

    def __getattr__(self, name):
        """A kernel, as the extension has it: counted, not run."""
        return getattr(real_extension(), name) if name in PLANNING else lambda *args: self.launches.append(name)


real_extension = functools.cache(kernels.extension.__wrapped__)


@pytest.fixture(scope="module")
def loaded(tiny_model):
    config = EngineConfig(str(tiny_model("llama")), device="cuda", dtype="bfloat16", max_batch_tokens=512)
    return loaded_model.load(config)


def launches_of(loaded, monkeypatch, gathers: bool) -> tuple[int, int, int]:
    """(launches, steps, steps that were graphs) of 400 rows of 6 to 69 tokens, once the batch is full."""
    gpu = CountingGpu()
    monkeypatch.setattr(loaded.model, "gpu", gpu)
    monkeypatch.setattr(kernels, "extension", lambda: gpu)
    monkeypatch.setattr(attention, "extension", lambda: gpu)
    engine = Engine(
        EngineConfig(
            loaded.name, device="cuda", dtype="bfloat16", max_num_seqs=NUM_SEQS, max_batch_tokens=512, max_model_len=256,
            kv_memory_bytes=2**24, prefix_caching=False,
        ),
        loaded,
    )  # fmt: skip
    assert engine.scheduler.gathers
    engine.scheduler.gathers = gathers
    for i in range(400):
        engine.add_request(i, [7 + i % 50, 9, 11], SamplingParams(max_tokens=6 + 37 * i % 64, ignore_eos=True))
    gpu.launches.clear()
    num_done = num_steps = 0
    while engine.has_unfinished():
        num_done += len(engine.step())
        num_steps += 1
    assert num_done == 400
    return len(gpu.launches), num_steps, gpu.launches.count("graph")


def test_gathered_newcomers_leave_more_steps_to_graphs(loaded, monkeypatch, capsys):
    apart, together = (launches_of(loaded, monkeypatch, gathers) for gathers in (False, True))
    with capsys.disabled():
        for name, (launches, steps, graphs) in (("as they come", apart), ("gathered", together)):
            print(f"\nnewcomers {name}: {steps} steps, {graphs} from graphs, {launches / steps:.1f} launches a step", end="")
    assert together[0] / together[1] < 0.7 * apart[0] / apart[1]
    assert together[1] < 1.1 * apart[1]  # slots that stay empty meanwhile cost few steps


ATTENTION = ["paged_attention_decode"]
LAUNCHES = {  # of a layer
    "llama": ["rms_norm", "rotary_store_kv", *ATTENTION, "rms_norm", "gated_activation"],
    "qwen3": ["rms_norm", "norm_rotary_store_kv", *ATTENTION, "rms_norm", "gated_activation"],
    "opt": ["layer_norm", "store_kv", *ATTENTION, "layer_norm", "bias_activation"],
}


@pytest.mark.parametrize("dtype", ["bfloat16", "fp8"])
@pytest.mark.parametrize("name", LAUNCHES)
def test_launches_of_a_decode_step(tiny_model, monkeypatch, name, dtype):
    """The kernels of the project that one step queues, beside torch's products; norms add, and a head's norm, its rotation and
    its way into the cache are one launch. In 8-bit floats rows of attention's output alone are rounded by their own."""
    source = resolve_model(str(tiny_model(name)))
    steps = PagedSteps(load_model(source, dtype, 64, "cuda"), torch.bfloat16)
    gpu = CountingGpu()
    monkeypatch.setattr(kernels, "extension", lambda: gpu)
    monkeypatch.setattr(attention, "extension", lambda: gpu)
    with torch.inference_mode():
        steps.step({0: [5], 1: [7]})
    of_layer = list(LAUNCHES[name])
    if dtype == "fp8":
        of_layer.insert(3, "quantize_rows")
    assert gpu.launches == ["embedding", *of_layer * source.config.num_layers, of_layer[0]]


def test_short_contexts_are_not_merged(loaded, monkeypatch):
    """A decode step's tables have room for merges only where a context is cut."""
    gpu = CountingGpu()
    monkeypatch.setattr(attention, "extension", lambda: gpu)
    shape = loaded.model.attention_shape
    lens, starts = torch.full((4,), 20, dtype=torch.int32).numpy(), torch.arange(5, dtype=torch.int32).numpy()
    short = attention.plan_tables(lens, starts, shape, padded_rows=8)
    assert (len(short.runs), len(short.merges), short.num_partials) == (8, 0, 0)
    long = attention.plan_tables(lens * 500, starts, shape, padded_rows=8)
    assert len(long.merges) == 8
    assert long.num_partials == len(long.runs) > 8
