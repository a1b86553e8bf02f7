"""A job whose input and output are URLs, through the command line: journal here, output there."""

import contextlib
import io
import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stand_in_hub import stand_in_hub

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


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """hub(files) -> files, as the dataset me/data of the hub that hf:// leads to."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with contextlib.ExitStack() as stack:

        def serve(files):
            endpoint = stack.enter_context(stand_in_hub(files))
            monkeypatch.setitem(
                fsspec.config.conf, "hf", {"endpoint": endpoint, "token": "hf_secret", "skip_instance_cache": True}
            )
            return files

        yield serve


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_a_dataset_of_the_hub_is_read_and_written(generate, hub, suffix, tmp_path):
    parquet = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["hello", "world"], "label": [1, 2]}), parquet)
    lines = b'{"prompt": "hello", "label": 1}\n{"prompt": "world", "label": 2}\n'
    content = {".jsonl": lines, ".csv": b"prompt,label\nhello,1\nworld,2\n", ".parquet": parquet.getvalue()}[suffix]
    files = hub({f"part/train{suffix}": content})
    code, _, err = generate(f"hf://datasets/me/data/part/train{suffix}", f"hf://datasets/me/data/answers{suffix}")
    assert code == 0, err
    assert generate([{"prompt": "hello", "label": 1}, {"prompt": "world", "label": 2}], f"here{suffix}")[0] == 0
    here = (tmp_path / f"here{suffix}").read_bytes()
    if suffix == ".parquet":
        read = lambda content: pq.read_table(io.BytesIO(content)).to_pylist()  # noqa: E731
        assert read(files["answers.parquet"]) == read(here)
    else:
        assert files[f"answers{suffix}"] == here
    code, _, err = generate(f"hf://datasets/me/data/part/train{suffix}", f"hf://datasets/me/data/answers{suffix}")
    assert (code, "already exists" in err) == (2, True)


@pytest.mark.slow
def test_a_folder_of_the_hub_is_read_file_by_file(generate, hub, tmp_path):
    hub({"data/b.jsonl": b'{"prompt": "two"}\n', "data/a.jsonl": b'{"prompt": "one"}\n', "README.md": b"no rows"})
    for source in ("hf://datasets/me/data/data/", "hf://datasets/me/data/data/*.jsonl"):
        code, _, err = generate(source, "out.jsonl", "--overwrite")
        assert code == 0, err
        assert [json.loads(line)["prompt"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == ["one", "two"]


@pytest.mark.slow
def test_what_the_hub_does_not_have_and_a_hub_that_is_not_there_are_one_line(generate, hub):
    hub({"a.jsonl": b"{}"})
    code, _, err = generate("hf://datasets/me/data/b.jsonl", "out.jsonl")
    assert (code, err.splitlines()[0]) == (3, "error: hf://datasets/me/data/b.jsonl: no such file")
    fsspec.config.conf["hf"]["endpoint"] = "http://127.0.0.1:9"
    code, _, err = generate("hf://datasets/me/data/a.jsonl", "out.jsonl")
    first, hint = err.splitlines()
    assert code == 3
    assert first.startswith("error: hf://datasets/me/data/a.jsonl cannot be read: ")
    assert "check the network and the credentials for hf://" in hint
    assert "hf_secret" not in err
