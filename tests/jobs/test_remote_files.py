"""URLs as inputs and outputs: read as they come, written at once or not at all, and no secret in what is said."""

import json
import os
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from whole_jobs import run_job

from pagecli.core import file_targets
from pagecli.errors import InputError, UsageError
from pagecli.jobs.readers.open_input import open_input
from pagecli.jobs.storage import remote_files
from pagecli.jobs.writers.open_output import check_writable

ROWS = [{"prompt": f"prompt {i}", "x": i} for i in range(300)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """The state directory, empty at the beginning."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    fsspec.filesystem("memory").store.clear()
    return tmp_path / "state"


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def memory(path: str, content: bytes) -> None:
    with fsspec.open(f"memory://{path}", "wb") as file:
        file.write(content)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".jsonl.gz"])
def test_job_from_and_to_a_url_is_that_of_local_files(tmp_path, state, suffix):
    memory("in/rows.jsonl", LINES)
    (tmp_path / "rows.jsonl").write_bytes(LINES)
    run_job("memory://in/rows.jsonl", f"memory://out/result{suffix}")
    run_job(tmp_path / "rows.jsonl", tmp_path / f"result{suffix}")
    with fsspec.open(f"memory://out/result{suffix}", "rb") as file:
        assert file.read() == (tmp_path / f"result{suffix}").read_bytes()
    assert files_below(state) == [], "nothing is left on this machine"


def test_parquet_and_patterns_are_read_from_urls(tmp_path):
    memory("in/a.jsonl", LINES)
    run_job("memory://in/a.jsonl", "memory://sets/part-1.parquet")
    run_job("memory://in/a.jsonl", "memory://sets/part-2.parquet", limit=7)
    for path in ("memory://sets/*.parquet", "memory://sets/"):
        source = open_input(path)
        assert source.estimate().num_rows == 307
        rows = list(source)
        source.close()
        assert [row.index for row in rows] == list(range(307))
        assert rows[301].columns["x"] == 1


def test_output_is_not_there_before_it_is_complete_and_an_existing_one_is_kept(state):
    from writing import open_writer, results

    fs = fsspec.filesystem("memory")
    check_writable("memory://out/x.jsonl", overwrite=False)
    writer = open_writer("memory://out/x.jsonl")
    for row in results([{"x": 1}]):
        writer.write(row)
        assert not fs.exists("/out/x.jsonl")
    memory("out/x.jsonl", b"precious")
    with pytest.raises(UsageError, match="created by another process") as caught:
        writer.finish()
    assert str(state) in caught.value.hint
    kept = writer.keep_partial()
    assert json.loads(kept.read_text())["x"] == 1
    assert fs.cat("/out/x.jsonl") == b"precious"
    with pytest.raises(UsageError, match="already exists"):
        check_writable("memory://out/x.jsonl", overwrite=False)
    check_writable("memory://out/x.jsonl", overwrite=True)


def test_file_urls_are_local_paths(tmp_path):
    (tmp_path / "a b.jsonl").write_bytes(LINES)
    run_job(f"file://{tmp_path}/a%20b.jsonl", f"file://{tmp_path}/out.parquet", limit=2)
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 2
    assert file_targets.local_output_path(f"file://{tmp_path}/out.parquet") == tmp_path / "out.parquet"


@pytest.mark.parametrize(
    ("path", "says", "hint"),
    [
        ("memory://none.jsonl", "no such file", "check the path"),
        ("memory://none/*.parquet", "no file found", "inputs end in"),
        ("nosuch://x/in.jsonl", "unknown kind of URL nosuch://", "s3://"),
        ("gs://bucket/in.jsonl", "needs a package that is not installed", "pip install gcsfs"),
    ],
)
def test_what_cannot_be_read_is_one_line(path, says, hint):
    if path.startswith("gs") and any(os.path.isdir(f"{folder}/gcsfs") for folder in __import__("sys").path):
        pytest.skip("gcsfs is installed")
    with pytest.raises(InputError, match=says) as caught:
        open_input(path)
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_no_secret_is_shown_or_kept():
    path = "https://user:pass@host/dir/in.jsonl?token=abc#frag"
    assert file_targets.shown(path) == "https://host/dir/in.jsonl"
    assert "pass" not in str(file_targets.local_output_path(path))
    assert remote_files.redacted(f"403 for {path}, sorry") == "403 for https://host/dir/in.jsonl sorry"
    assert file_targets.local_output_path(path).name == "in.jsonl"
    assert file_targets.local_output_path("s3://a/x.jsonl") != file_targets.local_output_path("s3://b/x.jsonl")


@pytest.mark.slow
def test_job_from_and_to_a_store_that_speaks_s3(monkeypatch, state):
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir("bucket")
        for number in range(2):
            fs.pipe(f"bucket/in/part-{number}.jsonl", LINES)
        run_job("s3://bucket/in/*.jsonl", "s3://bucket/out/result.parquet")
        source = open_input("s3://bucket/out/result.parquet")
        assert [row.columns["text"] for row in source] == 2 * [row["prompt"][::-1][:20] for row in ROWS]
        source.close()
        with pytest.raises(UsageError, match="already exists"):
            check_writable("s3://bucket/out/result.parquet", overwrite=False)
        with pytest.raises(InputError, match="no such file"):
            open_input("s3://bucket/none.jsonl")
        with pytest.raises(InputError, match=r"no such file|cannot be written"):
            run_job("s3://bucket/in/*.jsonl", "s3://no-such-bucket/out.jsonl")
        assert [path.name for path in files_below(state)] == ["out.jsonl"], "what could not be uploaded is kept"
    finally:
        server.stop()
