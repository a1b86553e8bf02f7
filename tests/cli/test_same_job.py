"""A job resumes only with the same device, model, time and input; else the error names the difference."""

import json
import os
import shutil
import signal
import threading
from datetime import datetime

import pytest
from input_files import write_rows

from pagecli.devices.cpu import kernels
from pagecli.engine.engine import Engine
from pagecli.errors import InputError
from pagecli.jobs.journal import journal as journal_module
from pagecli.jobs.journal import locked_output
from pagecli.jobs.monitoring.job_status import read_journal_status
from pagecli.jobs.shards.merge import merge_outputs
from pagecli.jobs.writers.jsonl_writer import LineRowWriter
from pagecli.model.tokenizer.templates import chat_template

PROMPTS = [{"id": f"row {i}", "prompt": f"the quick brown fox {i} " + "jumps " * (i % 4)} for i in range(40)]
SAMPLED = ("--temperature", "1", "--seed", "3", "--max-num-seqs", "6", "--quiet")


@pytest.fixture
def at_step(monkeypatch):
    """at_step(number, action): calls action() in the engine's step of that number, counted from now on."""
    step = Engine.step

    def arm(number, action=lambda: os.kill(os.getpid(), signal.SIGINT)) -> None:
        calls = iter(range(1, 10**9))

        def stepping(self):
            if next(calls) == number:
                action()
            return step(self)

        monkeypatch.setattr(Engine, "step", stepping)

    return arm


def finished_rows(tmp_path) -> int:
    status = read_journal_status(tmp_path / "out.jsonl")
    return 0 if status is None else status.num_input_rows


