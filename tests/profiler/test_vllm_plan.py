"""What vLLM does with flags, beside what it printed on machines of others; each row names where that is published.

Memory in GiB of one GPU. Where the report gives total memory, it is that; names of GPUs stand for the catalogue's.
"""

import json
from dataclasses import replace

import pytest

from pagecli.cli.app import main
from pagecli.cli.profile.vllm_plan import model_of_vllm
from pagecli.errors import ModelError
from pagecli.model.registry import config_json
from pagecli.model.stored_tensors import StoredTensor, StoredTensors
from pagecli.profiler.plan.gpus import find_gpu
from pagecli.profiler.plan.vllm import GIB, VllmFlags, VllmPlan
from pagecli.profiler.plan.vllm_model import vllm_model

PLANNER = "llm-d-incubation/llm-d-planner docs/accuracy/vllm-v0.19.0-accuracy-report.md (49 runs on H100-80GB)"
H100 = ("h100", 79.19)
SEED_OSS = {
    "architectures": ["SeedOssForCausalLM"], "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64,
    "num_attention_heads": 80, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 155136,
    "max_position_embeddings": 524288, "attention_bias": True, "attention_out_bias": False, "mlp_bias": False,
    "rms_norm_eps": 1e-6, "hidden_act": "silu",
}  # fmt: skip
DEEPSEEK_V2_LITE = {
    "architectures": ["DeepseekV2ForCausalLM"], "hidden_size": 2048, "intermediate_size": 10944, "num_hidden_layers": 27,
    "num_attention_heads": 16, "kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "moe_intermediate_size": 1408, "n_routed_experts": 64, "n_shared_experts": 2, "first_k_dense_replace": 1,
    "vocab_size": 102400, "max_position_embeddings": 163840,
}  # fmt: skip
DEEPSEEK_V3 = DEEPSEEK_V2_LITE | {
    "architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61,
    "num_attention_heads": 128, "q_lora_rank": 1536, "moe_intermediate_size": 2048, "n_routed_experts": 256,
    "n_shared_experts": 1, "first_k_dense_replace": 3, "vocab_size": 129280, "topk_method": "noaux_tc",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}  # fmt: skip


def plan_of(model, gpu, **flags) -> VllmPlan:
    name, memory = gpu if isinstance(gpu, tuple) else (gpu, None)
    device = find_gpu(name)
    if memory is not None:
        device = replace(device, memory_bytes=int(memory * GIB))
    found = vllm_model(model, "config.json") if isinstance(model, dict) else model_of_vllm(model)
    return VllmPlan(found, device, VllmFlags(**flags))


# (model, GPU, flags, tokens that "GPU KV cache size" says, source)
KV_CACHE_SIZES = [
    ("llama-3.1-8b", H100, {"gpu_memory_utilization": 0.95, "max_model_len": 8192}, 476_000, PLANNER),
    ("llama-3.1-8b", H100, {"gpu_memory_utilization": 0.95, "kv_cache_dtype": "fp8", "max_model_len": 8192}, 952_032, PLANNER),
    ("qwen2.5-7b", H100, {"gpu_memory_utilization": 0.95, "max_model_len": 8192}, 1_096_000, PLANNER),
    ("qwen2.5-7b", H100, {"gpu_memory_utilization": 0.95, "kv_cache_dtype": "fp8"}, 2_192_000, PLANNER),
    ("llama-3.1-8b", "a100-40gb", {"max_model_len": 32768}, 163_168, "Experiment 2 on GCP a2-highgpu-1g, note of 2026-05-03"),
    ("llama-3.1-8b", "rtx-a6000", {"max_model_len": 32768}, 221_824, "Experiment 2 on Insomnia, runs 8998340 to 8998342"),
    (
        SEED_OSS,
        ("a100-80gb", 79.25),
        {"max_model_len": 131072, "max_num_batched_tokens": 8192, "max_num_seqs": 1, "tensor_parallel_size": 2},
        294_816,
        "Seed-OSS-36B-Instruct, 128K profile on 2 x A100-SXM4-80GB, note of 2026-05-29",
    ),
]


@pytest.mark.parametrize(("model", "gpu", "flags", "tokens", "source"), KV_CACHE_SIZES)
def test_the_kv_cache_has_the_tokens_that_vllm_printed(model, gpu, flags, tokens, source):
    plan = plan_of(model, gpu, **flags)
    assert plan.kv_tokens == pytest.approx(tokens, rel=0.01), source
    assert plan.starts


