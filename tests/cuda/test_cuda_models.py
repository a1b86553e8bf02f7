"""Whole models on the CUDA kernels: logits through the paged cache equal the CPU models', in prefills, chunks and decodes."""

import random

import pytest
import torch
from gpu_tensors import DEVICE, EMULATED
from model.paged_steps import PagedSteps, relative_error
from tiny_models import TINY_MODELS, TINY_VOCAB_SIZE

from pagecli.devices import memory
from pagecli.devices.base import KVCache, load_model
from pagecli.devices.cuda.model.model import CudaModel
from pagecli.devices.memory import gpu_activation_bytes
from pagecli.errors import ModelError, UsageError
from pagecli.model.registry import resolve_model

pytestmark = pytest.mark.cuda
CASES = [("opt", "bfloat16"), ("opt-post-norm", "float32"), ("llama", "float32"), ("mistral", "bfloat16"), ("qwen3", "float16")]
if not EMULATED:
    CASES = [(name, dtype) for name in TINY_MODELS for dtype in ("float32", "bfloat16", "float16")]
CASES += [("opt", "fp8"), ("qwen3", "fp8")]
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3, "fp8": 0.15}


def logits_of(model, dtype: torch.dtype) -> torch.Tensor:
    """Every logit of three prompts, fed in steps that mix prefills, chunks behind a prefix and single tokens."""
    draw = random.Random(1)
    prompts = [[draw.randrange(TINY_VOCAB_SIZE) for _ in range(length)] for length in (1, 9, 23)]
    steps, found, done = PagedSteps(model, dtype), {i: [] for i in range(3)}, [0, 0, 0]
    if isinstance(model, CudaModel):  # its keys lie as its values do
        steps.kv = KVCache(*([v.to(DEVICE, copy=True) for v in steps.kv.values] for _ in range(2)))
    for sizes in ([1, 5, 20], [0, 1, 1], [0, 3, 2]):
        chunks = {i: prompts[i][done[i] : done[i] + size] for i, size in enumerate(sizes) if size}
        done = [d + size for d, size in zip(done, sizes, strict=True)]
        for i, logits in steps.step(chunks).items():
            found[i].append(logits.cpu())
    return torch.cat([logits for rows in found.values() for logits in rows])


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_logits_equal_the_cpu_models(tiny_model, name, dtype):
    source = resolve_model(str(tiny_model(name)))
    expected = logits_of(load_model(source, "float32", max_batch_tokens=64), torch.float32)
    with torch.inference_mode():
        kv_dtype = torch.bfloat16 if dtype == "fp8" else getattr(torch, dtype)
        found = logits_of(load_model(source, dtype, 64, "cuda"), kv_dtype)
    assert relative_error(found, expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize(("name", "tolerance"), [("opt", 0.1), ("llama", 0.1)])
def test_logits_with_a_cache_of_8_bit_floats(tiny_model, name, tolerance):
    source = resolve_model(str(tiny_model(name)))
    with torch.inference_mode():
        model = load_model(source, "bfloat16", 64, "cuda")
        expected = logits_of(model, torch.bfloat16)
        found = logits_of(model, torch.float8_e4m3fn)
    assert 0 < relative_error(found, expected) <= tolerance


def test_weights_in_8_bits_take_half_the_memory(tiny_model):
    source = resolve_model(str(tiny_model("llama")))
    wide, narrow = (load_model(source, dtype, 64, "cuda").weight_bytes for dtype in ("bfloat16", "fp8"))
    linear = 3 * (96 * (128 + 2 * 64) + 128 * 96 + 3 * 96 * 160)
    scales = 3 * 4 * (128 + 2 * 64 + 96 + 2 * 160 + 96)
    assert wide - narrow == linear - scales
    for dtype, loaded in (("bfloat16", wide), ("fp8", narrow)):
        planned = memory.weight_bytes_of(source, memory.bytes_each(source.config, dtype))
        assert loaded == pytest.approx(planned, rel=0.02)  # norms have 32 bits


@pytest.mark.skipif(not EMULATED, reason="looks at tensors of the host")
@pytest.mark.parametrize("name", [name for name in ("opt", "opt-post-norm", "llama", "qwen3", "gpt2") if name in TINY_MODELS])
def test_the_most_that_values_take_is_what_the_plan_says(tiny_model, name):
    source = resolve_model(str(tiny_model(name)))
    planned = gpu_activation_bytes(source.config, 32, 4)
    assert 0.99 * planned <= most_of_values(source) <= planned


def most_of_values(source) -> int:
    """Bytes, in a step of 32 tokens, of a router's sorted rows too."""
    model = load_model(source, "float32", 64, "cuda")
    peaks = []

    def watched(call):
        def then_look(step):
            call(step)
            tensors = [*step.values.values(), *(each for rows in step.routes.values() for each in (rows.order, rows.tiles))]
            storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
            peaks.append(sum(storages.values()))

        return then_look

    model._bound = [(watched(call), ended) for call, ended in model._bound]
    with torch.inference_mode():
        steps = PagedSteps(model, torch.float32)
        steps.kv = KVCache(*([v.clone() for v in steps.kv.values] for _ in range(2)))
        steps.step({0: list(range(1, 33))})
    return max(peaks)


def test_what_the_gpu_does_not_compute_is_refused(tiny_model):
    source = resolve_model(str(tiny_model("llama")))
    with pytest.raises(UsageError, match="int8"):
        load_model(source, "int8", 64, "cuda")
    import dataclasses

    odd = dataclasses.replace(source, config=dataclasses.replace(source.config, head_dim=36))
    with pytest.raises(ModelError, match="heads of size 36"):
        load_model(odd, "bfloat16", 64, "cuda")
