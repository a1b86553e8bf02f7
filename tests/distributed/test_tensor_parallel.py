"""Several ranks give, to the bit, what one process gives with as many segments, whatever is asked for and whatever happens."""

import contextlib
import errno
import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.engine import Engine
from pagecli.errors import EngineLostError, ModelError

SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "vocab_size": 300,
}
MODELS = {
    "opt": {"architectures": ["OPTForCausalLM"], "model_type": "opt", "ffn_dim": 512, "do_layer_norm_before": True, **SIZES,
            "word_embed_proj_dim": 256, "activation_function": "relu", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1},
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "intermediate_size": 512, "num_key_value_heads": 2,
              "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, **SIZES},
    "mixtral": {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "intermediate_size": 256,
                "num_local_experts": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5,
                "rope_theta": 10000.0, "hidden_act": "silu", "sliding_window": None, "bos_token_id": 1, "eos_token_id": 2,
                **SIZES},
}  # fmt: skip
ASKED = [
    SamplingParams(max_tokens=12, logprobs=3),
    SamplingParams(max_tokens=12),
    SamplingParams(max_tokens=12, temperature=1.0, seed=3, logprobs=2),
    SamplingParams(max_tokens=9, n=4, temperature=0.9),
    SamplingParams(max_tokens=8, beam_width=3, n=2),
    SamplingParams(max_tokens=10, repetition_penalty=1.3, min_tokens=4),
]
MASKED = [
    SamplingParams(max_tokens=12),
    SamplingParams(max_tokens=12, choice=("yes", "no", "yes please")),
    SamplingParams(max_tokens=12, regex="[a-d]{2,9}"),
    SamplingParams(max_tokens=12, regex="[a-z ]{5,9}[0-9]", temperature=1.0, logprobs=2),
    SamplingParams(max_tokens=30, json_schema='{"enum": [12, 123, "a"]}', n=2, temperature=1.2),
    SamplingParams(max_tokens=8, regex="[a-d]{2,9}", beam_width=3, n=2),
]


def ranks_left() -> list[psutil.Process]:
    """The ranks that this process has; other tests of it may have left processes of other kinds."""
    running = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in running if "distributed.rank" in " ".join(child.cmdline())]


def config_of(folder, name, **changes):
    (folder / "config.json").write_text(json.dumps(MODELS[name]))
    settings = {"kv_memory_bytes": 4 << 20, "max_num_seqs": 8, "max_batch_tokens": 32, "threads": 1, "load_format": "dummy"}
    return EngineConfig(str(folder), **(settings | changes))


@pytest.mark.slow
def test_ranks_say_how_much_of_the_model_is_loaded(tmp_path):
    shown = []
    config = config_of(tmp_path, "llama", tensor_parallel_size=2)
    with contextlib.closing(Engine(config, on_loading=lambda *read: shown.append(read))):
        assert shown
        assert all(read > 0 and of == shown[0][1] for read, of in shown)
        assert shown == sorted(shown)


def texts(engine, after_step=lambda number: None, num_requests=12, asked=ASKED):
    """Everything that comes out, by request, as repr() has it: floats to the last bit."""
    for request_id in range(num_requests):
        prompt = [5 + (7 * request_id + i) % 290 for i in range(3 + 11 * (request_id % 4))]
        engine.add_request(request_id, prompt, asked[request_id % len(asked)])
    found, number = {}, 0
    while engine.has_unfinished():
        found |= {output.request_id: repr(output) for output in engine.step()}
        number += 1
        after_step(number)
    return [found[request_id] for request_id in range(num_requests)]


def closed(engine, act):
    try:
        return act(engine)
    finally:
        engine.close()