# (model, flags, weights, peak of the step, outside of torch) on an H100 at 0.95, as vLLM 0.19.0 printed them
MEMORY = [
    ("llama-3.1-8b", {}, 14.99, 1.89, 0.25),
    ("llama-3.1-8b", {"tensor_parallel_size": 2}, 7.51, 1.89, 2.07),
    ("llama-3.1-8b", {"tensor_parallel_size": 4}, 3.77, 1.89, 2.13),
    ("llama-3.1-8b", {"dtype": "float32"}, 29.98, None, None),
    ("qwen2.5-7b", {}, 14.25, 2.21, 0.24),
    ("qwen2.5-7b", {"tensor_parallel_size": 4}, 3.55, 2.21, 2.13),
    ("qwen3-8b", {}, 15.27, 2.21, 0.25),
]


@pytest.mark.parametrize(("model", "flags", "weights", "peak", "outside"), MEMORY)
def test_memory_goes_where_vllm_said_it_does(model, flags, weights, peak, outside):
    plan = plan_of(model, H100, gpu_memory_utilization=0.95, **flags)
    assert plan.weights_bytes / GIB == pytest.approx(weights, rel=0.01), PLANNER
    if peak is not None:
        assert plan.peak_bytes / GIB == pytest.approx(peak, abs=0.05), PLANNER
        assert plan.outside_bytes / GIB == pytest.approx(outside, abs=0.05), PLANNER


GPT_OSS = "myoceane.fr/index.php/ai-vllm-a100-gemma-4: openai/gpt-oss-20b on an A100 80GB, vLLM 0.19.0, 2026-04-18"


def test_experts_in_mxfp4_are_padded_and_windows_cost_little():
    """Weights 13.72 GiB; at --gpu-memory-utilization 0.65 36.56 GiB are left for the KV cache."""
    plan = plan_of("gpt-oss-20b", ("a100-80gb", 79.25), gpu_memory_utilization=0.65, max_model_len=131072)
    assert plan.weights_bytes / GIB == pytest.approx(13.72, rel=0.005), GPT_OSS
    assert plan.kv_memory_bytes / GIB == pytest.approx(36.56, rel=0.01), GPT_OSS
    full = replace(plan.model, layer_windows=())
    assert replace(plan, model=full).max_concurrency < 0.55 * plan.max_concurrency


def test_latent_attention_keeps_the_same_numbers_on_every_gpu():
    """vllm-project/vllm pull request 20665: 14 of DeepSeek-V2-Lite's layers in 12.13 GiB hold 807,792 tokens; 4650: its weights
    take 29.3010 GiB."""
    plan = plan_of(DEEPSEEK_V2_LITE, "a100-80gb")
    assert plan.weights_bytes / GIB == pytest.approx(29.3010, rel=0.005)
    blocks = int(12.13 * GIB) // (14 * plan.block_bytes)
    assert blocks * 16 == pytest.approx(807_792, rel=0.001)
    assert plan.with_flags(tensor_parallel_size=4).block_bytes == plan.block_bytes == 16 * 576 * 2
    assert plan.with_flags(kv_cache_dtype="fp8").block_bytes == 16 * 576


@pytest.mark.parametrize(
    ("config", "billions"),
    [(DEEPSEEK_V2_LITE, 15.7), ({**DEEPSEEK_V3, "quantization_config": None}, 671.0)],  # as their model cards say
)
def test_parameters_of_latent_models_are_those_published(config, billions):
    weights = vllm_model(config, "config.json").weights
    assert (weights.num_split + weights.num_whole) / 1e9 == pytest.approx(billions, abs=0.05)


def test_deepseek_v3_in_8_bits_takes_eight_gpus_of_the_largest_kind():
    """Its checkpoint is 641.3 GB without the layer that drafts tokens; down projections and routers are whole on each GPU."""
    plan = plan_of(DEEPSEEK_V3, "h200", tensor_parallel_size=8)
    assert plan.starts
    assert not plan_of(DEEPSEEK_V3, "h100", tensor_parallel_size=8).starts
    alone = vllm_model(DEEPSEEK_V3, "config.json").weights
    assert plan.weights_bytes > alone.bytes_on_each(2, 1) / 8
    assert 79 < plan.weights_bytes / GIB < 81


