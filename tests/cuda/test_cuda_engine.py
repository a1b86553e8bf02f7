"""The whole engine with device cuda: the same tokens as on the CPU, through sharing, preemption and swapping; and the clear end
of a run that asks for a GPU where there is none."""

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices import base
from pagecli.engine.engine import Engine
from pagecli.errors import ErrorCode, ModelError, UsageError

PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [5, 6, 7, 8, 9, 10, 11, 12, 14, 15], [20], list(range(30, 60))]
SMALL = {"max_num_seqs": 8, "max_batch_tokens": 24, "kv_memory_bytes": 2**20}  # the start measures the largest step
PARAMS = [
    SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True),
    SamplingParams(max_tokens=8, temperature=0.8, top_k=20, seed=3, ignore_eos=True, n=2),
    SamplingParams(max_tokens=6, temperature=0.0, beam_width=3, n=2),
    SamplingParams(max_tokens=12, temperature=1.0, top_p=0.9, seed=5, ignore_eos=True),
]


def run_engine(config: EngineConfig) -> tuple[dict[int, list[list[int]]], dict[str, object]]:
    """(token ids of every sequence of every request, statistics)"""
    engine, found = Engine(config), {}
    for i, (prompt, params) in enumerate(zip(PROMPTS, PARAMS, strict=True)):
        engine.add_request(i, prompt, params)
    while engine.has_unfinished():
        for output in engine.step():
            found[output.request_id] = [list(sequence.token_ids) for sequence in output.sequences]
    return found, engine.stats()


@pytest.mark.cuda
@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_tokens_equal_the_cpus(tiny_model, preemption):
    config = EngineConfig(str(tiny_model("llama")), dtype="float32", block_size=8, max_num_seqs=8, max_batch_tokens=24)
    bytes_of_block = 2 * 3 * 2 * 32 * 4 * 8
    config = dataclasses.replace(config, kv_memory_bytes=8 * bytes_of_block, check_integrity=True)
    if preemption == "swap":
        config = dataclasses.replace(config, preemption="swap", swap_memory_bytes=12 * bytes_of_block)
    expected, cpu_stats = run_engine(config)
    found, stats = run_engine(dataclasses.replace(config, device="cuda"))
    assert found == expected
    assert stats["device"] == "cuda"
    assert stats["num_preemptions"] > 0  # steps launched ahead may preempt at other times than the CPU's
    assert cpu_stats["num_preemptions"] > 0


@pytest.mark.cuda
def test_a_cache_of_8_bit_floats_takes_half_the_memory_of_bfloat16(tiny_model):
    config = EngineConfig(str(tiny_model("llama")), dtype="bfloat16", device="cuda", **SMALL)
    wide, narrow = (run_engine(dataclasses.replace(config, kv_dtype=kv_dtype)) for kv_dtype in ("auto", "fp8"))
    lengths = [[len(ids) for row in found.values() for ids in row] for found in (wide[0], narrow[0])]
    assert lengths[0] == lengths[1]
    assert narrow[1]["kv_dtype"] == "fp8"
    assert 2 * narrow[1]["kv_bytes_per_token"] == wide[1]["kv_bytes_per_token"]
    assert narrow[1]["kv_blocks_total"] == 2 * wide[1]["kv_blocks_total"]
    with pytest.raises(UsageError, match="not kept in --kv-dtype float32") as raised:
        Engine(dataclasses.replace(config, kv_dtype="float32"))
    assert raised.value.hint == "use --kv-dtype bfloat16 or fp8, or --device cpu"


@pytest.mark.cuda
def test_float16_weights_have_a_cache_of_float16(tiny_model):
    config = EngineConfig(str(tiny_model("llama")), dtype="float16", device="cuda", **SMALL)
    found, stats = run_engine(config)
    expected, _ = run_engine(dataclasses.replace(config, dtype="float32"))
    assert found[0][0][0] == expected[0][0][0]  # the likeliest of a tiny model are far apart; later tokens may differ
    assert [len(ids) for row in found.values() for ids in row] == [len(ids) for row in expected.values() for ids in row]
    assert stats["kv_dtype"] == "float16"
    with pytest.raises(UsageError, match="not kept in --kv-dtype bfloat16") as raised:
        Engine(dataclasses.replace(config, kv_dtype="bfloat16"))
    assert raised.value.hint == "leave out --kv-dtype"


