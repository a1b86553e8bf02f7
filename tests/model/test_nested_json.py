"""JSON that is nested deeper than Python reads is a damaged file like any other: one line, wherever it is read."""

import shutil
from datetime import datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pagecli.cli.flags.constraint_options import constraint_params
from pagecli.core.json_text import parsed
from pagecli.core.model_config import QuantizationConfig
from pagecli.errors import PagecliError
from pagecli.jobs.journal import job_identity
from pagecli.jobs.monitoring.job_status import read_heartbeat
from pagecli.jobs.shards.part_directory import JOB, PartDirectory
from pagecli.jobs.shards.parts_status import parts_status
from pagecli.jobs.storage.job_directory import HEARTBEAT, JobDirectory
from pagecli.model.adapters.peft_adapter import read_adapter
from pagecli.model.pooling import read_pooling
from pagecli.model.registry import resolve_model
from pagecli.model.tokenizer.loading import load_tokenizer
from pagecli.model.weights.packed.bitsandbytes import BITSANDBYTES
from pagecli.model.weights.packed.layer import Layer
from pagecli.model.weights.safetensors_file import SafetensorsSource, read_index
from pagecli.profiler.workloads.workload_files import is_trace, read_trace

DEEP = "[" * 100_000
TRACE = '{"input_length": 1, "output_length": 1}\n'


def test_it_is_a_value_error():
    assert parsed(b'{"a": [1]}') == {"a": [1]}
    with pytest.raises(ValueError, match="nested too deep"):
        parsed(DEEP)


READERS = {
    "config.json": lambda path: resolve_model(str(path.parent)),
    "generation_config.json": lambda path: resolve_model(str(path.parent)),
    "modules.json": lambda path: read_pooling(path.parent, None, None),
    "model.safetensors.index.json": read_index,
    "adapter_config.json": lambda path: read_adapter(path.parent),
    "schema.json": lambda path: constraint_params(path, None, None, None),
    "trace.jsonl": read_trace,
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_it_is_refused_in_one_line(tiny_model, tmp_path, name):
    shutil.copytree(tiny_model("llama"), tmp_path / "model")
    path = tmp_path / "model" / name
    path.write_text((TRACE if name == "trace.jsonl" else "") + DEEP)
    with pytest.raises(PagecliError) as caught:
        READERS[name](path)
    assert name in caught.value.message
    assert "\n" not in caught.value.message


def test_a_name_that_no_file_can_have_is_one_line():
    for flags in (("a\0b", None, None, None), (None, None, "a\0b", None)):
        with pytest.raises(PagecliError, match="cannot be read: embedded null byte"):
            constraint_params(*(given and Path(given) for given in flags))


def test_a_file_without_an_end_is_one_line():
    for flags in ((Path("/dev/zero"), None, None, None), (None, None, Path("/dev/zero"), None)):
        with pytest.raises(PagecliError, match="/dev/zero has more than 1,048,576 characters"):
            constraint_params(*flags)


def test_what_need_not_be_read_is_passed_over(tiny_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model("llama"), model)
    source = resolve_model(str(model))
    (model / "tokenizer_config.json").write_text(DEEP)
    with pytest.raises(PagecliError, match="no usable tokenizer"):
        load_tokenizer(source)
    (model / "model.safetensors.index.json").write_text(DEEP)
    assert job_identity._shards(model / "model.safetensors.index.json") == []
    (tmp_path / "in.jsonl").write_text(DEEP)
    assert not is_trace(tmp_path / "in.jsonl")
    with pytest.raises(PagecliError, match="--choice begins like a list"):
        constraint_params(None, None, None, DEEP)
    directory = JobDirectory(tmp_path / "out.jsonl", create=True)
    (directory.path / HEARTBEAT).write_text('{"processes": ' + DEEP)
    directory.close()
    assert read_heartbeat(tmp_path / "out.jsonl") is None


def test_the_record_of_a_job_in_parts_is_refused(tmp_path):
    output, now = tmp_path / "out.jsonl", datetime(2026, 1, 1)
    parts = PartDirectory(output, 2)
    assert parts.agree(now, str, overwrite=False) == now
    assert parts_status(str(output)) is not None
    (parts.path / JOB).write_text(DEEP)
    with pytest.raises(PagecliError, match="cannot be read"):
        parts_status(str(output))
    with pytest.raises(PagecliError, match="cannot be read"):
        parts.agree(now, str, overwrite=False)


def test_the_state_of_weights_in_4_bits_is_damaged(tmp_path):
    state = torch.tensor(list(DEEP.encode()), dtype=torch.uint8)
    tensors = {"": torch.zeros(8, 1, dtype=torch.uint8), ".absmax": torch.ones(1), ".quant_map": torch.zeros(16)}
    tensors[".quant_state.bitsandbytes__nf4"] = state
    save_file({f"m.weight{name}": tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    config = QuantizationConfig(method="bitsandbytes", layout="bitsandbytes", bits=4)
    layer = Layer(SafetensorsSource(tmp_path / "model.safetensors"), "m", config)
    with pytest.raises(PagecliError, match="m is not packed as quantization_config says"):
        BITSANDBYTES.values(layer)
