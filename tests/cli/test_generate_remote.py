"""A job whose input and output are URLs, through the command line: journal here, output there."""

import fsspec

from pagecli.core import file_targets


def test_output_appears_in_the_store_and_nothing_stays_here(generate, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pipe("/in/rows.jsonl", b'{"prompt": "hello"}\n{"prompt": "world"}\n')
    code, _, err = generate("memory://in/rows.jsonl", "memory://out/rows.jsonl")
    assert code == 0, err
    assert store.cat("/out/rows.jsonl").count(b"\n") == 2
    assert not [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    code, _, err = generate("memory://in/rows.jsonl", "memory://out/rows.jsonl")
    assert code == 2
    assert "memory://out/rows.jsonl already exists" in err
    assert file_targets.local_output_path("memory://out/rows.jsonl").parent.parent == tmp_path / "state" / "pagecli" / "outputs"