def texts(path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_job_begun_on_one_instruction_set_is_refused_on_another_with_what_would_make_it_match(
    generate, tmp_path, at_step, monkeypatch
):
    at_step(8)
    flags = (*SAMPLED, "--dtype", "float32")
    assert generate(PROMPTS, "out.jsonl", *flags)[0] == 130
    here = kernels.isa_name()
    monkeypatch.setattr(kernels, "isa_name", lambda: "generic" if here != "generic" else "avx2")
    code, _, err = generate("in.jsonl", "out.jsonl", *flags)
    assert code == 2
    assert f"the CPU's instruction set ({here}, now " in err
    assert f"PAGECLI_CPU_ISA={here}" in err
    monkeypatch.setattr(kernels, "supported_isas", lambda: ["generic"])
    assert f"on a machine that has {here}" in generate("in.jsonl", "out.jsonl", *flags)[2]
    monkeypatch.undo()


def test_job_of_mixed_hardware_goes_on_on_any_and_keeps_its_flag(generate, tmp_path, at_step, monkeypatch):
    at_step(8)
    flags = (*SAMPLED, "--dtype", "float32")
    assert generate(PROMPTS, "out.jsonl", *flags, "--allow-mixed-hardware")[0] == 130
    here = kernels.isa_name()
    monkeypatch.setattr(kernels, "isa_name", lambda: "generic" if here != "generic" else "avx2")
    code, _, err = generate("in.jsonl", "out.jsonl", *flags)
    assert code == 2
    assert "the instruction set (mixed, now " in err
    assert "with --allow-mixed-hardware" in err
    assert generate("in.jsonl", "out.jsonl", *flags, "--allow-mixed-hardware")[0] == 0


@pytest.mark.slow
def test_parts_of_one_job_merge_whatever_spelling_and_order_and_parts_of_two_do_not(
    generate, tmp_path, monkeypatch, tiny_model
):
    os.symlink(tiny_model("llama"), tmp_path / "spelling")
    assert generate(PROMPTS, "whole.jsonl", *SAMPLED)[0] == 0
    assert generate(PROMPTS, "1.jsonl", *SAMPLED, "--shard", "1/2")[0] == 0
    others = {
        "2.jsonl": ("--model", str(tmp_path / "spelling"), "--max-num-seqs", "3"),
        "text.jsonl": ("--seed", "4"),
        "model.jsonl": ("--model", str(tiny_model("llama-tied"))),
        "limit.jsonl": ("--limit", "30"),
    }
    for name, flags in others.items():
        assert generate("in.jsonl", name, *SAMPLED, "--shard", "2/2", *flags)[0] == 0
    monkeypatch.setattr(kernels, "isa_name", lambda: "generic")
    assert generate("in.jsonl", "isa.jsonl", *SAMPLED, "--shard", "2/2")[0] == 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "other.jsonl", [*PROMPTS[:-1], {"id": "row 39", "prompt": "another"}])
    assert generate("other.jsonl", "input.jsonl", *SAMPLED, "--shard", "2/2")[0] == 0
    for name, says in (
        ("text", "what differs: a flag"),
        ("limit", "a flag"),
        ("model", "the model"),
        ("isa", "computed on"),
        ("input", "the input"),
    ):
        with pytest.raises(InputError, match=f"parts of different jobs: .*{says}"):
            merge_outputs(["1.jsonl", f"{name}.jsonl"], "all.jsonl", overwrite=False)
    merge_outputs(["2.jsonl", "1.jsonl"], "all.jsonl", overwrite=False)
    assert (tmp_path / "all.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.fixture
def dated_model(tiny_model, tmp_path, monkeypatch):
    """The tiny Llama with a template that shows the date; set_now(text) sets the clock that templates and jobs read."""
    folder = tmp_path / "dated"
    shutil.copytree(tiny_model("llama"), folder)
    (folder / "chat_template.jinja").write_text(
        "{{ strftime_now('%d %b %Y %H:%M') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )

    def set_now(text: str) -> str:
        now = datetime.fromisoformat(text)
        own = {"now": classmethod(lambda cls, tz=None: now), "fromisoformat": staticmethod(datetime.fromisoformat)}
        clock = type("Clock", (datetime,), own)  # whose times are plain ones: a template's process gets them
        for module in ("pagecli.cli.generate.run", "pagecli.jobs.journal.locked_output", "pagecli.model.tokenizer.tokenizer"):
            monkeypatch.setattr(f"{module}.datetime", clock)
        monkeypatch.setattr(chat_template, "datetime", clock)
        return str(folder)

    return set_now


@pytest.mark.slow
def test_job_of_two_days_has_the_prompts_of_its_first(generate, tmp_path, at_step, dated_model):
    flags = (*SAMPLED, "--chat", "--model", dated_model("2026-11-28T23:59"))
    assert generate(PROMPTS, "whole.jsonl", *flags)[0] == 0
    at_step(8)
    assert generate("in.jsonl", "out.jsonl", *flags)[0] == 130
    dated_model("2026-11-29T00:01")
    at_step(10**6)
    code, _, err = generate("in.jsonl", "out.jsonl", *flags, "--template-time", "2026-11-29")
    assert code == 2
    assert '--template-time ("2026-11-28T23:59:00", now "2026-11-29T00:00:00")' in err
    assert generate("in.jsonl", "out.jsonl", *flags)[0] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert generate("in.jsonl", "new.jsonl", *flags)[0] == 0
    assert texts(tmp_path / "new.jsonl") != texts(tmp_path / "whole.jsonl")
    assert generate("in.jsonl", "again.jsonl", *flags, "--template-time", "2026-11-28T23:59")[0] == 0
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_parts_of_a_job_whose_template_shows_the_time_need_one_for_all(generate, tmp_path, dated_model):
    flags = (*SAMPLED, "--chat", "--model", dated_model("2026-11-28T23:59"))
    code, _, err = generate(PROMPTS, "1.jsonl", *flags, "--shard", "1/2")
    assert code == 2
    assert "--template-time 20" in err
    assert not (tmp_path / "1.jsonl").exists()
    code, _, err = generate(PROMPTS, "1.jsonl", *flags, "--shard", "1/2", "--template-time", "today")
    assert (code, "--template-time is 'today'" in err) == (2, True)
    assert generate("in.jsonl", "1.jsonl", *flags, "--shard", "1/2", "--template-time", "2026-11-28")[0] == 0


def test_weights_written_anew_between_runs_are_refused_and_the_same_ones_elsewhere_are_not(
    generate, tmp_path, at_step, tiny_model, monkeypatch
):
    monkeypatch.setattr("pagecli.jobs.journal.locked_output.DIGEST_AFTER_SECONDS", 0.0)
    model = tmp_path / "model"
    shutil.copytree(tiny_model("llama"), model)
    noted = threading.Event()
    note = locked_output.LockedOutput._note_weights
    monkeypatch.setattr(locked_output.LockedOutput, "_note_weights", lambda self, found: (note(self, found), noted.set()))

    def interrupt():
        assert noted.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(8, interrupt)
    assert generate(PROMPTS, "out.jsonl", *SAMPLED, "--model", str(model))[0] == 130
    at_step(10**6)
    weights = model / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-100] + bytes(100))
    code, _, err = generate("in.jsonl", "out.jsonl", *SAMPLED, "--model", str(model))
    assert (code, "model.safetensors" in err) == (2, True)
    weights.write_bytes(good)
    assert generate("in.jsonl", "out.jsonl", *SAMPLED, "--model", str(model))[0] == 0


