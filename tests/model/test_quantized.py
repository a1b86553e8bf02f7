"""Checkpoints whose weights stay quantized in memory: the same model as dequantized at load, in a fraction of its memory."""

from dataclasses import replace

import gguf
import gguf_random
import numpy as np
import pytest
import tiny_models
from paged_steps import PagedSteps, relative_error
from test_gguf import PROMPT, write_gguf

from pagecli.core.engine_config import EngineConfig
from pagecli.devices import memory
from pagecli.devices.base import load_model
from pagecli.devices.cpu import kernels
from pagecli.devices.cpu.device import CpuDevice
from pagecli.engine.engine import Engine
from pagecli.engine.loaded_model import resolve
from pagecli.errors import UsageError
from pagecli.model.build_program import build
from pagecli.model.registry import open_weights, resolve_model
from pagecli.model.shards import segment, shard
from pagecli.model.weights.gguf_blocks import BLOCK_TYPES
from pagecli.model.weights.reader import WeightReader
from pagecli.profiler.plan.gpus import find_gpu
from pagecli.profiler.plan.roofline import StepTime

TYPES = ("Q4_0", "Q4_1", "Q8_0")


@pytest.fixture
def quantized(tiny_model, tmp_path, monkeypatch):
    """quantized(kind, model) -> the tiny model as a GGUF file whose matrices are of that type."""

    def write(kind, model="llama"):
        monkeypatch.setattr("test_gguf.QUANTIZED", gguf.GGMLQuantizationType[kind])
        return write_gguf(tmp_path / f"{kind}.gguf", tiny_model(model), "llama" if "llama" in model else model, quantize=True)

    return write


# As llama.cpp mixes them: V and the down projection with more bits, and others where columns are not whole blocks.
MIXES = {
    "Q4_K_M": {"v_proj": "Q6_K", "down_proj": "Q5_0", "lm_head": "Q6_K", "": "Q4_K"},
    "Q2_K": {"v_proj": "Q3_K", "o_proj": "Q3_K", "down_proj": "Q4_0", "": "Q2_K"},
    "Q5_K_S": {"gate_proj": "Q4_K", "down_proj": "Q5_1", "": "Q5_K"},
    "IQ4_XS": {"k_proj": "Q5_K", "down_proj": "IQ4_NL", "": "IQ4_XS"},
}


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """mixed(mix) -> a tiny Llama of 256 hidden columns as a GGUF file, its matrices random blocks of a mix's types."""
    folder = tmp_path_factory.mktemp("mixes")
    model = tiny_models.make_model("llama", hidden_size=256, intermediate_size=352, num_attention_heads=8)
    model.save_pretrained(folder / "model")
    tiny_models.make_tokenizer().save_pretrained(folder / "model")

    def write(mix):
        def blocks(name, values):
            kind = next(kind for part, kind in MIXES[mix].items() if part in name)
            return gguf_random.blocks(kind, len(name), *values.shape, size=1e-3), gguf.GGMLQuantizationType[kind]

        path = folder / f"{mix}.gguf"
        return path if path.exists() else write_gguf(path, folder / "model", "llama", quantize=True, quantized=blocks)

    return write


def both(path, dtype):
    """(kept, dequantized): the model, loaded either way."""
    source = resolve_model(str(path))
    return (load_model(replace(source, keep_quantized=keep), dtype, 64) for keep in (True, False))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("model", ["llama", "llama-tied", "qwen3"])
def test_it_computes_what_the_dequantized_model_does(quantized, kind, model):
    """Rows of Q and K are put in another order at load; Q, K and V and gate and up are joined; embeddings are looked up."""
    kept, dequantized = both(quantized(kind, model), "float32")
    assert any(kept.weights.matrix(weight).is_quantized for weight in kept.program.weights() if weight.columns)
    assert kept.weight_bytes < dequantized.weight_bytes / 3
    assert relative_error(PagedSteps(kept).step(PROMPT)[0], PagedSteps(dequantized).step(PROMPT)[0]) <= 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mix", MIXES)
