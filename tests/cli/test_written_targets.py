"""What is at the other end of a path that is written: links are kept, devices and pipes are written to, nothing is replaced.

Devices are copies made in the test's own directory: even a fault here could not harm those of /dev.
"""

import contextlib
import json
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from pagecli.cli.app import main

ROWS = [{"id": i, "prompt": f"number {i}"} for i in range(3)]
FLAGS = ["--stats", "--metrics-file", "--log-file", "--progress-json"]


def device_copy(path: Path, kind: int, major: int, minor: int) -> Path:
    try:
        os.mknod(path, 0o666 | kind, os.makedev(major, minor))
        if kind == stat.S_IFCHR:
            os.close(os.open(path, os.O_WRONLY))
    except OSError as error:
        pytest.skip(f"no devices can be made here: {error}")
    return path


def null(folder: Path) -> Path:
    return device_copy(folder / "null", stat.S_IFCHR, 1, 3)


@contextlib.contextmanager
def read_by_another(path: Path):
    """Yields a list that gets what is written to the pipe; there is something in it afterwards."""
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()), daemon=True)
    reader.start()
    yield found
    reader.join(30)


def what_is_at(path: Path) -> tuple[int, int, int]:
    found = os.lstat(path)
    return stat.S_IFMT(found.st_mode), found.st_rdev, found.st_ino


@pytest.mark.parametrize("part", ["OUTPUT", *FLAGS])
def test_a_device_is_written_to_and_stays(generate, tmp_path, part):
    device = null(tmp_path)
    before = what_is_at(device)
    output, flags = (str(device), ["--overwrite"]) if part == "OUTPUT" else ("out.jsonl", [part, str(device)])
    code, _, err = generate(ROWS, output, *flags)
    assert (code, what_is_at(device)) == (0, before), err
    assert not list(tmp_path.glob(".null*"))


def test_a_device_that_is_full_is_said(generate, tmp_path):
    device = device_copy(tmp_path / "full", stat.S_IFCHR, 1, 7)
    code, _, err = generate(ROWS, str(device))
    assert (code, "no space left" in err) == (3, True)
    code, _, err = generate(ROWS, "out.jsonl", "--stats", str(device))
    assert (code, "no space left" in err) == (3, True)
    assert what_is_at(device)[1] == os.makedev(1, 7)


@pytest.mark.parametrize("part", ["OUTPUT", "--stats", "--log-file", "--progress-json"])
def test_a_named_pipe_gets_the_content_and_stays(generate, tmp_path, part):
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDWR) if part != "OUTPUT" else -1  # only rows wait for a reader
    with read_by_another(pipe) as found:
        output, flags = (str(pipe), ["--overwrite"]) if part == "OUTPUT" else ("out.jsonl", [part, str(pipe)])
        code, _, err = generate(ROWS, output, *flags)
        if held >= 0:
            os.close(held)
    assert code == 0, err
    assert stat.S_ISFIFO(os.lstat(pipe).st_mode)
    if part == "OUTPUT":
        assert [json.loads(line)["id"] for line in found[0].splitlines()] == [0, 1, 2]
    else:
        assert found[0]


