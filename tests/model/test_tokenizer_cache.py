"""Kept copies: whole or not used, the user's alone, not too many; and no trouble with the folder is a trouble of the job's."""

import os
import stat
import threading

import pytest
import tiny_tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.model.tokenizer import loading
from pagecli.model.tokenizer.loading import cache_folder, load_parts, make_folder, read, write
from pagecli.model.tokenizer.tokenizer import TransformersTokenizer

NAME, CONTENT = "ab" * 32, b'{"a": 1}\n{"b": 2}'


@pytest.fixture
def folder(tmp_path):
    assert make_folder(tmp_path / "pagecli" / "tokenizers")
    return tmp_path / "pagecli" / "tokenizers"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_tokenizers.build("byte-level BPE", tmp_path_factory.mktemp("model"))


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """How often transformers was asked, with an empty folder for copies."""
    calls = []
    load = loading.load_with_transformers
    monkeypatch.setattr(loading, "load_with_transformers", lambda path: calls.append(path) or load(path))
    monkeypatch.setenv("PAGECLI_CACHE_DIR", str(tmp_path / "copies"))
    return calls


def the_copy():
    (path,) = cache_folder().iterdir()
    return path


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PAGECLI_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, "/a/tokenizers"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/pagecli/tokenizers"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/c"}, "/c/.cache/pagecli/tokenizers"),
        ({"HOME": "/c"}, "/c/.cache/pagecli/tokenizers"),
        ({"PAGECLI_CACHE_DIR": "~/d", "HOME": "/c"}, "/c/d/tokenizers"),
        ({"PAGECLI_CACHE_DIR": "", "HOME": "/c"}, None),
        ({"PAGECLI_CACHE_DIR": "~nobody-has-this-name/d"}, None),
    ],
)
def test_the_folder_is_the_one_named_else_the_users_cache(monkeypatch, environment, expected):
    for name in ("PAGECLI_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = cache_folder()
    assert (found and str(found)) == expected


def test_what_is_written_is_read_by_its_name_alone(folder):
    write(folder, NAME, CONTENT)
    assert read(folder, NAME) == CONTENT
    assert read(folder, "cd" * 32) is None
    (folder / f"{NAME}.json").rename(folder / f"{'cd' * 32}.json")
    assert read(folder, "cd" * 32) is None


def test_files_and_folders_are_the_users_alone(folder):
    write(folder, NAME, CONTENT)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder, folder / f"{NAME}.json")]
    assert modes == [0o700, 0o700, 0o600]
    assert [path.name for path in folder.iterdir()] == [f"{NAME}.json"]


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_copy_that_is_damaged_or_cut_short_is_not_read(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    make_folder(folder)
    write(folder, NAME, CONTENT)
    path = folder / f"{NAME}.json"
    whole = path.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    for damaged in (whole[:position], whole + b"\n", b"[]\n" + CONTENT):
        path.write_bytes(damaged)
        assert read(folder, NAME) is None
    flipped = bytearray(whole)
    flipped[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(flipped)
    in_head = position < whole.index(b"\n")  # which may mean the same, with a tab for a space
    assert read(folder, NAME) in ((None, CONTENT) if in_head else (None,))


def test_others_files_links_pipes_and_folders_are_not_read(folder, monkeypatch, tmp_path):
    path = folder / f"{NAME}.json"
    write(folder, NAME, CONTENT)
    path.chmod(0o620)
    assert read(folder, NAME) is None
    path.chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert read(folder, NAME) is None
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert read(folder, NAME) is None
    path.unlink()
    os.mkfifo(path, 0o600)
    assert read(folder, NAME) is None
    path.unlink()
    path.mkdir()
    assert read(folder, NAME) is None
    write(folder, NAME, CONTENT)  # nor can it be replaced: no error


def test_of_many_copies_those_used_last_stay(folder, monkeypatch):
    monkeypatch.setattr(loading, "MAX_FILES", 3)
    for age, name in enumerate("abcd"):
        write(folder, name, CONTENT)
        os.utime(folder / f"{name}.json", (1000 + age, 1000 + age))
    assert [name for name in "abcd" if read(folder, name)] == ["b", "c", "d"]
    for age, name in enumerate("bcd"):
        os.utime(folder / f"{name}.json", (1000 + age, 1000 + age))
    read(folder, "b")
    write(folder, "e", CONTENT)
    assert sorted(path.name for path in folder.iterdir()) == ["b.json", "d.json", "e.json"]


def test_what_a_killed_writer_left_goes_after_a_while(folder):
    (folder / ".new.tmp").touch()
    (folder / ".old.tmp").touch()
    os.utime(folder / ".old.tmp", (1000, 1000))
    write(folder, NAME, CONTENT)
    assert sorted(path.name for path in folder.iterdir()) == [".new.tmp", f"{NAME}.json"]


def test_many_writers_and_readers_at_once_see_whole_copies(folder):
    seen = []

    def work() -> None:
        for _ in range(50):
            write(folder, NAME, CONTENT)
            seen.append(read(folder, NAME))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [CONTENT] * 200


def test_transformers_is_asked_once(model, counted):
    first, second = (TransformersTokenizer(load_parts(model)) for _ in range(2))
    assert first.encode("the fox") == second.encode("the fox")
    assert len(counted) == 1


def test_a_damaged_copy_is_made_anew(model, counted):
    load_parts(model)
    whole = the_copy().read_bytes()
    the_copy().write_bytes(whole[:-10])
    load_parts(model)
    assert the_copy().read_bytes() == whole
    load_parts(model)
    assert len(counted) == 2


def test_a_copy_that_is_whole_but_no_tokenizer_is_made_anew(model, counted):
    load_parts(model)
    name = the_copy().stem
    write(cache_folder(), name, b'{"encode_special_tokens": false}\n{"version": "1.0"}')
    load_parts(model)
    load_parts(model)
    assert len(counted) == 2


def test_a_full_disk_leaves_nothing_and_is_no_error(model, counted, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        load_parts(model)
    assert list(cache_folder().iterdir()) == []
    load_parts(model)
    assert the_copy()


def test_a_folder_that_cannot_be_made_is_no_error(model, counted, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PAGECLI_CACHE_DIR", str(tmp_path / "file" / "copies"))
    assert TransformersTokenizer(load_parts(model)).encode("the")
    assert len(counted) == 1


def test_a_model_that_changes_while_it_is_read_is_not_kept(model, counted, monkeypatch, tmp_path):
    import shutil

    changing = shutil.copytree(model, tmp_path / "changing")
    load = loading.load_with_transformers

    def load_then_change(path):
        loaded = load(path)
        (changing / "added_tokens.json").write_text("{}")
        return loaded

    monkeypatch.setattr(loading, "load_with_transformers", load_then_change)
    load_parts(changing)
    assert list(cache_folder().iterdir()) == []