def test_a_mix_of_k_quants_computes_what_the_dequantized_model_does(mixed, mix, dtype):
    """To the bit, though Q, K and V, joined, have two formats; nothing is dequantized in memory."""
    kept, dequantized = both(mixed(mix), dtype)
    matrices = [weight for weight in kept.program.weights() if weight.columns]
    assert all(section.is_quantized for weight in matrices for section in kept.weights.sections(weight))
    assert np.array_equal(PagedSteps(kept).step(PROMPT)[0], PagedSteps(dequantized).step(PROMPT)[0])
    source = replace(resolve_model(str(mixed(mix))), keep_quantized=True)
    assert memory.weight_bytes_of(source, 4) == pytest.approx(kept.weight_bytes, rel=0.03)
    device = replace(find_gpu("h200"), is_reached=True, single_flops=1e30)
    read = (
        StepTime(source.config, device, 4, kept=memory.kept_of(source)).seconds(1, 1, -1) * device.bandwidth
    )  # of weights alone
    assert read == pytest.approx(kept.weight_bytes - memory.kept_of(source).of_table[1], rel=0.03)


def test_ranks_share_a_mix(mixed):
    """Parts of 256 columns stay as they are; of others, too few for a group, each is dequantized."""
    source = resolve_model(str(mixed("Q4_K_M")))
    device, kept = CpuDevice(), replace(source, keep_quantized=True)
    reader, program = WeightReader(open_weights(source)), segment(build(source.config), 2)
    for rank in range(2):
        for weight in shard(program, rank, 2).weights():
            tensor = reader.quantized(weight) if weight.columns else None
            if tensor is not None:
                assert np.array_equal(tensor.dequantized(), reader.read(weight))
    whole, cut = (device.load(kept, "float32", 64, lambda p, n=n: segment(p, n)) for n in (1, 2))
    assert relative_error(PagedSteps(cut).step(PROMPT)[0], PagedSteps(whole).step(PROMPT)[0]) <= 1e-5


def test_its_memory_is_known_from_the_header(quantized):
    for kind in TYPES:
        source = replace(resolve_model(str(quantized(kind))), keep_quantized=True)
        model = load_model(source, "float32", 64)
        assert memory.weight_bytes_of(source, 4) == pytest.approx(model.weight_bytes, rel=0.02)  # headers and padding


@pytest.mark.slow
def test_the_sample_keeps_its_numbers(sample_model):
    """SmolLM2's Q4_1 and Q8_0 tensors, the gguf package's numbers to the bit."""
    source = sample_model
    reader = WeightReader(open_weights(source))
    for weight in build(source.config).weights()[:6]:
        tensor = reader.quantized(weight) if weight.columns else None
        if tensor is not None:
            assert np.array_equal(tensor.dequantized(), reader.read(weight))


def test_a_rank_keeps_its_share_as_it_is(quantized):
    """Of matrices that ranks share by columns, parts that are whole groups; others are dequantized."""
    source = resolve_model(str(quantized("Q4_1")))
    reader, program = WeightReader(open_weights(source)), segment(build(source.config), 2)
    for rank in range(2):
        for weight in shard(program, rank, 2).weights():
            tensor = reader.quantized(weight) if weight.columns else None
            if tensor is not None:
                assert np.array_equal(tensor.dequantized(), reader.read(weight))
            elif weight.columns:
                assert weight.whole_columns
                assert weight.columns % 32
    device = CpuDevice()
    whole, cut = (
        device.load(replace(source, keep_quantized=True), "float32", 64, lambda p, n=n: segment(p, n)) for n in (1, 2)
    )
    assert relative_error(PagedSteps(cut).step(PROMPT)[0], PagedSteps(whole).step(PROMPT)[0]) <= 1e-5


