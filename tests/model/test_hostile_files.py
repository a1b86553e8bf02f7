"""Model files that lie about their sizes or hold code: one clear line, no memory, nothing run."""

import json
import os
import pickle
import random
import struct
import tracemalloc

import pytest
import torch

from pagecli.errors import ModelError
from pagecli.model.readers.gguf_header import read_gguf_header
from pagecli.model.weights.pickle_file import PickleSource
from pagecli.model.weights.safetensors_file import SafetensorsSource

HUGE = 2**63 - 1
MAX_MEMORY = 8 << 20  # bytes; a header believed would take gigabytes


@pytest.fixture
def memory_stays_small():
    tracemalloc.start()
    yield  # (not around what imports transformers, which tracing makes ten times slower)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MAX_MEMORY


def refused(action) -> str:
    with pytest.raises(ModelError) as caught:
        action()
    assert "\n" not in caught.value.message
    return caught.value.message


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def gguf(num_tensors: int, num_entries: int, rest: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_entries) + rest


GGUF_FILES = {
    "counts": gguf(HUGE, HUGE, b""),
    "a million entries": gguf(1_000_000, 1_000_000, b""),
    "length of a key": gguf(0, 1, text(b"key", HUGE)),
    "length of a text": gguf(0, 1, text(b"key") + struct.pack("<I", 8) + text(b"value", 2**40)),
    "array of numbers": gguf(0, 1, text(b"key") + struct.pack("<IIQ", 9, 0, 2**40) + bytes(64)),
    "array of texts": gguf(0, 1, text(b"key") + struct.pack("<IIQ", 9, 8, HUGE) + bytes(64)),
    "array of arrays": gguf(0, 1, text(b"key") + struct.pack("<IIQ", 9, 9, 2**20) + bytes(64)),
    "dimensions": gguf(1, 0, text(b"w") + struct.pack("<I", 2**31)),
    "alignment": gguf(0, 1, text(b"general.alignment") + struct.pack("<II", 4, 0)),
}


@pytest.mark.parametrize("name", GGUF_FILES)
@pytest.mark.usefixtures("memory_stays_small")
def test_gguf_header_with_hostile_sizes(tmp_path, name):
    path = tmp_path / "m.gguf"
    path.write_bytes(GGUF_FILES[name])
    assert "truncated or corrupt GGUF header" in refused(lambda: read_gguf_header(path))


@pytest.mark.usefixtures("memory_stays_small")
def test_gguf_tensor_larger_than_the_file(tmp_path):
    from pagecli.model.registry import resolve_model

    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(1, 0, text(b"token_embd.weight") + struct.pack("<IQQIQ", 2, 2**31, 2**31, 0, 2**62) + bytes(64)))
    assert read_gguf_header(path).tensors["token_embd.weight"].shape == (2**31, 2**31)
    refused(lambda: resolve_model(str(path)))


def safetensors(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(64)


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> bytes:
    return json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


SAFETENSORS_FILES = {
    "length of the header": safetensors(b"{}", HUGE),
    "header of 2 GB": safetensors(b"{}", 2**31),
    "offsets past the end": safetensors(entry([2**40], [0, 2**42])),
    "offsets backwards": safetensors(entry([1], [8, 4])),
    "shape that does not fit": safetensors(entry([2**32, 2**32], [0, 64])),
    "negative shape": safetensors(entry([-1], [0, 64])),
    "no JSON": safetensors(b"{" * 1000),
    "nested": safetensors(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "empty": b"",
    "seven bytes": bytes(7),
}


@pytest.mark.parametrize("name", SAFETENSORS_FILES)
@pytest.mark.usefixtures("memory_stays_small")
def test_safetensors_header_with_hostile_sizes(tmp_path, name):
    path = tmp_path / "m.safetensors"
    path.write_bytes(SAFETENSORS_FILES[name])
    assert "not a complete safetensors file" in refused(lambda: SafetensorsSource(path))


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
@pytest.mark.usefixtures("memory_stays_small")
def test_flipped_bytes_are_one_line_or_harmless(tmp_path, kind):
    chance = random.Random(kind)
    metadata = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    tensor = text(b"w") + struct.pack("<IQQIQ", 2, 2, 2, 0, 0)
    good = gguf(1, 1, metadata + tensor + bytes(64)) if kind == "gguf" else safetensors(entry([16], [0, 64]))
    path = tmp_path / f"m.{kind}"
    for _ in range(300):
        data = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            if kind == "gguf":
                read_gguf_header(path)
            else:
                source = SafetensorsSource(path)
                for name in source.names():
                    source.read(name, (16,))
        except ModelError as error:
            assert "\n" not in error.message  # noqa: PT017


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self):
        return os.system, (self._command,)


def test_pickled_weights_that_hold_code_are_refused_and_the_code_is_not_run(tmp_path):
    planted = Planted(f"touch {tmp_path / 'ran'}")
    torch.save({"w": torch.zeros(2), "x": planted}, tmp_path / "zip.bin")
    torch.save({"x": planted}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(planted))
    for name in ("zip.bin", "old.bin", "plain.bin"):
        assert "not a readable PyTorch checkpoint" in refused(lambda name=name: PickleSource(tmp_path / name))
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_model_is_never_run_whatever_is_answered(tmp_path, tiny_model, monkeypatch):
    """auto_map names the repository's own Python. Left to itself, transformers asks on stdin whether to run it."""
    import shutil

    from pagecli.model.registry import resolve_model
    from pagecli.model.tokenizer.loading import load_tokenizer

    model, asked = tmp_path / "model", []
    monkeypatch.setattr("builtins.input", lambda *args: asked.append(args) or "y")
    shutil.copytree(tiny_model("llama"), model)
    (model / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    for tokenizer_class in ("TokenizersBackend", "Own"):
        for name in ("config.json", "tokenizer_config.json"):
            config = json.loads((model / name).read_text())
            config["tokenizer_class"] = tokenizer_class
            config["auto_map"] = {
                "AutoTokenizer": ["own.Own", "own.Own"],
                "AutoConfig": "own.Own",
                "AutoModelForCausalLM": "own.Own",
            }
            (model / name).write_text(json.dumps(config))
        try:
            load_tokenizer(resolve_model(str(model)))
        except ModelError as error:
            assert "\n" not in error.message  # noqa: PT017
            assert tokenizer_class == "Own"
    assert not asked
    assert not (tmp_path / "ran").exists()


def test_nothing_in_the_program_trusts_remote_code():
    from pathlib import Path

    import pagecli

    for path in Path(pagecli.__file__).parent.rglob("*.py"):
        assert "trust_remote_code" not in path.read_text().replace("trust_remote_code=False", ""), path
