"""Configs: presets have the published sizes, every spelling of config.json reads alike, the unsupported is refused."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import TINY_MODELS

from pagecli.core.model_config import RopeConfig
from pagecli.devices.memory import kv_bytes_per_token
from pagecli.errors import ModelError
from pagecli.model.build_program import build
from pagecli.model.presets import find_preset, find_preset_by_hub_id, preset_names
from pagecli.model.readers.config_fields import TEXT_KEYS
from pagecli.model.readers.hf_config import from_hf_config

# As published: model cards, and the totals of the hub's safetensors files.
NUM_PARAMETERS = {
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "opt-1.3b": 1_315_758_080,
    "opt-2.7b": 2_651_596_800,
    "opt-6.7b": 6_658_473_984,
    "opt-13b": 12_853_473_280,
    "opt-30b": 29_974_540_288,
    "opt-66b": 65_719_701_504,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-30b": 32_528_943_616,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.3-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mistral-nemo-12b": 12_247_782_400,
    "mistral-small-24b": 23_572_403_200,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_630_071_296,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "olmoe-1b-7b": 6_919_161_856,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
}


def preset_config(name: str):
    preset = find_preset(name)
    assert preset is not None
    return from_hf_config(preset.config, name)


@pytest.mark.parametrize(("name", "count"), NUM_PARAMETERS.items())
def test_presets_have_the_published_number_of_parameters(name, count):
    assert build(preset_config(name)).num_parameters == count


def test_opt_memory_is_that_of_the_paper():
    """Kwon et al., 2023: 800 KB of KV a token for OPT-13B (section 3), and the weights of table 1 at 16 bit."""
    assert kv_bytes_per_token(preset_config("opt-13b"), 2) == 819_200
    weights = [round(build(preset_config(name)).num_parameters * 2 / 1e9) for name in ("opt-13b", "opt-66b")]
    assert weights == [26, 131]  # the paper rounds 131.4 up to 132
    assert build(preset_config("opt-175b")).num_parameters * 2 / 1e9 == pytest.approx(346, rel=0.01)


def test_grouped_query_attention_shrinks_the_kv_cache():
    assert kv_bytes_per_token(preset_config("llama-2-70b"), 2) == 2 * 80 * 8 * 128 * 2
    assert kv_bytes_per_token(preset_config("smollm2-135m"), 4) == 2 * 30 * 3 * 64 * 4


def test_every_preset_is_found_by_name_in_any_case_and_by_hub_id():
    for name in preset_names():
        preset = find_preset(name.upper())
        assert preset is not None
        assert preset.name == name
        if preset.hub_id is not None:
            assert find_preset_by_hub_id(preset.hub_id) is not None
    assert find_preset("opt-125") is None


@pytest.mark.parametrize("name", TINY_MODELS)
def test_num_parameters_counts_what_transformers_has(tiny_model, name):
    from tiny_models import make_model

    saved = json.loads((tiny_model(name) / "config.json").read_text())
    assert build(from_hf_config(saved, "config.json")).num_parameters == make_model(name).num_parameters()


LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def test_old_and_new_spellings_of_rope_and_dtype_read_alike():
    old = LLAMA | {"rope_theta": 5e5, "rope_scaling": SCALING | {"type": "llama3"}, "torch_dtype": "bfloat16"}
    new = LLAMA | {"rope_parameters": SCALING | {"rope_type": "llama3", "rope_theta": 5e5}, "dtype": "bfloat16"}
    assert from_hf_config(old, "old") == from_hf_config(new, "new")
    assert from_hf_config(new, "new").rope == RopeConfig(5e5, 32, "llama3", 8.0, 1.0, 4.0, 8192)
    assert from_hf_config(LLAMA | {"rope_scaling": None}, "none").rope == RopeConfig(10000.0, 32)


def test_sliding_windows_apply_to_the_layers_the_config_says():
    mistral = LLAMA | {"architectures": ["MistralForCausalLM"], "sliding_window": 32}
    assert from_hf_config(mistral, "m").layer_windows == (32, 32)
    assert from_hf_config(mistral | {"sliding_window": None}, "m").sliding_window == 0
    qwen = LLAMA | {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 32, "max_window_layers": 1}
    assert from_hf_config(qwen, "q").layer_windows == ()
    assert from_hf_config(qwen | {"use_sliding_window": True}, "q").layer_windows == (0, 32)
    listed = qwen | {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]}
    assert from_hf_config(listed, "q").layer_windows == (32, 0)


def test_layer_types_of_a_mistral_are_read():
    """As transformers' Ministral reads them; its MistralForCausalLM warns that it does not."""
    mistral = LLAMA | {"architectures": ["MistralForCausalLM"], "sliding_window": 32}
    listed = mistral | {"layer_types": ["sliding_attention", "full_attention"]}
    assert from_hf_config(listed, "m").layer_windows == (32, 0)
    for bad in (["sliding_attention"], ["linear_attention", "full_attention"], "full_attention", [{}, {}]):
        with pytest.raises(ModelError, match="layer_types"):
            from_hf_config(mistral | {"layer_types": bad}, "m")


