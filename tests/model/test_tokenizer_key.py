"""Whatever changes what transformers makes of a tokenizer changes its key; and where that is not sure, there is none."""

import json
import os
import shutil

import pytest
from test_gguf import write_gguf

from pagecli.model.tokenizer import loading
from pagecli.model.tokenizer.loading import tokenizer_keys


@pytest.fixture
def model(tiny_model, tmp_path):
    copied = shutil.copytree(tiny_model("opt"), tmp_path / "model")
    (folder(copied / "additional_chat_templates") / "rag.jinja").write_text("{{ documents }}")
    return copied


def key(path) -> str:
    (found,) = tokenizer_keys(path)
    return found.name


CHANGES = {
    "a token": lambda model: edit(model / "tokenizer.json", lambda c: c["added_tokens"][0].update(lstrip=True)),
    "a setting beside it": lambda model: edit(model / "tokenizer_config.json", lambda c: c.update(eos_token="<|im_start|>")),
    "the model's type": lambda model: edit(model / "config.json", lambda c: c.update(model_type="gpt2")),
    "the chat template": lambda model: (model / "chat_template.jinja").write_text("{{ messages }}"),
    "one of several chat templates": lambda model: (model / "additional_chat_templates" / "rag.jinja").write_text("x"),
    "a chat template more": lambda model: (model / "additional_chat_templates" / "tool_use.jinja").write_text("x"),
    "a file more": lambda model: (model / "tokenizer.model").write_bytes(b""),
    "a file less": lambda model: (model / "chat_template.jinja").unlink(),
    "a file's name": lambda model: (model / "tokenizer_config.json").rename(model / "special_tokens_map.json"),
    "a link that leads nowhere": lambda model: (model / "tekken.json").symlink_to(model / "missing"),
}


def edit(path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def folder(path):
    path.mkdir()
    return path


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_beside_the_weights_changes_the_key(model, change):
    before = key(model)
    assert key(model) == before
    CHANGES[change](model)
    assert key(model) != before


def test_weights_do_not_count(model):
    before = key(model)
    (model / "model.safetensors").write_bytes(b"other")
    (folder(model / ".git") / "index").write_bytes(b"")
    os.utime(model / "config.json", (0, 0))
    with_folder = key(model)
    (model / ".git" / "index").write_bytes(b"other")
    assert key(model) == with_folder != before


def test_the_directorys_name_counts_since_transformers_reads_it(model, tmp_path, monkeypatch):
    other = shutil.copytree(model, tmp_path / "deepseek-coder")
    assert key(other) != key(model)


def test_packages_and_their_environment_count(model, monkeypatch):
    names = {key(model)}
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "detail")  # of messages alone
    names.add(key(model))
    assert len(names) == 1
    monkeypatch.setenv("TRANSFORMERS_ANYTHING", "1")
    names.add(key(model))
    monkeypatch.setattr(loading, "FORMAT", loading.FORMAT + 1)
    names.add(key(model))
    monkeypatch.setattr(loading, "_PACKAGES", ("transformers", "pytest"))
    names.add(key(model))
    assert len(names) == 4


@pytest.mark.parametrize(("version", "origin"), [("5.24.0.dev0", None), ("5.23.0", '{"dir_info": {"editable": true}}')])
def test_an_editable_transformers_gives_no_key(model, monkeypatch, version, origin):
    class Distribution:
        def __init__(self) -> None:
            self.version = version

        def read_text(self, name):
            return origin

    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Distribution())
    monkeypatch.setattr(loading, "_installed", loading._installed.__wrapped__)  # what was found before is not remembered
    assert list(tokenizer_keys(model)) == []


def test_more_than_can_be_read_quickly_gives_no_key(model, monkeypatch):
    monkeypatch.setattr(loading, "_MAX_FILE_BYTES", (model / "tokenizer.json").stat().st_size)
    assert key(model)
    monkeypatch.setattr(loading, "_MAX_FILE_BYTES", (model / "tokenizer.json").stat().st_size - 1)
    assert list(tokenizer_keys(model)) == []
    monkeypatch.undo()
    monkeypatch.setattr(loading, "_MAX_BYTES", 100)
    assert list(tokenizer_keys(model)) == []


def test_what_is_no_text_and_large_counts_by_its_size(model, monkeypatch):
    monkeypatch.setattr(loading, "_MAX_FILE_BYTES", 100_000)
    (model / "film.mp4").write_bytes(b"a" * 200_000)
    before = key(model)
    (model / "film.mp4").write_bytes(b"b" * 200_000)
    assert key(model) == before
    (model / "film.mp4").write_bytes(b"b" * 200_001)
    assert key(model) != before


def test_a_pipe_or_a_missing_directory_is_not_waited_for(model):
    os.mkfifo(model / "tokenizer.model")
    assert key(model)
    assert list(tokenizer_keys(model / "missing")) == []


@pytest.mark.parametrize(
    ("file", "setting"),
    [
        ("tokenizer_config.json", {"gguf_file": "model.gguf"}),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../tokenizer.5.0.json"]}),
        ("tokenizer_config.json", {"vocab_file": __file__}),
        ("tokenizer_config.json", {"init_inputs": [__file__]}),
        ("config.json", {"configuration_files": ["config.5.0.0.json"]}),
    ],
)
def test_a_key_does_not_stand_for_a_config_that_leads_to_other_files(model, file, setting):
    assert next(tokenizer_keys(model)).stands_for(model)
    edit(model / file, lambda config: config.update(setting))
    assert not next(tokenizer_keys(model)).stands_for(model)


@pytest.fixture
def gguf(tiny_model, tmp_path):
    return write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), "llama")


def test_of_a_gguf_file_the_header_counts_and_its_size(gguf):
    first, second = tokenizer_keys(gguf)
    assert first.stands_for(gguf)
    content = gguf.read_bytes()
    gguf.write_bytes(content.replace(b"<|im_start|>", b"<|im_begin|>", 1))
    assert first not in tokenizer_keys(gguf)
    gguf.write_bytes(content[:-1])
    assert first not in tokenizer_keys(gguf)
    gguf.write_bytes(content)
    assert list(tokenizer_keys(gguf)) == [first, second]


def test_of_a_gguf_file_no_more_counts_than_is_needed_for_its_header(gguf, monkeypatch):
    from pagecli.model.readers.gguf_header import read_gguf_header

    end = read_gguf_header(gguf).data_start
    monkeypatch.setattr(loading, "_GGUF_PREFIXES", (end - 1, end))
    before = list(tokenizer_keys(gguf))
    assert [each.stands_for(gguf) for each in before] == [False, True]
    content = bytearray(gguf.read_bytes())
    content[end] ^= 0xFF
    gguf.write_bytes(content)
    assert list(tokenizer_keys(gguf)) == before
    gguf.write_bytes(content[:-1])  # cut short: what transformers says to that stays its own
    assert before[1] not in tokenizer_keys(gguf)


def test_files_that_transformers_reads_beside_a_gguf_file_count(gguf, tiny_model):
    before = list(tokenizer_keys(gguf))
    (gguf.parent / "film.mp4").write_bytes(b"a")
    assert list(tokenizer_keys(gguf)) == before
    shutil.copy(tiny_model("opt") / "tokenizer.json", gguf.parent)
    assert before[0] not in tokenizer_keys(gguf)
