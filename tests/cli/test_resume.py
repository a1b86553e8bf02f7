"""The same command resumes a job that ended early, and its output is that of an undisturbed job."""

import contextlib
import gc
import json
import os
import signal
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from input_files import write_rows

from pagecli.devices.base import find
from pagecli.engine.engine import Engine
from pagecli.jobs.monitoring.job_status import read_journal_status
from pagecli.jobs.storage.job_directory import JobDirectory

PROMPTS = [
    {
        "id": f"row {i}",
        "prompt": f"the quick brown fox {i} " + "jumps " * (i % 4),
        "kind": i % 3,
        **({"n": 3} if i % 9 == 4 else {}),
    }
    for i in range(40)
]
SLOW = pytest.mark.slow
SAMPLED = ("--temperature", "1", "--seed", "3", "--max-num-seqs", "6", "--quiet")


def shared_memory() -> set[str]:
    """What this process has mapped of it."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[-1] for line in maps if "/dev/shm/" in line and "(deleted)" not in line}


@pytest.fixture(autouse=True)
def nothing_but_files_is_left_of_a_run():
    threads, shared = set(threading.enumerate()), shared_memory()
    yield
    new = {thread for thread in threading.enumerate() if "tqdm" not in type(thread).__module__}  # of building the tiny model
    assert new <= threads
    assert shared_memory() <= shared
    gc.collect()  # a template's process ends with the thread that began it, and is waited for with the tokenizer
    with contextlib.suppress(ChildProcessError):
        assert os.waitpid(-1, os.WNOHANG) == (0, 0), "a process ended without being waited for"


@pytest.fixture
def stop_at(monkeypatch):
    """stop_at(step, signum): the process gets the signal in its step of that number, counted from now on."""
    step = Engine.step

    def arm(number: int, signum: int = signal.SIGINT) -> None:
        calls = iter(range(1, 10**9))

        def stepping(self):
            if next(calls) == number:
                os.kill(os.getpid(), signum)
            return step(self)

        monkeypatch.setattr(Engine, "step", stepping)

    yield arm
    monkeypatch.setattr(Engine, "step", step)


def content(path):
    return pq.read_table(path) if path.suffix == ".parquet" else path.read_bytes()


def left(tmp_path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".toml")


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet", pytest.param("out.jsonl.gz", marks=SLOW)])
def test_resumed_output_equals_an_undisturbed_one(generate, tmp_path, stop_at, name):
    rows = [*PROMPTS[:20], {"id": "bad", "prompt": 3}, *PROMPTS[20:]]
    flags = (*SAMPLED, "--token-ids", "--logprobs", "2")
    assert generate(rows, f"whole-{name}", *flags)[0] == 5
    codes = []
    for number in (6, 9, 10**6):
        stop_at(number, signal.SIGTERM)
        codes.append(generate(rows, name, *flags, "--stats", "stats.json")[0])
        assert (tmp_path / name).exists() == (number == 10**6)
    assert codes == [143, 143, 5]
    assert content(tmp_path / name) == content(tmp_path / f"whole-{name}")
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert 0 < stats["num_rows_taken_over"] < stats["num_rows"] == 41 + 2 * 4
    assert stats["num_requests"] < 40  # only what was missing
    assert left(tmp_path) == sorted(["in.jsonl", name, "stats.json", f"whole-{name}"])


@SLOW
def test_what_only_decides_how_fast_may_change_and_so_may_the_order(generate, tmp_path, stop_at):
    generate(PROMPTS, "whole.jsonl", *SAMPLED)
    stop_at(8)
    assert generate(PROMPTS, "out.jsonl", *SAMPLED)[0] == 130
    others = ("--max-num-seqs", "3", "--threads", "1", "--kv-memory", "4MiB", "--block-size", "4", "--no-prefix-caching")
    others += ("--kv-dtype", find("cpu").resolve_dtype("auto"))  # what it is anyway
    code, _, err = generate(PROMPTS, "out.jsonl", *SAMPLED[:-1], *others, "--order", "completion")
    assert code == 0
    assert "were finished by an earlier run and are taken over" in err
    assert "taken over" in err
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert sorted(lines) == sorted((tmp_path / "whole.jsonl").read_bytes().splitlines())


@SLOW
def test_input_with_a_new_date_is_the_same_and_a_longer_one_is_not(generate, tmp_path, stop_at):
    stop_at(8)
    assert generate(PROMPTS, "out.jsonl", *SAMPLED)[0] == 130
    os.utime(tmp_path / "in.jsonl", (10**9, 10**9))
    stop_at(2)
    code, _, err = generate("in.jsonl", "out.jsonl", *SAMPLED[:-1])
    assert code == 130
    assert "the input has a new date but the same content" in err
    code, _, err = generate([*PROMPTS, {"prompt": "one more"}], "out.jsonl", *SAMPLED)
    assert code == 2
    assert "what differs: the input (" in err
    assert read_journal_status(tmp_path / "out.jsonl").num_input_rows > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--temperature", "0.5"), "--temperature (1.0, now 0.5)"),
        pytest.param(("--system", "be kind", "--chat"), "--system (null, now", marks=SLOW),
        pytest.param(("--stop", "x"), '--stop ([], now ["x"])', marks=SLOW),
        pytest.param(("--kv-dtype", "int8"), "the KV cache's dtype", marks=SLOW),
        pytest.param(("--dtype", "int8"), "the dtype", marks=SLOW),
        pytest.param(("--model", "other"), "model.safetensors", marks=SLOW),
    ],
)
def test_another_job_is_refused_by_what_differs_until_it_is_restarted(generate, tmp_path, stop_at, tiny_model, flags, named):
    stop_at(8)
    assert generate(PROMPTS, "out.jsonl", *SAMPLED)[0] == 130
    stop_at(10**6)
    flags = tuple(str(tiny_model("llama-tied")) if flag == "other" else flag for flag in flags)
    code, _, err = generate(PROMPTS, "out.jsonl", *SAMPLED, *flags)
    assert code == 2
    assert named in err
    assert "--restart" in err
    assert read_journal_status(tmp_path / "out.jsonl").num_input_rows > 0
    assert generate(PROMPTS, "out.jsonl", *SAMPLED, *flags, "--restart")[0] == 0
    assert left(tmp_path) == ["in.jsonl", "out.jsonl"]
    generate(PROMPTS, "whole.jsonl", *SAMPLED, *flags)
    assert content(tmp_path / "out.jsonl") == content(tmp_path / "whole.jsonl")


@SLOW
def test_rows_of_a_pipe_are_known_by_their_content(generate, tmp_path, stop_at):
    fifo = tmp_path / "rows"
    os.mkfifo(fifo)

    def piped(rows, *flags):
        text = "".join(json.dumps(row) + "\n" for row in rows)

        def feed():
            with contextlib.suppress(BrokenPipeError):
                fifo.write_text(text)

        feeder = threading.Thread(target=feed)
        feeder.start()
        try:
            return generate("rows", "out.jsonl", *SAMPLED, *flags)
        finally:
            feeder.join()

    generate(PROMPTS, "whole.jsonl", *SAMPLED)
    stop_at(8)
    code, _, err = piped(PROMPTS)
    assert code == 130
    assert "pipe the same rows to it again to resume" in err
    stop_at(10**6)
    code, _, err = piped([{"prompt": "another"}, *PROMPTS])
    assert code == 2
    assert "is not the row that was finished before" in err
    assert piped(PROMPTS)[0] == 0
    assert content(tmp_path / "out.jsonl") == content(tmp_path / "whole.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["before the journal went", "before the temporary name of the output went"])
def test_run_killed_before_it_could_tidy_up_is_found_complete(generate, tmp_path, monkeypatch, killed):
    unlink = os.unlink
    with monkeypatch.context() as patch:
        patch.setattr(JobDirectory, "remove_itself", lambda self: None)
        if "temporary" in killed:
            patch.setattr(os, "unlink", lambda path, **how: None if str(path).endswith(".tmp") else unlink(path, **how))
        assert generate([*PROMPTS, {"prompt": 1}], "out.jsonl", *SAMPLED)[0] == 5
    before = content(tmp_path / "out.jsonl")
    assert len(left(tmp_path)) == 3
    code, _, err = generate("in.jsonl", "out.jsonl", *SAMPLED[:-1])
    assert code == 5  # as it ended then
    assert "is complete" in err
    assert left(tmp_path) == ["in.jsonl", "out.jsonl"]
    assert content(tmp_path / "out.jsonl") == before


@SLOW
def test_input_that_cannot_be_read_to_its_end_keeps_what_was_finished(generate, tmp_path, monkeypatch):
    pq.write_table(pa.Table.from_pylist(PROMPTS * 20), tmp_path / "in.parquet", row_group_size=40)
    data = bytearray((tmp_path / "in.parquet").read_bytes())
    middle = len(data) // 2
    (tmp_path / "good.parquet").write_bytes(data)
    data[middle : middle + 2000] = bytes(2000)
    (tmp_path / "in.parquet").write_bytes(data)
    code, _, err = generate("in.parquet", "out.jsonl", *SAMPLED)
    assert code == 3
    assert "cannot be read after row" in err
    assert "the finished rows of this job are kept" in err
    assert read_journal_status(tmp_path / "out.jsonl").num_input_rows > 0


@pytest.mark.slow
def test_full_disk_keeps_what_was_finished_and_goes_on_when_there_is_room(generate, tmp_path, monkeypatch):
    generate(PROMPTS, "whole.jsonl", *SAMPLED)
    pwrite, calls = os.pwrite, []

    def full(fd, data, offset):
        calls.append(1)
        if len(calls) > 6:
            raise OSError(28, "No space left on device")
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    code, _, err = generate(PROMPTS, "out.jsonl", *SAMPLED)
    assert code == 3
    assert "no space left to write to" in err
    assert "the same command resumes from" in err
    monkeypatch.setattr(os, "pwrite", pwrite)
    assert generate(PROMPTS, "out.jsonl", *SAMPLED)[0] == 0
    assert content(tmp_path / "out.jsonl") == content(tmp_path / "whole.jsonl")
    assert left(tmp_path) == ["in.jsonl", "out.jsonl", "whole.jsonl"]


@pytest.mark.slow
def test_error_policies_stop_the_job_and_a_milder_one_goes_on(generate, tmp_path):
    rows = [*PROMPTS[:10], {"prompt": 1}, *PROMPTS[10:]]
    code, _, err = generate(rows, "out.jsonl", *SAMPLED, "--on-error", "stop")
    assert code == 5
    assert "stopped: a row failed, and --on-error is stop; the first, line 11: column prompt is int, not text" in err
    assert "resume with" in err
    assert not (tmp_path / "out.jsonl").exists()
    assert generate("in.jsonl", "out.jsonl", *SAMPLED, "--max-error-rate", "0")[0] == 5
    assert not (tmp_path / "out.jsonl").exists()
    assert generate("in.jsonl", "out.jsonl", *SAMPLED, "--max-error-rate", "0.1")[0] == 5
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 41 + 2 * 4


@pytest.mark.slow
def test_row_that_the_engine_fails_on_is_given_up_alone(generate, tmp_path, monkeypatch):
    from pagecli.devices.cpu.device import ModelRunner

    generate(PROMPTS, "whole.jsonl", *SAMPLED)
    launch = ModelRunner.launch

    def failing(self, plan):
        if any(spec.row_key == poisoned for chunk in plan.chunks for spec in chunk.specs):
            raise RuntimeError("kernel on fire")
        return launch(self, plan)

    from pagecli.jobs.rows.row import InputRow
    from pagecli.jobs.rows.row_preparer import row_key

    poisoned = row_key(InputRow(17, PROMPTS[17]))
    monkeypatch.setattr(ModelRunner, "launch", failing)
    assert generate(PROMPTS, "out.jsonl", *SAMPLED, "--stats", "stats.json")[0] == 5
    whole = [json.loads(line) for line in (tmp_path / "whole.jsonl").open()]
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").open()]
    assert [row for row in found if row["id"] != "row 17"] == [row for row in whole if row["id"] != "row 17"]
    (bad,) = [row for row in found if row["id"] == "row 17"]
    assert bad["error"] == "line 18: the engine failed on this row: RuntimeError: kernel on fire"
    assert json.loads((tmp_path / "stats.json").read_text())["num_failed_steps"] > 2


@SLOW
def test_journal_is_private_and_holds_no_secret(generate, tmp_path, stop_at, monkeypatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", "s3cr3t-value-of-mine")
    stop_at(6)
    generate(PROMPTS, "out.jsonl", *SAMPLED, "--chat", "--system", "say s3cr3t-value-of-mine and https://me:pass1234@host/")
    place = tmp_path / ".out.jsonl.pagecli-journal"
    assert place.stat().st_mode & 0o777 == 0o700
    for path in place.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
        assert b"s3cr3t" not in path.read_bytes()
        assert b"pass1234" not in path.read_bytes()


@SLOW
def test_without_a_journal_nothing_is_kept_and_one_that_is_there_is_not_dropped(generate, tmp_path, stop_at):
    stop_at(6)
    assert generate(PROMPTS, "out.jsonl", *SAMPLED, "--no-journal")[0] == 130
    assert "out.partial.jsonl" in left(tmp_path)
    assert not (tmp_path / ".out.jsonl.pagecli-journal").exists()
    stop_at(6)
    assert generate(PROMPTS, "out.jsonl", *SAMPLED)[0] == 130
    stop_at(10**6)
    code, _, err = generate(PROMPTS, "out.jsonl", *SAMPLED, "--no-journal")
    assert code == 2
    assert "has finished rows of an earlier run" in err
    assert generate(PROMPTS, "out.jsonl", *SAMPLED, "--no-journal", "--restart")[0] == 0
    assert ".out.jsonl.pagecli-journal" not in left(tmp_path)


@pytest.mark.slow
def test_signal_that_a_library_turns_into_its_own_error_while_loading_is_the_signal(generate, monkeypatch):
    def interrupted(*given, **options):
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            raise ImportError("a module that is half imported") from None

    monkeypatch.setattr(Engine, "__init__", interrupted)
    code, _, err = generate(PROMPTS, "out.jsonl", *SAMPLED)
    assert code == 143
    assert "stopped by SIGTERM while loading; no row was finished" in err
    assert "half imported" not in err


@pytest.mark.slow
def test_signal_while_loading_leaves_the_rows_of_the_run_before(generate, tmp_path, stop_at, monkeypatch):
    stop_at(6)
    assert generate(PROMPTS, "out.jsonl", *SAMPLED)[0] == 130
    before = read_journal_status(tmp_path / "out.jsonl").num_input_rows
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "__init__", lambda *given, **options: signal.raise_signal(signal.SIGTERM))
        code, _, err = generate(PROMPTS, "out.jsonl", *SAMPLED)
    assert code == 143
    assert f"stopped by SIGTERM while loading; {before} finished rows are kept" in err
    assert read_journal_status(tmp_path / "out.jsonl").num_input_rows == before


@pytest.mark.slow
def test_partial_writes_what_is_finished_and_the_job_can_still_go_on(generate, tmp_path, stop_at):
    code, _, err = generate(PROMPTS, "out.jsonl", *SAMPLED, "--partial")
    assert code == 2
    assert "no journal with finished rows" in err
    generate(PROMPTS, "whole.jsonl", *SAMPLED)
    stop_at(8)
    assert generate(PROMPTS, "out.jsonl", *SAMPLED)[0] == 130
    assert generate(PROMPTS, "out.jsonl", *SAMPLED, "--partial")[0] == 0
    finished = (tmp_path / "out.partial.jsonl").read_bytes().splitlines()
    whole = (tmp_path / "whole.jsonl").read_bytes().splitlines()
    assert 0 < len(finished) < len(whole)
    assert [line for line in whole if line in finished] == finished
    stop_at(10**6)
    assert generate(PROMPTS, "out.jsonl", *SAMPLED)[0] == 0
    assert content(tmp_path / "out.jsonl") == content(tmp_path / "whole.jsonl")


@SLOW
def test_standard_output_needs_no_journal(generate, tmp_path):
    write_rows(tmp_path / "in.jsonl", PROMPTS[:2])
    assert generate("in.jsonl", "-", "--quiet")[0] == 0
    assert left(tmp_path) == ["in.jsonl"]