def test_files_of_the_model_that_cannot_be_read_are_named(generate, tmp_path, tiny_model):
    model = tmp_path / "model"
    shutil.copytree(tiny_model("llama"), model)
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").mkdir()
    code, _, err = generate(PROMPTS, "out.jsonl", "--model", str(model))
    assert (code, "model.safetensors" in err, "internal" in err) == (4, True, False)


def test_weights_exchanged_while_they_are_loaded_are_an_error(generate, tmp_path, tiny_model, monkeypatch):
    model = tmp_path / "model"
    shutil.copytree(tiny_model("llama"), model)
    made = Engine.__init__

    def exchanging(self, *given, **options):
        made(self, *given, **options)
        os.utime(model / "model.safetensors")

    monkeypatch.setattr(Engine, "__init__", exchanging)
    code, _, err = generate(PROMPTS, "out.jsonl", "--model", str(model))
    assert (code, "was changed while it was loaded" in err) == (4, True)


@pytest.mark.slow
def test_rows_that_failed_only_for_the_engines_size_are_computed_by_a_larger_one(generate, tmp_path, at_step):
    rows = [*PROMPTS[:20], {"id": "wide", "prompt": "x", "n": 9}, {"id": "long", "prompt": "y " * 120}, *PROMPTS[20:]]
    large = ("--kv-memory", "8MiB", "--max-num-seqs", "16")
    small = ("--kv-memory", "180KiB", "--max-num-seqs", "6")
    assert generate(rows, "whole.jsonl", *SAMPLED, *large)[0] == 0
    at_step(36)
    assert generate(rows, "out.jsonl", *SAMPLED, *small)[0] == 130
    assert 20 < finished_rows(tmp_path) < 40
    at_step(10**6)
    assert generate(rows, "small.jsonl", *SAMPLED, *small)[0] == 5
    errors = [json.loads(line)["id"] for line in (tmp_path / "small.jsonl").open() if json.loads(line)["error"]]
    assert errors == ["wide", "long"]
    assert generate(rows, "out.jsonl", *SAMPLED, *large)[0] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.slow
