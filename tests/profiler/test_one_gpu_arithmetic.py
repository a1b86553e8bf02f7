"""What `profile --gpu` plans with is what `generate --device cuda` runs with: limits of a step, dtypes, bytes of weights and KV
blocks, for every preset on every GPU of the catalogue."""

from types import SimpleNamespace

import pytest

from pagecli.cli.generate.options import GenerateOptions
from pagecli.cli.profile import plan as profile_plan
from pagecli.devices import base, memory
from pagecli.devices.cuda.batch_limits import batch_limits
from pagecli.devices.cuda.device import CudaDevice
from pagecli.devices.limits import is_float8
from pagecli.errors import ModelError
from pagecli.model.presets import preset_names
from pagecli.model.program import Weight
from pagecli.model.registry import resolve_model
from pagecli.profiler.plan.gpus import find_gpu, gpu_names
from pagecli.profiler.plan.plan import make_plan
from pagecli.profiler.workloads.workloads import built_in


@pytest.fixture
def on_gpu():
    """on_gpu(name) -> the catalogue's GPU of that name, which --device cuda is from then on"""
    registered = dict(base._registered)

    def use(name):
        device = find_gpu(name)
        base.register("cuda", lambda: CudaDevice(lambda: SimpleNamespace(total_bytes=device.memory_bytes)))
        return device

    yield use
    base._registered.clear()
    base._registered.update(registered)
    base._made.pop("cuda", None)


GIVEN = ({}, {"max_num_seqs": 2000}, {"max_batch_tokens": 96}, {"max_num_seqs": 7, "max_batch_tokens": 64})


@pytest.mark.slow
@pytest.mark.parametrize("gpu", gpu_names())
def test_a_plan_has_the_engines_settings_and_bytes(on_gpu, gpu):
    """Limits of a step depend on the GPU and on what is given, bytes on the model: each pair of those is planned for."""
    device, workload, number = on_gpu(gpu), built_in("alpaca", 20), gpu_names().index(gpu)
    for i, model in enumerate(preset_names()):
        given = GIVEN[(i + number) % len(GIVEN)]
        config = GenerateOptions(input="in.jsonl", output="out.jsonl", model=model, device="cuda", **given).engine_config()
        source = resolve_model(model, "dummy")
        limits = given.get("max_num_seqs"), given.get("max_batch_tokens")
        asked = profile_plan._Asked(model, source, "auto", "auto", "auto", None, config.block_size, *limits, adapter_bytes=0)
        settings = asked.settings(device)
        assert (settings.max_num_seqs, settings.max_batch_tokens) == (config.max_num_seqs, config.max_batch_tokens)
        dtype = base.find("cuda").resolve_dtype(config.dtype)
        kv_dtype = config.kv_dtype_beside(dtype)
        assert (settings.dtype, settings.kv_dtype) == (dtype, kv_dtype)
        plan = make_plan(settings, workload)
        assert plan.weights_bytes == memory.weight_bytes_of(source, 2)
        block_bytes = memory.block_bytes(source.config, config.block_size, kv_dtype)
        assert settings.kv_bytes_per_token * settings.block_size == block_bytes
        assert plan.kv_blocks == plan.kv_memory_bytes // block_bytes


@pytest.mark.parametrize(
    ("gib", "limits"),
    [(None, (128, 512)), (1, (128, 1024)), (14.75, (256, 2048)), (23.69, (256, 2048)), (39.6, (512, 4096)),
     (79.1, (1024, 8192)), (178, (1024, 8192))],
)  # fmt: skip
def test_limits_grow_with_the_gpus_memory(gib, limits):
    num_bytes = None if gib is None else int(gib * 2**30)
    assert batch_limits(num_bytes, None, None) == limits
    assert batch_limits(num_bytes, 3, None) == (3, limits[1])
    assert batch_limits(num_bytes, None, 40) == (40, 40)
    assert batch_limits(num_bytes, 9000, None) == (9000, 9000)


@pytest.mark.parametrize(
    ("rows", "columns", "settings", "expected"),
    [(16, 64, {}, True), (24, 64, {}, False), (16, 24, {}, False), (16, 64, {"exact": True}, False),
     (24, 64, {"experts": 4}, True)],
)  # fmt: skip
def test_matrices_of_odd_sizes_are_not_in_8_bit_floats(rows, columns, settings, expected):
    assert is_float8(Weight(("w",), (rows,), columns, **settings)) == expected


def test_a_gpu_that_is_not_there_leaves_the_error_to_the_model(on_gpu):
    on_gpu("t4")

    def open_none():
        raise ModelError("there is no GPU", "use --device cpu")

    base.register("cuda", lambda: CudaDevice(open_none))
    options = GenerateOptions(input="in.jsonl", output="out.jsonl", model="opt-125m", device="cuda")
    assert (options.engine_config().max_num_seqs, options.engine_config().max_batch_tokens) == (128, 512)
