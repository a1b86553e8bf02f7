"""JSON that is nested deeper than Python reads is a damaged file like any other: one line, wherever it is read."""

import shutil
from pathlib import Path

import pytest

from pagecli.cli.flags.constraint_options import constraint_params
from pagecli.core.json_text import parsed
from pagecli.errors import PagecliError
from pagecli.jobs.journal import job_identity
from pagecli.jobs.monitoring.job_status import read_heartbeat
from pagecli.jobs.storage.job_directory import HEARTBEAT, JobDirectory
from pagecli.model.adapters.peft_adapter import read_adapter
from pagecli.model.pooling import read_pooling
from pagecli.model.registry import resolve_model
from pagecli.model.tokenizer.loading import load_tokenizer
from pagecli.model.weights.safetensors_file import read_index
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
