"""Two ranks on GPUs give, to the bit, what one GPU gives with sums in two segments, and lose no row when one of them dies. Each
emulated GPU is a process that computes on the host; their sums go over gloo."""

import contextlib
import dataclasses
import os
import signal
from pathlib import Path

import psutil
import pytest
import tiny_mixtures
from gpu_tensors import EMULATED

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.cuda.presence import gpus_for
from pagecli.devices.limits import check_program
from pagecli.engine.engine import Engine
from pagecli.errors import ModelError, UsageError
from pagecli.model.build_program import build
from pagecli.model.registry import resolve_model
from pagecli.model.shards import segment, shard

pytestmark = pytest.mark.cuda
ASKED = [
    SamplingParams(max_tokens=12, logprobs=3),
    SamplingParams(max_tokens=12),
    SamplingParams(max_tokens=12, temperature=1.0, seed=3, logprobs=2),
    SamplingParams(max_tokens=9, n=3, temperature=0.9),
    SamplingParams(max_tokens=8, beam_width=3, n=2),
    SamplingParams(max_tokens=10, repetition_penalty=1.3, min_tokens=4),
    SamplingParams(max_tokens=12, regex="[a-d]{2,9}"),
]
GREEDY = [SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)]


@pytest.fixture(autouse=EMULATED)
def emulated_ranks(monkeypatch):
    monkeypatch.setattr("pagecli.distributed.group.MODULE", "emulated_rank")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


def config_of(model: Path, **changes) -> EngineConfig:
    settings = {"dtype": "float32", "block_size": 8, "max_num_seqs": 8, "max_batch_tokens": 24, "kv_memory_bytes": 2**20}
    return EngineConfig(str(model), device="cuda", check_integrity=True, **(settings | changes))


def run(config: EngineConfig, asked=ASKED, after_step=lambda engine, number: None) -> tuple[list[str], dict[str, object]]:
    """Everything that comes out, by request, and the statistics; nothing of the ranks is left."""
    found, number = {}, 0
    try:
        engine = Engine(config)
        for request_id in range(8):
            prompt = [5 + (7 * request_id + i) % 90 for i in range(3 + 11 * (request_id % 4))]
            engine.add_request(request_id, prompt, asked[request_id % len(asked)])
        while engine.has_unfinished():
            found |= {output.request_id: tokens_of(output) for output in engine.step()}
            number += 1
            after_step(engine, number)
        return [found[request_id] for request_id in range(8)], engine.stats()
    finally:
        with contextlib.suppress(NameError):  # there is none
            engine.close()
        assert not [child for child in psutil.Process().children() if "emulated_rank" in " ".join(child.cmdline())]


def tokens_of(output) -> str:
    assert output.error is None
    return repr([sequence.token_ids for sequence in output.sequences])


def test_two_ranks_give_the_tokens_of_two_segments(tiny_model):
    """So do those of the llama below, of which one is lost under way."""
    config = config_of(tiny_model("opt"), dtype="bfloat16", kv_memory_bytes=None)
    one, stats = run(dataclasses.replace(config, sum_segments=2), GREEDY)
    two, of_ranks = run(dataclasses.replace(config, tensor_parallel_size=2), GREEDY)
    assert two == one
    ranks = of_ranks["ranks"]
    assert [rank["gpu"] for rank in ranks] == ["0", "1"]
    assert sum(rank["weight_bytes"] for rank in ranks) > stats["weight_bytes"] > max(rank["weight_bytes"] for rank in ranks)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("Qwen2Moe", {"moe_intermediate_size": 48, "shared_expert_intermediate_size": 64}), ("GptOss", {})],
)
def test_so_are_two_ranks_of_a_mixture_of_experts(tmp_path, name, changes):
    tiny_mixtures.make(name, tmp_path, **changes)
    config = config_of(tmp_path, max_model_len=64)
    one, _ = run(dataclasses.replace(config, sum_segments=2), GREEDY)
    two, _ = run(dataclasses.replace(config, tensor_parallel_size=2), GREEDY)
    assert two == one


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_all_that_can_be_asked_comes_back_through_preemption(tiny_model, preemption):
    """Log probabilities, draws, beams, penalties and masks: chosen by the driver, of logits that its ranks computed."""
    bytes_of_block = 2 * 3 * 2 * 32 * 4 * 8
    changes = {"kv_memory_bytes": 12 * bytes_of_block}
    if preemption == "swap":
        changes |= {"preemption": "swap", "swap_memory_bytes": 16 * bytes_of_block}
    config = config_of(tiny_model("llama"), **changes)
    cpu, _ = run(dataclasses.replace(config, device="cpu", sum_segments=2))
    two, stats = run(dataclasses.replace(config, tensor_parallel_size=2))
    assert two == cpu
    assert stats["num_preemptions"] > 0


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_lost_rank_costs_a_restart_and_no_row(tiny_model, harm):
    config = config_of(tiny_model("llama"), worker_timeout=4.0 if harm == signal.SIGSTOP else 60.0)

    def harm_a_rank(engine, number):
        if number == 4:
            os.kill(engine.stats()["ranks"][1]["pid"], harm)

    expected, _ = run(dataclasses.replace(config, sum_segments=2), GREEDY)
    found, stats = run(dataclasses.replace(config, tensor_parallel_size=2), GREEDY, harm_a_rank)
    assert found == expected
    assert [rank["num_restarts"] for rank in stats["ranks"]] == [1, 1]


def test_memory_that_does_not_suffice_and_segments_that_gpus_do_not_have_are_one_line(tiny_model):
    config = config_of(tiny_model("llama"), tensor_parallel_size=2)
    with pytest.raises(ModelError, match="less than one KV block"):
        run(dataclasses.replace(config, kv_memory_bytes=10))
    with pytest.raises(UsageError, match="--sum-segments 4 with --tensor-parallel-size 2: GPUs add one part each"):
        run(dataclasses.replace(config, sum_segments=4))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"shared_expert_intermediate_size": 64}, "experts of 64 by 20 weights"),
        ({"moe_intermediate_size": 48}, "gated activation of 28 features"),
    ],
)
def test_parts_that_no_kernel_takes_are_one_line(tmp_path, sizes, message):
    tiny_mixtures.make("Qwen2Moe", tmp_path, **sizes)
    part = shard(segment(build(resolve_model(str(tmp_path)).config), 2), 0, 2)
    with pytest.raises(ModelError, match=rf"^tiny: GPUs have no {message} \(multiples of 8 are\) here yet"):
        check_program("tiny", part)


def test_each_rank_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1,GPU-5e")
    assert gpus_for(2, "--workers 2") == ("3", "1")
    with pytest.raises(UsageError, match=r"^--workers 2 --tensor-parallel-size 2 with 3 GPUs to be seen$"):
        gpus_for(4, "--workers 2 --tensor-parallel-size 2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UsageError, match=r"^--tensor-parallel-size 2 with 0 GPUs to be seen$"):
        gpus_for(2, "--tensor-parallel-size 2")
