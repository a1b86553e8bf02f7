"""Which model it is: by the content of its files, whatever their names, dates and places; exchanged content is found."""

import dataclasses
import os
import shutil
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.jobs.journal import job_identity, locked_output
from pagecli.jobs.journal.content_digests import ContentDigests
from pagecli.jobs.journal.job_differences import changed_weights
from pagecli.jobs.journal.job_identity import content_digest, rewritten, weights_identity
from pagecli.jobs.journal.locked_output import lock_output
from pagecli.model.registry import resolve_model


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy of the tiny Llama that may be changed."""
    shutil.copytree(tiny_model("llama"), tmp_path / "model")
    return tmp_path / "model"


def identified(folder, with_content=True):
    """(entries, paths) as a job notes them."""
    source = resolve_model(str(folder))
    paths = job_identity.weights_paths(source)
    entries = weights_identity(source)
    if with_content:
        entries = [{**entry, "content": content_digest(path)} for entry, path in zip(entries, paths, strict=True)]
    return entries, paths


def changed(before, folder):
    entries, paths = identified(folder, with_content=False)
    return changed_weights(before, entries, paths)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(offset=st.integers(0, 10**9), keep_time=st.booleans(), new_file=st.booleans())
def test_weights_exchanged_at_the_same_size_are_another_model_wherever_they_differ(
    tmp_path_factory, offset, keep_time, new_file
):
    """Also outside of the sampled pieces, in place or as another file, with the old modification time put back."""
    folder = tmp_path_factory.mktemp("model")
    path = folder / "weights"
    path.write_bytes(os.urandom(1 << 12) * 1000)  # 4 MB, of which 1 MB is sampled
    paths = [path]
    before = [{**job_identity._file_entry(path), "content": content_digest(path)}]
    found, data = path.stat(), bytearray(path.read_bytes())
    data[offset % len(data)] ^= 1
    if new_file:
        path.unlink()
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert changed_weights(before, [job_identity._file_entry(path)], paths)
    without_content = [{**before[0], "content": None}]
    assert changed_weights(without_content, [job_identity._file_entry(path)], paths)


def test_same_content_under_another_name_date_and_place_is_the_same_model(model, tmp_path):
    before, _ = identified(model)
    assert changed(before, model) == []
    os.symlink(model, tmp_path / "link")
    assert changed(before, tmp_path / "link") == []
    assert changed(before, f"{model.parent}/./model/") == []
    shutil.copytree(model, tmp_path / "copy")
    assert changed(before, tmp_path / "copy") == []
    os.utime(model / "model.safetensors")
    assert changed(before, model) == []


def test_copy_of_weights_whose_content_was_not_noted_is_refused_not_guessed(model, tmp_path):
    before, _ = identified(model, with_content=False)
    assert changed(before, model) == []
    shutil.copytree(model, tmp_path / "copy")
    assert "what it held was not noted" in changed(before, tmp_path / "copy")[0]


def test_contents_are_noted_unless_the_files_changed_meanwhile(model):
    entries, paths = identified(model, with_content=False)
    noted = []
    digests = ContentDigests(entries, paths, noted.append)
    digests._thread.join(10)
    digests.close()
    assert noted == [[{**entries[0], "content": content_digest(paths[0])}]]
    os.utime(paths[0])
    assert rewritten(entries, paths) == str(paths[0])
    digests = ContentDigests(entries, paths, noted.append)
    digests._thread.join(10)
    assert len(noted) == 1


@pytest.mark.parametrize("after_seconds", [0.0, 100.0])
def test_a_journal_notes_contents_once_it_is_old_enough(model, tmp_path, monkeypatch, after_seconds):
    monkeypatch.setattr(locked_output, "DIGEST_AFTER_SECONDS", after_seconds)
    entries, paths = identified(model, with_content=False)
    locked = lock_output(tmp_path / "out.jsonl")
    locked.open_journal({"weights": entries, "uses_time": False}, paths, restart=False)
    deadline = time.monotonic() + 10
    while after_seconds == 0.0 and locked._job["identity"]["weights"] == entries and time.monotonic() < deadline:
        time.sleep(0.05)
    locked.close()
    known = None if after_seconds else content_digest(paths[0])
    assert locked._job["identity"]["weights"] == [{**entries[0], "content": known}]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja"])
def test_everything_that_makes_tokens_of_text_counts_to_the_last_byte(model, name):
    source = resolve_model(str(model))
    path = model / name
    path.write_bytes(b"{}" + b" " * (2 << 20))
    before, _ = job_identity.text_facts(source)
    data = bytearray(path.read_bytes())
    data[1_100_000] = ord("\n")  # between the pieces that would be sampled
    path.write_bytes(data)
    (model / "README.md").write_text("new words")
    differing = {key for key, value in job_identity.text_facts(source)[0].items() if before[key] != value}
    assert differing == {name}


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja", "gguf", "gguf, late"])
def test_template_that_asks_for_the_time_is_found(model, tmp_path, place):
    source = resolve_model(str(model))
    assert not job_identity.text_facts(source)[1]
    assert not job_identity.header_shows_time(source)
    if place.startswith("gguf"):
        path = tmp_path / "model.gguf"
        path.write_bytes(b"x" * ((4 << 20) - 7 if "late" in place else 10) + b"{{ strftime_now('%d') }}")
        source = dataclasses.replace(source, weights_path=path, tokenizer_path=path)
    else:
        (model / place).write_text("{{ strftime_now('%d %b %Y') }}")
    assert job_identity.text_facts(source)[1] == (not place.startswith("gguf"))
    assert job_identity.header_shows_time(source) == place.startswith("gguf")