@pytest.mark.cuda
@pytest.mark.parametrize(("dtype", "kv_dtype"), [("float32", "auto"), ("bfloat16", "fp8")])
def test_logits_that_are_not_finite_are_errors_of_their_rows(tiny_model, tmp_path, dtype, kv_dtype):
    """Also where the next step was launched, and fed, before that was known."""
    shutil.copytree(tiny_model("llama"), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.embed_tokens.weight"][77] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    engine = Engine(EngineConfig(str(tmp_path / "model"), dtype=dtype, kv_dtype=kv_dtype, device="cuda", **SMALL))
    for i, params in enumerate(PARAMS):
        engine.add_request(2 * i, [5, 6, 7], params)
        engine.add_request(2 * i + 1, [5, 77, 7], params)
    codes = {}
    while engine.has_unfinished():
        codes |= {output.request_id: output.error_code for output in engine.step()}
    assert [codes[i] for i in range(8)] == [None, ErrorCode.LOGITS_NOT_FINITE] * 4


@pytest.mark.parametrize("dtype", ["float16", "fp8"])
def test_weights_for_gpus_on_the_cpu_end_with_one_clear_line(tiny_model, dtype):
    with pytest.raises(UsageError, match=rf"^--dtype {dtype} is computed on a GPU only$") as raised:
        Engine(EngineConfig(str(tiny_model("llama")), dtype=dtype))
    assert raised.value.hint == "use --device cuda, or --dtype int8 or bfloat16"


def test_8_bit_floats_on_the_cpu_end_with_one_clear_line(tiny_model):
    with pytest.raises(UsageError, match=r"^--kv-dtype fp8 is for GPUs$"):
        Engine(EngineConfig(str(tiny_model("llama")), kv_dtype="fp8"))


def test_without_a_gpu_the_run_ends_with_one_clear_line(tiny_model, monkeypatch):
    monkeypatch.setattr(base, "_registered", {})
    monkeypatch.setattr(base, "_made", {})
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ModelError, match=r"^--device cuda: this machine has no GPU that torch can use$") as raised:
        Engine(EngineConfig(str(tiny_model("llama")), device="cuda"))
    assert raised.value.exit_code == 4
    assert Engine(EngineConfig(str(tiny_model("llama")), device="auto", kv_memory_bytes=2**20)).stats()["device"] == "cpu"


@pytest.mark.cuda
def test_scores_equal_the_cpus_and_leave_other_rows_as_they_are(tiny_model):
    """In steps with more logits than sequences, between steps that are launched ahead."""
    config = EngineConfig(str(tiny_model("llama")), dtype="float32", check_integrity=True, **SMALL)
    found = {}
    for device in ("cpu", "cuda"):
        engine = Engine(dataclasses.replace(config, device=device))
        for i, (prompt, params) in enumerate(zip(PROMPTS, PARAMS, strict=True)):
            engine.add_request(i, prompt, dataclasses.replace(params, prompt_logprobs=1))
            engine.add_score_request(10 + i, prompt, [[7], [8, 9, 10], list(range(40, 60))], num_top=2)
            engine.add_request(20 + i, prompt, params, row_key=i)
        done = {}
        while engine.has_unfinished():
            done |= {output.request_id: output for output in engine.step()}
        assert [done[i].sequences for i in range(4)] == [done[20 + i].sequences for i in range(4)]
        scores = [s for i in range(4) for s in done[i].prompt_scores]
        scores += [s for i in range(4) for sequence in done[10 + i].sequences for s in sequence.token_scores]
        found[device] = scores
    assert [score.token_id for score in found["cuda"]] == [score.token_id for score in found["cpu"]]
    assert [score.is_greedy for score in found["cuda"]] == [score.is_greedy for score in found["cpu"]]
    expected = [score.logprob for score in found["cpu"]]
    assert [score.logprob for score in found["cuda"]] == pytest.approx(expected, abs=2e-5)