# A format, and bytes of a number in it: its bits, a scale of 2 bytes a group (bitsandbytes: of 4 for 64), zeros
QUANTIZED = [
    ({"quant_method": "awq", "bits": 4, "group_size": 128}, 0.5 + 2.5 / 128),
    ({"quant_method": "gptq", "bits": 8, "group_size": 32}, 1 + 3 / 32),
    ({"quant_method": "fp8"}, 1),
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 1 + 4 / 128**2),
    ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int"}}}}, 1),
    (
        {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4, "group_size": 32}}}},
        0.5 + 2 / 32,
    ),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 0.5 + 1 / 16),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 0.5 + 4 / 64),
]


@pytest.mark.parametrize(("quantization", "bytes_each"), QUANTIZED)
def test_linear_layers_are_quantized_and_nothing_else_is(quantization, bytes_each):
    """Of Qwen2.5-7B: 28 layers of 233 million numbers in linear layers; embeddings, LM head, norms and biases stay."""
    linear = 28 * (2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    rest = 2 * 152064 * 3584 + 57 * 3584 + 28 * (3584 + 2 * 512)
    plain = config_json("qwen2.5-7b")
    weights = vllm_model(plain | {"quantization_config": quantization}, "config.json").weights
    assert (weights.num_split, weights.split_bytes) == (rest, pytest.approx(linear * bytes_each))
    left_out = {**quantization, "modules_to_not_convert": ["re:.*self_attn.*", "model.layers.*.mlp.down_proj"]}
    larger = vllm_model(plain | {"quantization_config": left_out}, "config.json").weights
    assert larger.split_bytes == pytest.approx(28 * 2 * 3584 * 18944 * bytes_each)


def test_sizes_in_headers_win_and_layers_that_draft_are_left_out():
    tensors = {
        "model.layers.0.self_attn.q_a_proj.weight": StoredTensor("F8_E4M3", (100, 10)),
        "model.layers.0.self_attn.q_b_proj.weight": StoredTensor("F8_E4M3", (100, 10)),
        "model.layers.0.self_attn.q_b_proj.weight_scale_inv": StoredTensor("F32", (2, 1)),
        "model.embed_tokens.weight": StoredTensor("BF16", (50, 10)),
        "model.layers.61.mlp.up_proj.weight": StoredTensor("F8_E4M3", (1000, 10)),
    }
    weights = vllm_model(DEEPSEEK_V3, "config.json", StoredTensors(tensors, 2)).weights
    assert (weights.num_split, weights.whole_bytes, weights.source) == (500, 1000, "the headers of 2 files")
    again = 61 * 512 * 128 * 256 * 2  # kv_b_proj as two matrices of 16 bits
    assert weights.split_bytes == 1000 + 8 + again
    assert weights.bytes_on_each(4, 1) == 500 * 4 + 2008 + again


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"index_topk": 2048}, "the index of sparse attention"),
        ({"v_head_dim": None}, "v_head_dim is None"),
        ({"v_head_dim": 10**400}, "v_head_dim is 1000"),
        ({"num_hidden_layers": 10**9}, "1,000,000,000 layers are not supported"),
        ({"q_lora_rank": "1536"}, "q_lora_rank is '1536'"),
        ({"n_shared_experts": [1]}, r"n_shared_experts is \[1\]"),
        ({"moe_layer_freq": -1}, "moe_layer_freq is -1"),
        ({"quantization_config": {"quant_method": "spqr"}}, "quantized with 'spqr' is not known"),
        ({"quantization_config": "fp8"}, "quantization_config is 'fp8'"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [1, 2, 3]}}, "not as 'fp8' writes it"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [1e-300, 1]}}, "not as 'fp8' writes it"),
        ({"quantization_config": {"quant_method": "gptq", "bits": float("nan")}}, "not as 'gptq' writes it"),
        ({"quantization_config": {"quant_method": "awq", "group_size": "128"}}, "not as 'awq' writes it"),
        ({"quantization_config": {"quant_method": "gptq", "ignore": ["re:("]}}, "not as 'gptq' writes it"),
        ({"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": 4}}}}, "not as"),
    ],
)
def test_what_is_not_known_of_a_model_is_said(change, says):
    with pytest.raises(ModelError, match=says):
        vllm_model(DEEPSEEK_V3 | change, "config.json")


