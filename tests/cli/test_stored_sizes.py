"""`profile` and `models show` on checkpoints: sizes out of the headers, of which no weight is read or downloaded."""

import json
import shutil
from contextlib import contextmanager

import pytest
from stand_in_hub import REPOSITORY, stand_in_hub

from pagecli.cli.app import main
from pagecli.model import hub
from pagecli.model.stored_tensors import stored_tensors


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """run(*words) -> (exit code, stdout, stderr), with an empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*words])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def model_of_hub(monkeypatch):
    """model_of_hub(files, sent): a context in which huggingface_hub's client talks to a hub that has these files."""

    @contextmanager
    def serve(files, sent):
        with stand_in_hub(files, "models", sent) as endpoint:
            constants = "huggingface_hub.constants"
            monkeypatch.setattr(f"{constants}.ENDPOINT", endpoint)
            monkeypatch.setattr(
                f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
            )
            monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
            monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint)
            yield

    return serve


def sharded(directory) -> dict[str, bytes]:
    """The files of a checkpoint of one safetensors file, its weights in two, with weights large beside their headers."""
    import torch
    from safetensors.torch import load_file, save

    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    files = {file.name: file.read_bytes() for file in directory.iterdir() if file.suffix == ".json"}
    files |= {name: save({each: tensors[each].to(torch.bfloat16) for each in part}) for name, part in parts.items()}
    index = {"weight_map": {each: name for name, part in parts.items() for each in part}}
    return files | {"model.safetensors.index.json": json.dumps(index).encode()}


@pytest.mark.slow
def test_a_model_of_the_hub_is_measured_by_range_requests(run, model_of_hub, tiny_model):
    files, sent = sharded(tiny_model("llama")), {}
    shards = [name for name in files if name.endswith(".safetensors")]
    for name in shards:  # as large as weights are beside their header
        files[name] += bytes(4_000_000)
    with model_of_hub(files, sent):
        plan = json.loads(run("profile", "-m", REPOSITORY, "--gpu", "l4", "--no-replay", "--json")[1])
        shown = json.loads(run("models", "show", REPOSITORY, "--json")[1])
    assert plan["plan"]["weights_are_exact"]
    assert shown["sizes"] == "exact, from the headers of 2 files"
    assert shown["stored_bytes"] == 2 * shown["parameters"] == plan["plan"]["weights_bytes"]
    assert shown["stored_as"] == ["BF16"]
    assert all(sent[name] <= 2 * 100_001 for name in shards), "two commands read a header each"


def test_a_directory_and_a_cached_model_are_read_where_they_are(run, tiny_model, tmp_path):
    directory = tiny_model("llama")
    code, out, _ = run("profile", "-m", str(directory), "--gpu", "l4", "--no-replay", "--all")
    assert code == 0
    assert "parameters (in the file's header) x 2 bytes" in out
    snapshot = tmp_path / "cache/models--facebook--opt-125m/snapshots/abc"
    shutil.copytree(directory, snapshot)
    assert stored_tensors("opt-125m").num_files == 1, "a named model whose weights are here"
    assert stored_tensors("opt-350m") is None, "for which nobody is asked"
    assert hub.cached_snapshot("facebook/opt-125m") == snapshot


def test_a_config_that_is_not_the_checkpoints_is_said_and_sizes_are_computed(run, tiny_model, tmp_path):
    shutil.copytree(tiny_model("llama"), tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    config["intermediate_size"] += 16
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    code, out, err = run("profile", "-m", str(tmp_path / "m"), "--gpu", "l4", "--no-replay")
    assert code == 0
    assert "config.json and the file's header differ, so sizes are computed: model.layers.0.mlp.gate_proj" in err
    assert "bytes, computed" in out


def test_a_hub_that_does_not_answer_leaves_sizes_computed(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert stored_tensors("me/none") is None