def test_a_pipe_without_a_reader_is_refused_where_waiting_makes_no_sense(generate, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for flag in ("--stats", "--log-file", "--progress-json"):
        code, _, err = generate(ROWS, "out.jsonl", flag, "pipe")
        assert (code, "no process reads this pipe" in err) == (3, True), flag
        assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("part", ["OUTPUT", *FLAGS])
def test_block_devices_and_sockets_are_refused(generate, tmp_path, part):
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(tmp_path)
        listener.bind("socket.jsonl")
        targets = [Path("socket.jsonl")]
        with contextlib.suppress(pytest.skip.Exception):
            targets.append(device_copy(Path("block.jsonl"), stat.S_IFBLK, 7, 200))  # a loop device that nobody set up
        for target in targets:
            before = what_is_at(target)
            output, flags = (str(target), ["--overwrite"]) if part == "OUTPUT" else ("out.jsonl", [part, str(target)])
            code, _, err = generate(ROWS, output, *flags)
            assert (code, what_is_at(target)) == (2, before), err
            assert " is a " in err
            assert not Path("out.jsonl").exists()


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing yet"])
@pytest.mark.parametrize("part", ["OUTPUT", *FLAGS])
def test_a_link_is_kept_and_its_file_is_written(generate, tmp_path, part, there):
    (tmp_path / "elsewhere").mkdir()
    file, link = tmp_path / "elsewhere" / "file.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(Path("elsewhere/file.jsonl"))
    if there:
        file.write_text("before\n")
    output, flags = ("link.jsonl", ["--overwrite"]) if part == "OUTPUT" else ("out.jsonl", [part, "link.jsonl"])
    code, _, err = generate(ROWS, output, *flags)
    assert (code, link.is_symlink(), os.readlink(link)) == (0, True, "elsewhere/file.jsonl"), err
    content = file.read_text()
    assert content
    assert content != "before\n"
    assert sorted(os.listdir(tmp_path / "elsewhere")) == ["file.jsonl"]  # nothing hidden is left


def test_a_link_of_another_user_in_a_directory_for_all_is_not_followed(generate, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can make another user's link")
    shared, victim = tmp_path / "shared", tmp_path / "victim.jsonl"
    victim.write_text("precious")
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "out.jsonl").symlink_to(victim)
    os.lchown(shared / "out.jsonl", 12345, 12345)
    code, _, err = generate(ROWS, str(shared / "out.jsonl"), "--overwrite")
    assert (code, victim.read_text()) == (2, "precious")
    assert "symbolic link of another user" in err


def test_links_in_a_circle_are_one_line(generate, tmp_path):
    (tmp_path / "a.jsonl").symlink_to("b.jsonl")
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    for output, flags in (("a.jsonl", []), ("out.jsonl", ["--stats", "a.jsonl"])):
        code, _, err = generate(ROWS, output, *flags)
        assert (code, "in a circle" in err) == (3, True), err


def test_two_names_of_one_output_are_one_job(generate, tmp_path):
    """The journal lies beside the file that a link leads to."""
    (tmp_path / "link.jsonl").symlink_to("out.jsonl")
    code, _, _ = generate([*ROWS, {"id": 3}], "link.jsonl", "--on-error", "stop")
    assert code == 5
    code, _, err = generate([*ROWS, {"id": 3}], "out.jsonl")
    assert (code, "taken over" in err) == (5, True)


def test_descriptors_are_streams_of_rows_both_ways(generate, tmp_path):
    """As a shell's <(...) and >(...) give them; a descriptor of a file is written from where it stands."""
    (tmp_path / "rows.csv").write_text("prompt\nfirst\nsecond\n")
    with open("rows.csv", "rb") as source, open("out.txt", "wb", buffering=0) as target:
        target.write(b"above\n")
        names = f"/dev/fd/{source.fileno()}", f"/proc/self/fd/{target.fileno()}"
        code, _, err = generate(names[0], names[1], "--input-format", "csv")
    assert code == 0, err
    above, *lines = Path("out.txt").read_text().splitlines()
    assert above == "above"
    assert [json.loads(line)["prompt"] for line in lines] == ["first", "second"]


def test_a_descriptor_for_reading_or_closed_is_no_output(generate, tmp_path):
    with open(os.devnull, "rb") as file:
        for path, says in ((f"/dev/fd/{file.fileno()}", "open for reading only"), ("/dev/fd/987", "no such open descriptor")):
            code, _, err = generate(ROWS, path)
            assert (code, says in err) == (2, True), err


def test_streams_take_json_lines_only(generate, tmp_path):
    os.mkfifo(tmp_path / "out.parquet")
    code, _, err = generate(ROWS, "out.parquet")
    assert (code, "takes rows as JSON Lines" in err) == (2, True)


@pytest.mark.slow
def test_a_report_goes_through_links_and_to_devices(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.html").symlink_to("report.html")
    device = null(tmp_path)
    for path in (Path("link.html"), device):
        before = what_is_at(path)
        with pytest.raises(SystemExit) as ended:
            main(["profile", "-m", "opt-125m", "--workload", "alpaca", "--num-requests", "4", "--html", str(path)])
        assert (ended.value.code, what_is_at(path)) == (0, before), capfd.readouterr().err
    assert "<html" in Path("report.html").read_text()
