"""A job that cannot fit stops before anything is loaded, with the sum and the largest value that fits."""

import json
from dataclasses import replace

import pytest

from pagecli.core.dtypes import WEIGHT_BYTES
from pagecli.core.engine_config import EngineConfig
from pagecli.devices import memory
from pagecli.engine import loaded_model
from pagecli.engine.loaded_model import check_fits
from pagecli.errors import ExitCode, ModelError
from pagecli.model.registry import resolve_model

GIB = 2**30


@pytest.fixture
def available(monkeypatch):
    """available(bytes): as much memory as this machine has left."""

    def set_to(num_bytes: int) -> None:
        monkeypatch.setattr(memory, "available_bytes", lambda: num_bytes)

    return set_to


def test_what_fits_passes(available):
    available(4 * GIB)
    check_fits(EngineConfig("opt-125m", dtype="float32", kv_memory_bytes=2 * GIB))
    check_fits(EngineConfig("opt-125m", dtype="float32"))


def test_the_sum_is_shown_and_the_largest_cache_that_is_named_fits(available):
    available(4 * GIB)
    with pytest.raises(ModelError, match=r"opt-125m does not fit: weights 0\.47 GiB \+ KV cache 100\.00 GiB \+ ") as caught:
        check_fits(EngineConfig("opt-125m", dtype="float32", kv_memory_bytes=100 * GIB))
    assert caught.value.exit_code == ExitCode.MODEL
    assert "4.00 GiB of memory are available" in caught.value.message
    assert caught.value.hint is not None
    largest = int(caught.value.hint.removeprefix("the largest that fits is --kv-memory ").removesuffix("MiB"))
    check_fits(EngineConfig("opt-125m", dtype="float32", kv_memory_bytes=largest * 2**20))
    with pytest.raises(ModelError):
        check_fits(EngineConfig("opt-125m", dtype="float32", kv_memory_bytes=(largest + 1) * 2**20))


def test_swap_memory_is_counted(available):
    available(4 * GIB)
    with pytest.raises(ModelError, match=r"swap 9\.00 GiB") as caught:
        check_fits(EngineConfig("opt-125m", dtype="float32", preemption="swap", swap_memory_bytes=9 * GIB))
    assert "--swap-memory 3" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("gib", "hint"),
    [(20, "use --dtype bfloat16, or int8"), (5, "use a smaller model or a larger machine; pagecli profile shows which fits")],
)
def test_weights_that_do_not_fit_say_what_would(available, gib, hint):
    available(gib * GIB)
    with pytest.raises(ModelError, match=r"weights 24\.80 GiB") as caught:
        check_fits(EngineConfig("opt-6.7b", dtype="float32"))
    assert caught.value.hint == hint


@pytest.mark.parametrize("named", [False, True])
def test_quantized_weights_stay_so_where_dequantized_ones_leave_no_room(available, named):
    """SmolLM2's Q4_1 file: 257 MiB of weights as bfloat16; 128 sequences of 256 tokens take 720 MiB of K and V."""
    sample = resolve_model("smollm2-135m")
    config = EngineConfig("smollm2-135m" if named else str(sample.weights_path), dtype="bfloat16")
    room = memory.needs_of(sample, "bfloat16", 128, 512, 128 * 256 * 23040).total
    for num_bytes, kept in ((room, False), (room - 1, True)):
        available(num_bytes)
        source = loaded_model.resolve(config).source
        assert source.keep_quantized == kept
        assert len(source.notes) == kept
        available(2 * num_bytes)
        assert loaded_model.resolve(config, num_engines=2).source.keep_quantized == kept
    assert "as bfloat16 they take 0.25 GiB, which leaves too little of the 1.21 GiB" in source.notes[0]
    available(GIB // 2)
    check_fits(config)
    for asked in ({"quantization": "dequantize"}, {"dtype": "int8"}):
        assert not loaded_model.resolve(replace(config, **asked)).source.keep_quantized
    assert not loaded_model.resolve(EngineConfig("opt-125m", load_format="dummy", dtype="bfloat16")).source.keep_quantized


@pytest.mark.slow
def test_a_loaded_model_says_how_its_weights_stay(available):
    config = EngineConfig("smollm2-135m", dtype="bfloat16")
    available(GIB // 2)
    check_fits(config)
    notes = loaded_model.load(config).model.notes
    assert notes == loaded_model.resolve(config).source.notes
    assert len(notes) == 1


def test_generate_stops_before_loading_with_exit_code_4(generate, tmp_path, monkeypatch):
    def load(*args):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("pagecli.engine.loaded_model.load_tokenizer", load)
    code, out, err = generate([{"prompt": "a"}], "out.jsonl", "--kv-memory", "9000GiB")
    assert (code, out) == (4, "")
    assert "does not fit: KV cache 9000.00 GiB + Python and libraries" in err
    assert "hint: the largest that fits is --kv-memory" in err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("name", ["opt", "opt-post-norm", "llama", "qwen3"])
def test_the_sum_counts_the_buffers_a_model_really_has(tiny_model, name):
    from pagecli.devices.base import load_model

    source = resolve_model(str(tiny_model(name)))
    model = load_model(source, "float32", 24)
    assert memory.activation_bytes(source.config, 24) == model.workspace.num_bytes
    assert memory.weight_bytes(source.config, 4) == pytest.approx(model.weight_bytes, rel=0.05)


LLAMA_LIKE = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96, "rms_norm_eps": 1e-5}
SHAPES = {
    "OPTForCausalLM": {"num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 96, "word_embed_proj_dim": 128},
    "LlamaForCausalLM": LLAMA_LIKE | {"num_key_value_heads": 2},
    "MistralForCausalLM": LLAMA_LIKE | {"num_key_value_heads": 2, "sliding_window": None},
    "Qwen2ForCausalLM": LLAMA_LIKE | {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "Qwen3ForCausalLM": LLAMA_LIKE | {"num_key_value_heads": 2, "head_dim": 64},
}


@pytest.mark.parametrize("architecture", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_planned_weights_and_bounds_of_the_lm_head_are_what_a_loaded_model_holds(architecture, dtype, tmp_path):
    """Of every family: the LM head is most of such a model, and its bounds are a byte for each of its weights."""
    kind = architecture.removesuffix("ForCausalLM").lower()
    shape = {"architectures": [architecture], "model_type": kind, "hidden_size": 128, "vocab_size": 9000}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(shape | {"max_position_embeddings": 128, "do_layer_norm_before": True} | SHAPES[architecture]))
    loaded = loaded_model.load(EngineConfig(str(tmp_path), load_format="dummy", dtype=dtype))
    bytes_each = WEIGHT_BYTES[dtype]
    weights = memory.weight_bytes(loaded.model.config, bytes_each)
    bounds = memory.head_bounds_bytes(loaded.model.config, bytes_each)
    assert (bounds > 9000 * 128) == (dtype != "int8")
    assert loaded.model.weight_bytes == pytest.approx(weights + bounds, rel=0.35 if dtype == "int8" else 0.03)


@pytest.mark.parametrize("name", ["opt", "llama"])
def test_the_bounds_of_a_head_are_counted_in_every_family(tiny_model, tmp_path, name):
    from pagecli.devices.base import load_model

    config = json.loads((tiny_model(name) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 8192}))
    source = resolve_model(str(tmp_path), "dummy")
    bounds = load_model(source, "float32", 8).lm_head.bounds
    assert memory.head_bounds_bytes(source.config, 4) == bounds.nbytes > 8192 * 32