CASES = [
    ("opt", {"dtype": "float32"}),
    ("llama", {"dtype": "bfloat16"}),
    ("llama", {"dtype": "int8", "kv_dtype": "int8"}),
    ("opt", {"dtype": "int8"}),
    ("mixtral", {"dtype": "bfloat16"}),
    ("mixtral", {"dtype": "int8"}),
    ("llama", {"dtype": "float32", "kv_memory_bytes": 330 << 10, "preemption": "swap", "swap_memory_bytes": 1 << 20}),
    ("opt", {"dtype": "bfloat16", "kv_memory_bytes": 290 << 10}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "changes"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_two_ranks_are_two_segments_to_the_bit(tmp_path, name, changes):
    config = config_of(tmp_path, name, **changes)
    one = closed(Engine(replaced(config, sum_segments=2)), texts)
    two = closed(Engine(replaced(config, tensor_parallel_size=2)), lambda engine: (texts(engine), engine.stats()))
    assert two[0] == one
    if config.kv_memory_bytes < 1 << 20:
        assert two[1]["num_preemptions"] > 0
    assert len(two[1]["ranks"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), [("opt", "float32"), ("llama", "bfloat16"), ("llama", "int8")])
def test_constrained_rows_of_two_ranks_are_those_of_one_process(tmp_path, name, dtype):
    config = config_of(tmp_path, name, dtype=dtype)
    one = closed(Engine(replaced(config, sum_segments=2)), lambda engine: texts(engine, asked=MASKED))
    two = closed(Engine(replaced(config, tensor_parallel_size=2)), lambda engine: texts(engine, asked=MASKED))
    assert two == one
    assert all("error=None" in each for each in one)
    assert any(f"text='{choice}'" in one[1] for choice in ("yes", "no", "yes please"))


def replaced(config, **changes):
    import dataclasses

    return dataclasses.replace(config, **changes)


@pytest.mark.slow
def test_three_ranks_of_a_real_model_write_what_one_process_writes(sample_model):
    """SmolLM2 has 9 heads and 3 KV heads. In float32 sums in three parts seldom turn a token: at most one prompt of 64."""
    path = Path(__file__).resolve().parents[2] / "sample_data/prompts.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    prompts = [row.get("prompt") or row["messages"][-1]["content"] for row in rows]
    assert len(prompts) == 64

    def written(engine):
        for index, prompt in enumerate(prompts):
            engine.add_request(index, engine.tokenizer.encode(prompt), SamplingParams(max_tokens=12, ignore_eos=True))
        found = {}
        while engine.has_unfinished():
            found |= {output.request_id: output.sequences[0].token_ids for output in engine.step()}
        return found

    config = EngineConfig(sample_model.name, dtype="float32", kv_memory_bytes=256 << 20, max_num_seqs=64)
    one = closed(Engine(config), written)
    three = closed(Engine(replaced(config, tensor_parallel_size=3, threads=1)), written)
    assert sum(one[index] == three[index] for index in one) >= 63


@pytest.mark.slow
def test_text_depends_on_the_segments_not_on_the_ranks(tmp_path):
    config = config_of(tmp_path, "llama", dtype="float32", sum_segments=4)
    found = [closed(Engine(replaced(config, tensor_parallel_size=size)), texts) for size in (1, 2, 4)]
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_lost_rank_costs_a_restart_and_no_row(tmp_path, harm):
    config = config_of(tmp_path, "llama", dtype="float32", worker_timeout=3.0)
    expected = closed(Engine(replaced(config, sum_segments=2)), texts)

    def disturbed(engine):
        def harm_a_rank(number):
            if number == 4:
                os.kill(engine.stats()["ranks"][1]["pid"], harm)

        return texts(engine, harm_a_rank), engine.stats()["ranks"]

    found, ranks = closed(Engine(replaced(config, tensor_parallel_size=2)), disturbed)
    assert found == expected
    assert [rank["num_restarts"] for rank in ranks] == [1, 1]
    assert not ranks_left()


@pytest.mark.slow
def test_job_that_is_stopped_and_continued_loses_no_rank(tmp_path):
    """As Ctrl-Z and fg do it, for longer than ranks and driver wait for each other; they are continued one after the other."""
    config = config_of(tmp_path, "llama", dtype="float32", worker_timeout=2.0)
    expected = closed(Engine(replaced(config, sum_segments=2)), texts)

    def stopped(engine):
        def stop_all(number):
            if number == 4:
                pids = [rank["pid"] for rank in engine.stats()["ranks"]]
                os.kill(pids[1], signal.SIGSTOP)  # rank 0 and the driver wait in the middle of a step when they are stopped
                rest = [pids[0], os.getpid(), pids[1]]
                text = f"sleep 0.3; kill -STOP {rest[0]} {rest[1]}; sleep 3; " + "; ".join(f"kill -CONT {pid}" for pid in rest)
                subprocess.Popen(["sh", "-c", text])

        return texts(engine, stop_all), engine.stats()["ranks"]

    found, ranks = closed(Engine(replaced(config, tensor_parallel_size=2)), stopped)
    assert found == expected
    assert [rank["num_restarts"] for rank in ranks] == [0, 0]


@pytest.mark.parametrize("function", ["memfd_create", "ftruncate"])
def test_no_shared_memory_is_one_line(tmp_path, monkeypatch, function):
    def refused(*args):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    config = config_of(tmp_path, "opt", dtype="float32", tensor_parallel_size=2)
    monkeypatch.setattr(os, function, refused)
    with pytest.raises(ModelError, match="no memory that ranks can share: Cannot allocate memory") as caught:
        Engine(config)
    assert "--tensor-parallel-size 1" in caught.value.hint
    assert not ranks_left()


@pytest.mark.slow
def test_settings_that_no_engine_takes_leave_no_ranks(tmp_path):
    with pytest.raises(ModelError, match="less than one KV block"):
        Engine(config_of(tmp_path, "opt", dtype="float32", tensor_parallel_size=2, kv_memory_bytes=100))
    assert not ranks_left()


@pytest.mark.slow
def test_ranks_that_cannot_be_started_again_end_the_engine_and_no_step_runs_without_them(tmp_path, monkeypatch):
    def refused(*args):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    engine = Engine(config_of(tmp_path, "llama", dtype="float32", tensor_parallel_size=2))
    for request_id in range(4):
        engine.add_request(request_id, [5, 6, 7 + request_id], SamplingParams(max_tokens=20, ignore_eos=True))
    engine.step()
    monkeypatch.setattr(os, "memfd_create", refused)
    os.kill(engine.stats()["ranks"][1]["pid"], signal.SIGKILL)
    for _ in range(2):  # the second time, too
        with pytest.raises(EngineLostError):
            engine.step()
    engine.close()
    assert not ranks_left()


@pytest.mark.slow
def test_second_loss_in_a_row_ends_the_job_with_one_line(tmp_path):
    engine = Engine(config_of(tmp_path, "opt", dtype="float32", tensor_parallel_size=2))

    def kill_a_rank(number):
        os.kill(engine.stats()["ranks"][0]["pid"], signal.SIGKILL)

    with pytest.raises(ModelError, match=r"rank 0 of 2 was lost: killed by SIGKILL .*for the second time in a row"):
        closed(engine, lambda engine: texts(engine, kill_a_rank))
    assert not ranks_left()