def test_model_type_stands_for_an_architecture_that_is_not_named():
    named = from_hf_config(LLAMA, "c")
    nameless = {name: value for name, value in LLAMA.items() if name != "architectures"} | {"model_type": "llama"}
    assert from_hf_config(nameless, "c") == named
    with pytest.raises(ModelError, match="model_type 'nonsense' is not supported"):
        from_hf_config(nameless | {"model_type": "nonsense"}, "c")


@pytest.mark.parametrize("name", TEXT_KEYS)
def test_a_key_that_changes_text_and_is_not_read_is_refused_by_name(name):
    """Every key of the list, on the family that reads the fewest; its neutral values go through."""
    opt = LLAMA | {"architectures": ["OPTForCausalLM"], "ffn_dim": 128}
    for neutral in TEXT_KEYS[name]:
        from_hf_config(opt | {name: neutral}, "c")
    with pytest.raises(ModelError, match=rf"c: {name} is \[0\.37\], which OPTForCausalLM is not computed with here"):
        from_hf_config(opt | {name: [0.37]}, "c")


def test_end_of_text_ids_may_be_one_or_many_and_the_generation_config_wins():
    assert from_hf_config(LLAMA | {"eos_token_id": 7}, "c").eos_token_ids == (7,)
    assert from_hf_config(LLAMA | {"eos_token_id": [7, 9]}, "c").eos_token_ids == (7, 9)
    assert from_hf_config(LLAMA | {"eos_token_id": 7}, "c", (3, 4)).eos_token_ids == (3, 4)
    assert from_hf_config(LLAMA | {"eos_token_id": None}, "c").eos_token_ids == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["FalconMambaForCausalLM"]}, "architecture 'FalconMambaForCausalLM' is not supported"),
        ({"architectures": None}, "no architecture named"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config.bits of gptq is None"),
        ({"quantization_config": {"quant_method": "squeezed"}}, "squeezed"),
        ({"rope_scaling": {"rope_type": "xdrope", "factor": 4.0}}, "rope scaling 'xdrope'"),
        ({"rope_scaling": {"type": "longrope", "factor": 4.0}}, "longrope without short_factor"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "attention_factor": "x"}}, "attention_factor is 'x'"),
        ({"rope_scaling": [1]}, "rope_scaling is"),
        ({"hidden_act": "quick_gelu"}, "activation 'quick_gelu'"),
        ({"hidden_act": ["silu"]}, "activation"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_hidden_layers": 2**30}, "1,073,741,824 layers are not supported"),
        ({"vocab_size": "100"}, "vocab_size is '100'"),
        ({"vocab_size": 2**40}, "vocab_size is"),
        ({"num_key_value_heads": 3}, "no multiple of 3 KV heads"),
        ({"hidden_size": 65}, "no multiple of 2 attention heads"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"partial_rotary_factor": 0.5}, "rotating a part"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line_that_names_the_file(change, message):
    with pytest.raises(ModelError) as caught:
        from_hf_config(LLAMA | change, "dir/config.json")
    assert message in caught.value.message
    assert caught.value.message.startswith("dir/config.json: ")
    assert "\n" not in caught.value.message


json_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers() | st.text(max_size=3), max_size=3),
    st.dictionaries(
        st.sampled_from(["rope_type", "factor", "rope_theta", "quant_method"]), st.integers() | st.text(), max_size=3
    ),
)
KEYS = [
    *LLAMA,
    *(
        "rope_scaling",
        "rope_parameters",
        "rope_theta",
        "sliding_window",
        "use_sliding_window",
        "max_window_layers",
        "layer_types",
    ),
    *(
        "quantization_config",
        "num_key_value_heads",
        "head_dim",
        "eos_token_id",
        "bos_token_id",
        "hidden_act",
        "ffn_dim",
        "dtype",
    ),
]


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine
@given(
    st.sampled_from(["OPT", "Llama", "Mistral", "Qwen2", "Qwen3"]),
    st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4),
)
def test_no_config_brings_the_reader_down(architecture, changes):
    try:
        config = from_hf_config(
            LLAMA | {"architectures": [f"{architecture}ForCausalLM"], "ffn_dim": 128} | changes, "config.json"
        )
    except ModelError:
        return
    assert build(config).num_parameters > 0
    assert config.num_heads % config.num_kv_heads == 0


QUANTIZED = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}}


@pytest.mark.parametrize("key", [*KEYS, *TEXT_KEYS, "architectures", "model_type", "text_config"])
@pytest.mark.parametrize(
    "value", ["a" * 5000, ["b" * 5000], {"c" * 5000: 1}, 10**4000, -(10**4000)], ids=lambda v: type(v).__name__
)
def test_a_value_of_any_length_makes_no_longer_message(key, value):
    """Nor does a number that no float holds."""
    for config in (LLAMA | {key: value}, LLAMA | {"architectures": ["Gemma2ForCausalLM"], key: value}):
        assert len(said(config)) < 300
    for name in QUANTIZED:
        assert 0 < len(said(LLAMA | {"quantization_config": QUANTIZED | {name: value}})) < 300


def said(config):
    """Why it is refused; nothing where it is not."""
    try:
        build(from_hf_config(config, "config.json"))
    except ModelError as error:
        return error.message
    return ""
