"""No command writes a file that it reads, or two things into one file: refused with exit code 2 before anything is opened."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecli.cli.app import main

WRITTEN = ["OUTPUT", "--stats", "--metrics-file", "--log-file", "--progress-json"]
GENERATE_READS = ["in.jsonl", "rows/part.jsonl", "model/config.json", "model/model.safetensors", "pagecli.toml"]


@pytest.fixture
def files(tmp_path, monkeypatch) -> dict[str, bytes]:
    """What is read, in the current directory: {name: content}."""
    monkeypatch.chdir(tmp_path)
    contents = {
        "in.jsonl": b'{"prompt": "a"}\n' * 3,
        "rows/part.jsonl": b'{"prompt": "b"}\n',
        "model/config.json": b"{}",
        "model/model.safetensors": b"weights",
        "pagecli.toml": b"max-tokens = 3\n",
        "lengths.csv": b"prompt_tokens,output_tokens\n3,4\n",
        "p1.jsonl": b"{}\n",
        "p2.jsonl": b"{}\n",
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return contents


def spelled(how: str, name: str) -> str:
    """Another name of the file `name`."""
    if how == "as it is":
        return name
    if how == "roundabout":
        return f"model/../{name}"
    other = Path(f"other-{how}-{Path(name).name}.jsonl")
    os.link(name, other) if how == "hard link" else other.symlink_to(Path(name).absolute())
    return str(other)


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    return ended.value.code


def refused(capfd, files: dict[str, bytes], *args: str) -> str:
    """The message of a command that is refused and has changed nothing."""
    before = sorted(map(str, Path().rglob("*")))
    assert run(*args) == 2
    said = capfd.readouterr().err
    assert {name: Path(name).read_bytes() for name in files} == files
    assert sorted(map(str, Path().rglob("*"))) == before
    assert "--overwrite" not in said.split("hint:")[1]
    return said


@pytest.mark.parametrize(
    ("name", "flag", "how"),
    [  # every name of one input, and every input by its own name, are quick
        pytest.param(name, flag, how, marks=() if name == "in.jsonl" or how == "as it is" else pytest.mark.slow)
        for name in GENERATE_READS
        for flag in WRITTEN
        for how in ("as it is", "roundabout", "hard link", "symbolic link")
    ],
)
def test_generate_writes_nothing_that_it_reads(files, capfd, name, flag, how):
    source = "rows" if name.startswith("rows") else "in.jsonl"
    path = spelled(how, name)
    output, flags = (path, ["--overwrite"]) if flag == "OUTPUT" else ("out.jsonl", [flag, path])
    said = refused(capfd, files, "generate", source, output, "--model", "model", *flags)
    assert f"{flag} {path} is a file that is read: " in said


def test_without_overwrite_the_hint_does_not_lead_to_it(files, capfd):
    assert "is a file that is read: INPUT in.jsonl" in refused(capfd, files, "generate", "in.jsonl", "in.jsonl", "-m", "model")


@pytest.mark.parametrize("one", WRITTEN)
@pytest.mark.parametrize("other", WRITTEN)
def test_generate_writes_no_two_things_into_one_file(files, capfd, one, other):
    if one == other:
        return
    paths = {one: "model/../same.jsonl", other: "same.jsonl"}
    flags = [part for flag, path in paths.items() if flag != "OUTPUT" for part in (flag, path)]
    said = refused(capfd, files, "generate", "in.jsonl", paths.get("OUTPUT", "out.jsonl"), "-m", "model", *flags)
    assert "is the same file as" in said


@pytest.mark.parametrize("name", ["steps.parquet", "trace.json", "summary.json", "report.html"])
def test_files_of_a_profile_are_written_files_too(files, capfd, name):
    flags = ["--profile", "figures", "--stats", f"figures/{name}"]
    assert "is the same file as" in refused(capfd, files, "generate", "in.jsonl", "out.jsonl", "-m", "model", *flags)
    Path("figures").mkdir()
    os.link("in.jsonl", f"figures/{name}")
    flags = ["--profile", "figures"]
    assert "is a file that is read" in refused(capfd, files, "generate", "in.jsonl", "out.jsonl", "-m", "model", *flags)


def test_the_journal_of_the_job_is_read_too(files, capfd):
    Path(".out.jsonl.pagecli-journal").mkdir(mode=0o700)
    Path(".out.jsonl.pagecli-journal/rows").write_bytes(b"rows")
    flags = ["--stats", ".out.jsonl.pagecli-journal/rows"]
    assert "the job's journal" in refused(capfd, files, "generate", "in.jsonl", "out.jsonl", "-m", "model", *flags)


@pytest.mark.parametrize("flag", ["--html", "--steps", "--trace"])
@pytest.mark.parametrize("name", ["lengths.csv", "model/config.json"])
def test_profile_writes_nothing_that_it_reads(files, capfd, flag, name):
    said = refused(capfd, files, "profile", "-m", "model", "--workload", "lengths.csv", "--run", flag, name)
    assert f"{flag} {name} is a file that is read: " in said


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_profile_draws_no_plot_into_a_file_that_it_reads(files, capfd, link):
    Path("plots").mkdir()
    link(Path("lengths.csv").absolute(), "plots/latency.png")
    said = refused(capfd, files, "profile", "-m", "model", "--workload", "lengths.csv", "--plots", "plots")
    assert "--plots plots/latency.png is a file that is read: --workload lengths.csv" in said


@pytest.fixture
def piped_stdin() -> Iterator[None]:
    """Standard input is a pipe."""
    kept, (read, write) = os.dup(0), os.pipe()
    os.dup2(read, 0)
    yield
    os.dup2(kept, 0)
    for fd in (kept, read, write):
        os.close(fd)


@pytest.mark.parametrize("flag", ["--few-shot", "--template-file", "--system-file", "--json-schema", "--grammar"])
@pytest.mark.parametrize(
    ("one", "other"), [("-", "/dev/stdin"), ("/dev/fd/0", "stdin"), ("pipe.jsonl", "same"), ("/dev/fd/0", "-")]
)
def test_a_stream_is_not_read_for_two_things(files, capfd, piped_stdin, flag, one, other):
    """The second would find it empty, or get what was meant for the first."""
    if other == "-" and flag != "--few-shot":
        return  # only there it is standard input
    os.mkfifo("pipe.jsonl")
    os.symlink("pipe.jsonl", "same")
    os.symlink("/dev/stdin", "stdin")
    said = refused(capfd, files, "generate", one, "out.jsonl", "-m", "model", flag, other)
    assert f"INPUT {one} and {flag} {other} are one stream, which can be read only once" in said


def test_two_prompt_files_are_not_one_stream_and_what_gives_nothing_may_be_named_twice(files, capfd, piped_stdin):
    both = ["--template-file", "/dev/stdin", "--system-file", "/dev/stdin"]
    assert "are one stream" in refused(capfd, files, "generate", "in.jsonl", "out.jsonl", "-m", "model", *both)
    assert run("generate", "/dev/null", "out.jsonl", "-m", "model", "--template-file", "/dev/null") != 0
    assert "are one stream" not in capfd.readouterr().err


URL = "s3://bucket/x.jsonl"
LOCAL_ONLY = [
    *(("generate", "in.jsonl", "out.jsonl", "-m", "model", flag, URL) for flag in WRITTEN[1:]),
    *(
        ("generate", "in.jsonl", "out.jsonl", "-m", "model", flag, URL)
        for flag in ("--template-file", "--json-schema", "--profile")
    ),
    ("generate", "in.jsonl", "out.jsonl", "-m", "model", "--lora", f"a={URL}"),
    ("generate", "in.jsonl", "out.jsonl", "-m", URL),
    *(("profile", "-m", "opt-125m", flag, URL) for flag in ("--html", "--plots")),
    ("merge", URL, "p1.jsonl", "all.jsonl"),
    ("merge", "p1.jsonl", "p2.jsonl", URL),
]


@pytest.mark.parametrize("command", LOCAL_ONLY, ids=" ".join)
def test_a_url_is_refused_as_one_where_only_this_machine_is_meant(files, capfd, command):
    Path("model/model.safetensors").unlink()
    files.pop("model/model.safetensors")
    assert f"{URL} is a URL" in refused(capfd, files, *command)


def test_a_file_url_is_the_file(files, capfd):
    url = Path("lengths.csv").absolute().as_uri()
    assert run("profile", "-m", "opt-125m", "--workload", url, "--html", Path("a.html").absolute().as_uri()) == 0
    assert "lengths.csv" in Path("a.html").read_text()


def test_a_workload_may_be_a_url(files, capfd):
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://bucket/rows.jsonl", "wb") as file:
        file.write(b'{"prompt": "one two three"}\n' * 5)
    assert run("profile", "-m", "opt-125m", "--workload", "memory://bucket/rows.jsonl", "--json") == 0
    assert json.loads(capfd.readouterr().out)["workload"]["num_requests"] == 5


@pytest.mark.parametrize("how", ["as it is", "hard link", "symbolic link"])
def test_merge_writes_no_part(files, capfd, how):
    said = refused(capfd, files, "merge", "p1.jsonl", "p2.jsonl", spelled(how, "p2.jsonl"), "--overwrite")
    assert "is a file that is read: PART p2.jsonl" in said


@pytest.mark.slow
def test_descriptors_are_compared_by_what_they_lead_to(files, capfd):
    """As `generate - - < x >> x` has them, which would read its own rows for ever."""
    with open("in.jsonl", "r+b") as file:
        for output, flags in ((f"/dev/fd/{file.fileno()}", []), ("out.jsonl", ["--progress-json", str(file.fileno())])):
            said = refused(capfd, files, "generate", "in.jsonl", output, "-m", "model", *flags)
            assert "is a file that is read: INPUT in.jsonl" in said
    command = [sys.executable, "-m", "pagecli", "generate", "-", "-", "-m", "model"]
    with open("in.jsonl", "rb") as source, open("in.jsonl", "ab") as target:
        done = subprocess.run(command, stdin=source, stdout=target, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 2
    assert b"OUTPUT /dev/stdout is a file that is read: INPUT /dev/stdin" in done.stderr
    assert Path("in.jsonl").read_bytes() == files["in.jsonl"]


def test_files_that_are_all_different_are_written(generate, tmp_path):
    os.symlink("later.json", tmp_path / "latest.json")
    flags = ["--stats", "latest.json", "--metrics-file", "m.prom", "--log-file", "l.log", "--progress-json", "e.jsonl"]
    code, _, err = generate([{"prompt": "a"}], "out.jsonl", *flags)
    assert code == 0, err
    assert (tmp_path / "latest.json").is_symlink()
    assert json.loads((tmp_path / "later.json").read_text())["num_rows"] == 1
    assert all((tmp_path / name).stat().st_size for name in ("out.jsonl", "m.prom", "l.log", "e.jsonl"))