def test_experts_count_as_weights():
    """Qwen3-30B-A3B on two devices: 28.4767 GiB of weights on each, as a vLLM-Ascend log of 2026-07-16 says."""
    assert plan_of("qwen3-30b-a3b", H100, tensor_parallel_size=2).weights_bytes / GIB == pytest.approx(28.4767, rel=0.005)


def test_a_request_that_does_not_fit_is_refused_with_the_length_that_vllm_names():
    """vllm-project/vllm issue 34076: 262,144 tokens need 24.0 GiB, and 3.18 GiB of KV memory take 34,736 tokens."""
    plan = plan_of("qwen3-30b-a3b", H100)
    assert plan.request_bytes(262_144) == 24 * GIB
    assert (plan.request_bytes(34_736) / GIB, plan.request_bytes(34_752) / GIB) == pytest.approx((3.18, 3.1817), abs=0.002)


def test_what_does_not_start_starts_with_each_of_the_changes_that_are_named():
    """Llama-3.1-8B at its own length on a 24 GiB GPU, the commonest of such reports (vllm issue 10517)."""
    plan = plan_of("llama-3.1-8b", ("rtx-3090", 23.58))
    assert not plan.starts
    assert 30_000 < plan.longest() < 50_000
    changes = dict(plan.changes())
    assert f"--max-model-len {plan.longest()}" in changes
    assert "--tensor-parallel-size 2" in changes
    assert all(changed.starts for changed in changes.values())
    assert not plan.with_flags(max_model_len=plan.longest() + 16).starts


def test_weights_that_do_not_fit_leave_no_length_and_want_more_gpus():
    plan = plan_of("llama-3.1-70b", "h100")
    assert (plan.starts, plan.longest()) == (False, 0)
    assert [flag for flag, _ in plan.changes()] == ["--tensor-parallel-size 4"]


def test_layers_with_a_sliding_window_keep_the_window_and_a_step():
    plan = plan_of("gpt-oss-20b", "h100", max_model_len=131_072)
    windows = [plan.model.window(layer) for layer in range(plan.model.num_layers)]
    full = windows.count(0)
    assert 0 < full < len(windows)
    whole = 131_072 // 16 * full
    held = (127 + 8192 + 15) // 16 + 1
    assert plan.request_bytes(131_072) == (whole + held * (len(windows) - full)) * plan.block_bytes


@pytest.fixture
def profile(capsys, monkeypatch):
    def run(*flags: str) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as ended:
            main(["profile", "--engine", "vllm", *flags])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_the_command_that_starts_can_be_copied(profile):
    code, out, _ = profile("-m", "llama-3.1-8b", "--gpu", "a100-40gb", "--max-model-len", "32768", "--kv-dtype", "fp8")
    assert code == 0
    assert out.splitlines()[1].startswith("Starts: 326,")
    command = "vllm serve meta-llama/Llama-3.1-8B --gpu-memory-utilization 0.9 --max-model-len 32768 --kv-cache-dtype fp8"
    assert command in out.replace(" \\\n    ", " ")


def test_what_does_not_start_ends_with_exit_code_4_and_the_flags_that_help(profile):
    code, out, _ = profile("-m", "llama-3.1-8b", "--gpu", "rtx-3090")
    assert code == 4
    assert "needs 16.00 GiB of KV cache" in out
    longest = json.loads(profile("-m", "llama-3.1-8b", "--gpu", "rtx-3090", "--json")[1])["vllm"]["longest_max_model_len"]
    assert f"--max-model-len {longest}" in out
    code, out, _ = profile("-m", "opt-175b", "--gpu", "t4")
    assert (code, "No change of its flags" in out) == (4, True)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--dtype", "int8"), "--engine vllm with --dtype int8"),
        (("--kv-dtype", "int8"), "--engine vllm with --kv-dtype int8"),
        (("--gpu-memory-utilization", "1.5"), "--gpu-memory-utilization is 1.5"),
        (("--dtype", "fp8"), "--engine vllm with --dtype fp8"),
        (("--lora", "a=b"), "--engine vllm with --lora"),
        (("--quantization", "keep"), "--engine vllm with --quantization"),
        (("--num-gpus", "3"), "3 GPUs cannot share 32 heads"),
    ],
)
def test_what_vllm_does_not_take_is_one_line(profile, flags, says):
    code, out, err = profile("-m", "llama-3.1-8b", "--gpu", "l4", *flags)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {says}")