def test_a_greedy_row_is_the_same_alone_and_among_others(quantized):
    settings = {"model": str(quantized("Q4_1")), "dtype": kernels_dtype(), "quantization": "keep"}
    alone, together = (Engine(EngineConfig(**settings, max_num_seqs=n)) for n in (1, 8))
    prompts = [[5, 9, 200, 31], [7, 7], [300, 2, 2, 5, 8]]
    assert [texts(alone, [prompt])[0] for prompt in prompts] == texts(together, prompts)


def kernels_dtype():
    return "bfloat16" if kernels.isa_name() in ("avx512bf16", "amx") else "float32"


def texts(engine, prompts):
    from pagecli.core.sampling_params import SamplingParams

    for index, prompt in enumerate(prompts):
        engine.add_request(index, prompt, SamplingParams(max_tokens=12, ignore_eos=True))
    outputs = {}
    while engine.has_unfinished():
        outputs |= {output.request_id: output.sequences[0].token_ids for output in engine.step()}
    return [outputs[index] for index in range(len(prompts))]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"dtype": "float32"}, True),
        ({"dtype": "bfloat16", "max_num_seqs": 6}, kernels.isa_name() in ("avx512bf16", "neon_bf16")),
        ({"dtype": "bfloat16", "max_num_seqs": 7}, False),
        ({"dtype": "bfloat16", "max_num_seqs": 1}, True),
        ({"dtype": "bfloat16"}, False),
        ({"dtype": "bfloat16", "quantization": "keep"}, True),
        ({"dtype": "float32", "quantization": "dequantize"}, False),
        ({"dtype": "int8", "max_num_seqs": 1}, False),
    ],
)
def test_auto_keeps_where_that_is_faster(quantized, settings, kept):
    assert resolve(EngineConfig(str(quantized("Q8_0")), **settings)).source.keep_quantized is kept


@pytest.mark.parametrize("kind", [*TYPES, "Q5_0", "Q5_1"])
def test_auto_sees_the_format_where_bfloat16_is_not_multiplied(quantized, kind):
    """One row: those of even steps are read faster than bfloat16, the others only by kernels that make pairs in registers."""
    source = resolve_model(str(quantized(kind)))
    for dtype, isa, rows, kept in (
        ("bfloat16", "avx2", 1, kind in TYPES),
        *(("bfloat16", "avx512bf16", 6, True), ("bfloat16", "avx2", 2, False), ("float32", "avx2", 128, True)),
        *(("bfloat16", "amx", 1, kind in TYPES), ("bfloat16", "amx", 2, False), ("float32", "amx", 1, True)),
    ):
        config = EngineConfig("model", dtype=dtype, max_num_seqs=rows)
        assert memory.with_quantization(source, config, "cpu", dtype, 1 << 40, isa).keep_quantized is kept


def test_of_a_file_that_mixes_formats_the_share_without_even_steps_counts(mixed):
    even = {kind.name for kind in gguf.GGMLQuantizationType if kind in BLOCK_TYPES and BLOCK_TYPES[kind].format.has_even_steps}
    assert even == {"Q4_0", "Q4_1", "Q4_K", "Q8_0"}
    config = EngineConfig("model", dtype="bfloat16", max_num_seqs=1)
    source = resolve_model(str(mixed("Q4_K_M")))
    assert 0.2 < source.quantized.num_uneven / source.quantized.num_elements < 1
    for share, kept in ((0.19, True), (0.21, False)):
        part = replace(source.quantized, num_uneven=int(share * source.quantized.num_elements))
        found = memory.with_quantization(replace(source, quantized=part), config, "cpu", "bfloat16", 1 << 40, "avx2")
        assert found.keep_quantized is kept


def test_what_cannot_be_kept_is_refused_in_one_line(quantized):
    with pytest.raises(UsageError, match="--quantization keep with --dtype int8"):
        resolve(EngineConfig(str(quantized("Q8_0")), dtype="int8", quantization="keep"))