def test_input_that_is_truncated_while_it_is_read_keeps_the_journal(generate, tmp_path, at_step):
    rows = [{"id": i, "prompt": f"number {i}", "more": "x" * 300} for i in range(2_000)]
    write_rows(tmp_path / "in.jsonl", rows)
    data = (tmp_path / "in.jsonl").read_bytes()
    at_step(8, lambda: os.truncate(tmp_path / "in.jsonl", data[: len(data) * 3 // 4].rfind(b"\n") + 1))
    flags = (*SAMPLED[:-1], "--max-tokens", "1", "--max-num-seqs", "64")
    code, _, err = generate("in.jsonl", "out.jsonl", *flags)
    assert code == 3
    assert "in.jsonl was truncated" in err
    assert "the finished rows of this job are kept" in err
    assert not (tmp_path / "out.jsonl").exists()
    assert finished_rows(tmp_path) > 0
    (tmp_path / "in.jsonl").write_bytes(data)
    assert generate("in.jsonl", "out.jsonl", *flags)[0] == 0
    assert len(texts(tmp_path / "out.jsonl")) == 2_000


def test_pipe_that_ends_before_the_rows_of_an_earlier_run_is_an_error(generate, tmp_path, at_step):
    fifo = tmp_path / "rows"
    os.mkfifo(fifo)

    def piped(rows, *flags):
        feeder = threading.Thread(target=fifo.write_text, args=("".join(json.dumps(row) + "\n" for row in rows),))
        feeder.start()
        try:
            return generate("rows", "out.jsonl", *SAMPLED, *flags)
        finally:
            feeder.join()

    at_step(30)
    assert piped(PROMPTS)[0] == 130
    before = finished_rows(tmp_path)
    assert before > 5
    at_step(10**6)
    code, _, err = piped(PROMPTS[:5])
    assert (code, "the input ended after 5 rows" in err) == (3, True)
    assert finished_rows(tmp_path) >= before
    assert piped(PROMPTS)[0] == 0


def test_full_disk_is_what_is_said_though_the_stats_cannot_be_written_either(generate, monkeypatch):
    def full(path, *content):
        raise InputError(f"{path}: no space left to write to")

    monkeypatch.setattr(LineRowWriter, "write", lambda self, row: full("out.jsonl"))
    monkeypatch.setattr("pagecli.cli.generate.run.write_stats", full)
    code, _, err = generate(PROMPTS, "out.jsonl", *SAMPLED, "--stats", "stats.json")
    assert code == 3
    assert "out.jsonl: no space left" in err
    assert "stats.json" not in err


@pytest.mark.parametrize(
    ("name", "is_moved"), [("", False), ("journal", False), ("", True), ("journal", True)], ids=lambda value: str(value)
)
def test_journal_that_is_taken_away_while_a_job_runs_ends_it_at_the_next_sync(
    generate, tmp_path, at_step, monkeypatch, name, is_moved
):
    monkeypatch.setattr(journal_module, "SYNC_SECONDS", 0.02)
    rows = [{"id": i, "prompt": f"number {i}"} for i in range(20_000)]
    place, elsewhere = tmp_path / ".out.jsonl.pagecli-journal" / name, tmp_path / "elsewhere"
    remove = shutil.rmtree if place.name != name else os.unlink
    at_step(20, lambda: place.rename(elsewhere) if is_moved else remove(place))
    code, _, err = generate(rows, "out.jsonl", *SAMPLED)
    assert code == 3
    what = "moved away" if is_moved else "removed"
    assert f".out.jsonl.pagecli-journal was {what} while the job ran" in err
    assert ("put it back where it was" in err) == is_moved
    assert "are kept" not in err
    assert not (tmp_path / "out.jsonl").exists()
    if is_moved:
        elsewhere.rename(place)
        assert finished_rows(tmp_path) > 0


@pytest.mark.parametrize("flags", [(), ("--no-journal",)])
def test_output_that_somebody_else_creates_meanwhile_is_kept_and_so_are_the_rows(generate, tmp_path, at_step, flags):
    at_step(3, lambda: (tmp_path / "out.jsonl").write_text("mine"))
    code, _, err = generate(PROMPTS, "out.jsonl", *SAMPLED, *flags)
    assert (code, (tmp_path / "out.jsonl").read_text()) == (2, "mine")
    assert "out.jsonl was created by another process meanwhile" in err
    assert "move that file away, then run the same command again" in err
    assert (".partial" in err) == (tmp_path / "out.partial.jsonl").exists() == bool(flags)
    assert finished_rows(tmp_path) == (0 if flags else len(PROMPTS))
    (tmp_path / "out.jsonl").unlink()
    assert generate("in.jsonl", "out.jsonl", *SAMPLED, *flags)[0] == 0


@pytest.mark.parametrize("suffix", ["jsonl", "csv.gz", "parquet", "sqlite", "duckdb"])
@pytest.mark.parametrize("flags", [(), ("--no-journal",)])
def test_output_whose_directory_goes_away_is_one_line_without_the_words_of_libraries(
    generate, tmp_path, at_step, suffix, flags
):
    if suffix == "duckdb":
        pytest.importorskip("duckdb")
    (tmp_path / "d").mkdir()
    at_step(3, lambda: (tmp_path / "d").rename(tmp_path / "elsewhere"))
    code, _, err = generate(PROMPTS, f"d/out.{suffix}", *SAMPLED, *flags)
    assert code == 3
    assert f"d/out.{suffix} cannot be written: its directory is not there any more" in err
    assert "Errno" not in err
    assert "errno" not in err
    (tmp_path / "elsewhere").rename(tmp_path / "d")
    assert generate("in.jsonl", f"d/out.{suffix}", *SAMPLED, *flags)[0] == 0


@pytest.mark.parametrize("flags", [(), ("--no-journal",)])
def test_journal_of_an_older_version_is_refused_and_kept_until_it_is_dropped_on_purpose(generate, tmp_path, flags):
    place = tmp_path / ".out.jsonl.pagecli-journal"
    place.mkdir(mode=0o700)
    (place / "job.json").write_text("{}")
    (place / "rows").write_bytes(b"pgR\x01" * 20)
    code, _, err = generate(PROMPTS, "out.jsonl", *SAMPLED, *flags)
    assert (code, "older pagecli" in err or "finished rows of an earlier run" in err) == (2, True)
    assert generate(PROMPTS, "out.jsonl", "--model", "no-such-model", *SAMPLED)[0] == 4
    assert (place / "rows").stat().st_size == 80
    assert generate("in.jsonl", "out.jsonl", *SAMPLED, *flags, "--restart")[0] == 0
    assert not place.exists()


def test_journal_damaged_beyond_use_is_said_and_the_rows_computed_again(generate, tmp_path, at_step):
    generate(PROMPTS, "whole.jsonl", *SAMPLED)
    at_step(20)
    assert generate(PROMPTS, "out.jsonl", *SAMPLED)[0] == 130
    log = tmp_path / ".out.jsonl.pagecli-journal" / "journal"
    log.write_bytes(log.read_bytes().replace(b" job ", b" jab "))
    at_step(10**6)
    code, _, err = generate("in.jsonl", "out.jsonl", *SAMPLED[:-1])
    assert (code, "the journal is damaged" in err) == (0, True)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
