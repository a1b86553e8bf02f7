"""One run for an output at a time; a dead run's files block no other, and other users' links are refused."""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pagecli.errors import InputError, UsageError
from pagecli.jobs.journal import job_lock
from pagecli.jobs.journal.job_lock import LockOwner, read_owner
from pagecli.jobs.journal.locked_output import lock_output
from pagecli.jobs.monitoring.monitor import Heartbeat, JobSnapshot
from pagecli.jobs.storage.atomic_file import check_output, create_temporary, publish
from pagecli.jobs.storage.job_directory import JobDirectory, job_directory_path, read_outcome

HOLD = """
import sys, time
from pathlib import Path
from pagecli.jobs.journal.locked_output import lock_output
locked = lock_output(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def held_by_another(output: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(output)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def place(tmp_path) -> Path:
    return job_directory_path(tmp_path / "out.jsonl")


@pytest.mark.slow
def test_second_run_is_refused_while_the_first_lives_and_taken_in_when_it_was_killed(tmp_path):
    output = tmp_path / "out.jsonl"
    other = held_by_another(output)
    with pytest.raises(UsageError, match=f"another run is writing .*out.jsonl: process {other.pid}, for 0 min") as caught:
        lock_output(output)
    assert "wait for it" in caught.value.hint
    other.send_signal(signal.SIGKILL)
    other.communicate()
    directory = JobDirectory(output, create=False)
    owner = read_owner(directory)
    directory.close()
    assert (owner.pid, owner.is_here, owner.is_running) == (other.pid, True, False)
    locked = lock_output(output)
    locked.close()
    assert os.listdir(tmp_path) == []


def test_lock_without_a_job_makes_nothing(tmp_path):
    assert lock_output(tmp_path / "out.jsonl", create=False) is None
    assert os.listdir(tmp_path) == []


def write_owner(tmp_path, host: str, pid: int = 1, age: float = 0.0) -> None:
    place(tmp_path).mkdir(mode=0o700)
    lock = place(tmp_path) / "lock"
    lock.write_text(json.dumps({"pid": pid, "host": host, "started": time.time() - 7300}))
    os.utime(lock, (time.time() - age, time.time() - age))


def test_run_on_another_host_counts_as_alive_until_it_has_been_silent_for_a_minute(tmp_path, monkeypatch):
    """As over NFS where flock stays on each host."""
    monkeypatch.setattr(job_lock, "is_on_local_file_system", lambda path: False)
    write_owner(tmp_path, "elsewhere", age=10)
    with pytest.raises(UsageError, match="process 1 on elsewhere, for 2 h 1 min") as caught:
        lock_output(tmp_path / "out.jsonl")
    assert "60 s after its last sign of life" in caught.value.hint
    stale = time.time() - 61
    os.utime(place(tmp_path) / "lock", (stale, stale))
    lock_output(tmp_path / "out.jsonl").close()


def test_a_clock_that_jumps_takes_nothing_away_from_a_run_on_another_host(tmp_path, monkeypatch):
    """What dates the files counts, by a server's clock or this machine's before it was set."""
    monkeypatch.setattr(job_lock, "is_on_local_file_system", lambda path: False)
    write_owner(tmp_path, "elsewhere")
    temporary = tmp_path / ".out.jsonl.999999999-abc.tmp"
    temporary.touch()
    now = time.time()
    for jump in (3600, -3600):
        monkeypatch.setattr(time, "time", lambda jump=jump: now + jump)
        with pytest.raises(UsageError, match="process 1 on elsewhere"):
            lock_output(tmp_path / "out.jsonl")
        check_output(tmp_path / "out.jsonl", overwrite=False)
        assert temporary.exists()


@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize("note", ["with boot id", "of an older version"])
def test_lock_of_a_killed_container_is_taken_at_once_by_the_next_one(tmp_path, monkeypatch, is_local, note):
    """Another host name, the same kernel or at least a disk that no other machine has: flock has decided."""
    output = tmp_path / "out.jsonl"
    monkeypatch.setattr(job_lock.socket, "gethostname", lambda: "container-1")
    locked = lock_output(output)
    values = json.loads((place(tmp_path) / "lock").read_text())
    if note == "of an older version":
        values.update(boot_id=None, pid_namespace=None)
    locked._lock.release()  # as the kernel does for a killed process
    (place(tmp_path) / "lock").write_text(json.dumps(values))
    monkeypatch.setattr(job_lock.socket, "gethostname", lambda: "container-2")
    monkeypatch.setattr(job_lock, "is_on_local_file_system", lambda path: is_local)
    if is_local or note == "with boot id":
        lock_output(output).close()
    else:
        with pytest.raises(UsageError, match="on container-1"):
            lock_output(output)


def test_file_systems_of_this_machine_are_told_from_network_ones(tmp_path, monkeypatch):
    mounts = "1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {} rw shared:1 - nfs4 server:/home rw\n"
    (tmp_path / "net").mkdir()
    read_text = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda path: mounts.format(tmp_path / "net") if str(path).endswith("mountinfo") else read_text(path),
    )
    assert job_lock.is_on_local_file_system(tmp_path / "network")
    assert not job_lock.is_on_local_file_system(tmp_path / "net")
    assert not job_lock.is_on_local_file_system(tmp_path / "net" / "deep" / "out")


@pytest.mark.parametrize("alive", [True, False])
def test_without_flock_the_owner_is_looked_for_by_pid_and_start(tmp_path, monkeypatch, alive):
    def no_flock(fd, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(job_lock.fcntl, "flock", no_flock)
    write_owner(tmp_path, socket.gethostname())
    owner = LockOwner.this_process()
    start = owner.process_start if alive else "1"
    values = {"pid": owner.pid, "host": owner.host, "started": owner.started, "process_start": start}
    (place(tmp_path) / "lock").write_text(json.dumps(values))
    if alive:
        with pytest.raises(UsageError, match=f"process {os.getpid()}"):
            lock_output(tmp_path / "out.jsonl")
    else:
        lock_output(tmp_path / "out.jsonl").close()


def test_heartbeat_touches_the_lock_now_and_then(tmp_path, monkeypatch):
    directory = JobDirectory(tmp_path / "out.jsonl")
    lock = job_lock.JobLock(directory)
    os.utime(place(tmp_path) / "lock", (1, 1))
    lock.heartbeat()
    assert (place(tmp_path) / "lock").stat().st_mtime == 1
    monkeypatch.setattr(job_lock.time, "monotonic", lambda: 10.0**9)
    lock.heartbeat()
    assert (place(tmp_path) / "lock").stat().st_mtime > 1
    lock.release()
    directory.close()


def lock_and_close(output: Path, count: int, results) -> None:
    """Whether two locks were ever held at once shows by a file that only the holder may create."""
    token = output.with_suffix(".held")
    won = 0
    for _ in range(count):
        try:
            locked = lock_output(output)
        except UsageError:
            continue
        os.close(os.open(token, os.O_CREAT | os.O_EXCL))
        os.unlink(token)
        locked.close()
        won += 1
    results.put(won)


def test_directories_that_come_and_go_never_let_two_runs_in(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    runs = [context.Process(target=lock_and_close, args=(tmp_path / "out.jsonl", 100, results)) for _ in range(3)]
    for run in runs:
        run.start()
    won = [results.get(timeout=60) for _ in runs]
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0, 0]
    assert sum(won) > 0
    assert os.listdir(tmp_path) == []


def test_directory_that_is_gone_each_time_it_is_opened_is_said_to_be_other_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "mkdir", lambda path, mode: None)  # as if another run removed it at once
    with pytest.raises(UsageError, match="other runs come and go"):
        lock_output(tmp_path / "out.jsonl")
    assert lock_output(tmp_path / "out.jsonl", create=False) is None


@pytest.mark.parametrize("planted", ["directory", "link to a directory", "link to a file", "file"])
def test_directory_that_another_user_planted_is_refused_and_left_alone(tmp_path, planted):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "rows").write_text("precious")
    if planted == "directory":
        place(tmp_path).mkdir()
        place(tmp_path).chmod(0o777)  # others could put things into it
    elif planted == "file":
        place(tmp_path).write_text("x")
    else:
        place(tmp_path).symlink_to(victim if planted == "link to a directory" else victim / "rows")
    with pytest.raises(UsageError, match="not this user's own"):
        lock_output(tmp_path / "out.jsonl")
    assert (victim / "rows").read_text() == "precious"
    temporary, file = create_temporary(tmp_path / "out.jsonl")
    file.close()
    assert temporary.parent == tmp_path  # not where others can reach it


@pytest.mark.parametrize("name", ["lock", "journal", "outcome"])
@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_links_in_the_directory_are_never_followed(tmp_path, name, link):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    place(tmp_path).mkdir(mode=0o700)
    if link == "symbolic":
        (place(tmp_path) / name).symlink_to(victim)
    else:
        (place(tmp_path) / name).hardlink_to(victim)
    with contextlib.suppress(UsageError), contextlib.closing(lock_output(tmp_path / "out.jsonl")) as locked:
        locked.open_journal({"weights": [], "uses_time": False}, [], restart=False).sync()
    assert victim.read_text() == "precious"


def test_output_planted_as_a_link_while_the_job_runs_is_refused(tmp_path):
    victim, output = tmp_path / "victim", tmp_path / "out.jsonl"
    victim.write_text("precious")
    output.symlink_to(victim)
    for overwrite in (False, True):
        temporary, file = create_temporary(output)
        with file:
            file.write(b"rows")
        with pytest.raises(UsageError, match="is a link" if overwrite else "another process"):
            publish(temporary, output, overwrite)
    assert victim.read_text() == "precious"
    assert output.is_symlink()


def test_temporaries_of_a_killed_run_are_cleared_away_by_the_next(tmp_path):
    output = tmp_path / "out.jsonl"
    locked = lock_output(output)
    temporary, file = create_temporary(output)
    file.close()
    assert temporary.parent == place(tmp_path)
    locked._lock.release()  # as the kernel does for a killed process
    locked = lock_output(output)
    assert not temporary.exists()
    locked.close()


@pytest.mark.slow
def test_temporaries_beside_a_file_go_when_they_are_old_and_have_no_process(tmp_path):

    dead = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True).stdout.strip()
    names = [f".s.json.{pid}-0a1b2c.tmp" for pid in (dead, os.getpid(), "what")] + [f".other.json.{dead}-0a1b2c.tmp"]
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / f".s.json.{dead}-ffffff.tmp").touch()  # just now
    check_output(tmp_path / "s.json", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == sorted([*names[1:], f".s.json.{dead}-ffffff.tmp"])


def test_published_output_is_known_by_its_file_not_by_its_name(tmp_path):
    output = tmp_path / "out.jsonl"
    locked = lock_output(output)
    temporary, file = create_temporary(output)
    with file:
        file.write(b"rows")
    assert not read_outcome(locked._directory)[1]
    publish(temporary, output, overwrite=False)
    assert read_outcome(locked._directory)[1]
    copy = tmp_path / "copy"
    copy.write_bytes(b"rows")
    os.replace(copy, output)
    assert not read_outcome(locked._directory)[1]
    locked.close()


def test_heartbeat_in_the_moment_the_job_ends_leaves_no_directory_behind(tmp_path, monkeypatch):
    """As a signal's does, in a thread of its own: before the directory goes, and after it."""
    locked = lock_output(tmp_path / "out.jsonl")
    heartbeat, remove = Heartbeat(tmp_path / "out.jsonl"), os.rmdir

    def beat_and_remove(path):
        heartbeat.on_event("stopping", JobSnapshot())
        monkeypatch.undo()
        remove(path)

    monkeypatch.setattr(os, "rmdir", beat_and_remove)
    locked.complete()
    locked.close()
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(heartbeat._directory, "is_current", iter([True, False]).__next__)
    heartbeat.on_event("stopping", JobSnapshot())
    heartbeat.close()
    assert os.listdir(tmp_path) == []


def test_long_names_have_a_journal_too(tmp_path):
    output = tmp_path / ("é" * 120 + ".jsonl")
    locked = lock_output(output)
    temporary, file = create_temporary(output)
    file.close()
    publish(temporary, output, overwrite=False)
    locked.complete()
    locked.close()
    assert os.listdir(tmp_path) == [output.name]


def test_directory_that_cannot_take_a_journal_is_said_in_one_line(tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        lock_output(tmp_path / "none" / "out.jsonl")
    with pytest.raises(InputError):
        lock_output(Path("/proc/out.jsonl"))
