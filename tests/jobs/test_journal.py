"""The journal's file: what is read back, and that damage costs the rows it hits and never makes a wrong one."""

import os
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.core.outputs import TokenLogprobs
from pagecli.errors import ErrorCode, InputError, UsageError
from pagecli.jobs.journal import journal as journal_module
from pagecli.jobs.journal.journal import Journal, JournalContents, decode, encode, row_digest
from pagecli.jobs.monitoring.job_status import read_journal_status
from pagecli.jobs.rows.row import InputRow, OutputRow, error_row
from pagecli.jobs.storage.atomic_file import create_temporary, publish
from pagecli.jobs.storage.job_directory import LOG, JobDirectory, append, log_line, note_outcome, read_log, read_outcome

JOB = {"format": 3, "identity": {"input": {}}}


def input_row(index: int) -> InputRow:
    return InputRow(index, {"prompt": f"prompt {index}", "id": index}, line=index + 1)


def finished(index: int, text: str | None = None) -> list[OutputRow]:
    text = f"text {index}" if text is None else text
    return [OutputRow(input_row(index), text=text, finish_reason="stop", prompt_tokens=3, output_tokens=2)]


@pytest.fixture
def opened(tmp_path):
    """opened() -> the journal of tmp_path/out.jsonl, opened anew; closed at the end."""
    open_ones = []

    def reopen() -> Journal:
        close_all()
        directory = JobDirectory(tmp_path / "out.jsonl")
        journal = Journal(directory, JOB, JournalContents(directory))
        open_ones.append((journal, directory))
        return journal

    def close_all():
        while open_ones:
            journal, directory = open_ones.pop()
            journal.close()
            journal.finished.close()
            directory.close()

    yield reopen
    close_all()


def log_file(tmp_path):
    return tmp_path / ".out.jsonl.pagecli-journal" / LOG


def fill(journal: Journal, indexes) -> None:
    for index in indexes:
        journal.append(finished(index))
        journal.commit()


def taken(journal: Journal, count: int) -> dict[int, list[OutputRow]]:
    found = {index: journal.take(input_row(index)) for index in range(count)}
    return {index: rows for index, rows in found.items() if rows is not None}


def read(path) -> list[tuple[bytes, bytes]]:
    with path.open("rb") as file:
        return [(kind, rest) for _, kind, rest in read_log(file)]


def write_log(path, rests: list[bytes]) -> list[int]:
    """A log of lines of kind `row`; where each ends."""
    ends, data = [], b""
    for rest in rests:
        data += log_line(b"row", rest)
        ends.append(len(data))
    path.write_bytes(data)
    return ends


def test_rows_come_back_whatever_order_they_finished_in(opened):
    order = list(range(300))
    random.Random(1).shuffle(order)
    fill(opened(), order[:200])
    journal = opened()
    assert taken(journal, 300) == {index: finished(index) for index in sorted(order[:200])}
    fill(journal, order[200:])
    journal = opened()
    assert journal.num_rows == 300
    assert taken(journal, 300) == {index: finished(index) for index in range(300)}


token = st.builds(
    TokenLogprobs,
    st.integers(0, 10**6),
    st.floats(allow_nan=False),
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(allow_nan=False))).map(tuple),
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    text=st.none() | st.text(),
    token_ids=st.none() | st.lists(st.integers(0, 2**31 - 1)),
    score=st.none() | st.floats(allow_nan=False),
    logprobs=st.none() | st.lists(token),
    error=st.none() | st.text(),
    code=st.none() | st.sampled_from(ErrorCode),
    samples=st.integers(1, 4),
)
def test_every_field_of_an_output_row_comes_back_to_the_bit(text, token_ids, score, logprobs, error, code, samples):
    row = InputRow(7, {"prompt": "x"})
    outputs = [
        OutputRow(row, sample, text, token_ids, "length", 5, 6, score, logprobs, error, code, samples)
        for sample in range(samples)
    ]
    assert decode(encode(outputs), row) == outputs


def test_payload_of_another_version_is_computed_again_instead_of_guessed():
    assert decode(b'[{"text": "a", "field of the future": 1}]', input_row(0)) is None
    assert decode(b'[{"error_code": "code of the future"}]', input_row(0)) is None
    assert decode(b'{"text": "a"}', input_row(0)) is None


def test_digest_tells_rows_apart_by_every_column_and_by_why_they_were_unreadable():
    row = input_row(0)
    others = [
        replace(row, columns={**row.columns, "note": 1}),
        replace(row, columns={"prompt": "prompt 0", "id": "0"}),
        replace(row, error="line 1: invalid JSON"),
        replace(row, columns={"prompt": "prompt 0\ud83d", "id": 0}),
    ]
    assert len({row_digest(other) for other in [row, *others]}) == 5
    assert row_digest(replace(row, index=9, line=99)) == row_digest(row)


rests = st.lists(st.binary(max_size=40).map(lambda rest: rest.replace(b"\n", b" ")), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(rests=rests, cut=st.integers(0, 10**6), tail=st.binary(max_size=60))
def test_torn_tail_costs_the_line_it_cuts_and_none_before_or_after(tmp_path_factory, rests, cut, tail):
    path = tmp_path_factory.mktemp("journal") / "journal"
    ends = write_log(path, rests)
    whole = path.read_bytes()
    cut = cut % (len(whole) + 1)
    path.write_bytes(whole[:cut] + tail)
    expected = [(b"row", rest) for end, rest in zip(ends, rests, strict=True) if end <= cut]
    found = read(path)
    assert found[: len(expected)] == expected
    assert len(found) <= len(rests)  # what the tail completes by chance is what was written, nothing else
    fd = os.open(path, os.O_RDWR)
    append(fd, b"\n" + log_line(b"row", b"after"))
    os.close(fd)
    later = read(path)  # a line that lacked only its break is whole now
    assert later[: len(found)] == found
    assert later[-1] == (b"row", b"after")
    assert all(line in found or line[1] in rests for line in later[:-1])


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(rests=rests, flips=st.lists(st.integers(0, 10**6), min_size=1, max_size=4))
def test_flipped_bits_cost_the_lines_they_hit_and_no_other(tmp_path_factory, rests, flips):
    """Of two lines whose common line break is hit, both."""
    path = tmp_path_factory.mktemp("journal") / "journal"
    ends = write_log(path, rests)
    data = bytearray(path.read_bytes())
    original = bytes(data)
    for flip in flips:
        data[flip // 8 % len(data)] ^= 1 << flip % 8
    path.write_bytes(data)
    starts = [0, *ends]
    unhurt = [
        (b"row", rest)
        for start, end, rest in zip(starts, ends, rests, strict=False)
        if data[max(0, start - 1) : end] == original[max(0, start - 1) : end]
    ]
    assert read(path) == unhurt


def test_text_that_looks_like_a_line_is_not_one(opened):
    forged = log_line(b"row", b'1 1 0 0000000000000000 [{"text":"forged"}]').decode()
    journal = opened()
    journal.append(finished(0, f"\n{forged}\n"))
    journal.commit()
    assert taken(opened(), 3) == {0: finished(0, f"\n{forged}\n")}


@pytest.mark.parametrize("size", [10, 5_000, (1 << 20) + 5, 3 << 20])
def test_lines_of_any_length_are_read_in_order_and_one_by_one(opened, size):
    journal = opened()
    for index in range(4):
        journal.append(finished(index, str(index) * size))
    journal.commit()
    assert taken(opened(), 5) == {index: finished(index, str(index) * size) for index in range(4)}


def test_which_job_it_is_survives_damage_as_it_is_written_again_and_again(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "JOB_AGAIN_BYTES", 1000)
    fill(opened(), range(100))
    data = log_file(tmp_path).read_bytes()
    assert 3 < data.count(b" job ") < 30
    log_file(tmp_path).write_bytes(data.replace(b" job ", b" jab ", 2))
    assert opened().finished.job == JOB


def test_outcome_is_void_when_a_run_goes_on(opened, tmp_path):
    directory, output = JobDirectory(tmp_path / "out.jsonl"), tmp_path / "out.jsonl"
    fill(opened(), range(3))
    note_outcome(directory, {"exit_code": 5})
    assert read_outcome(directory) == ({"exit_code": 5}, False)
    temporary, file = create_temporary(output)
    file.close()
    publish(temporary, output, overwrite=False)
    assert read_outcome(directory) == ({"exit_code": 5}, True)
    output.unlink()
    assert read_outcome(directory) == ({"exit_code": 5}, False)
    opened()
    assert read_outcome(directory) == (None, False)
    directory.close()


def test_damage_is_repaired_by_computing_the_row_again(opened, tmp_path):
    fill(opened(), range(50))
    data = bytearray(log_file(tmp_path).read_bytes())
    data[data.index(b"row 25 ") + 20] ^= 8
    log_file(tmp_path).write_bytes(data[:-3])
    journal = opened()
    found = taken(journal, 50)
    (hit,) = set(range(49)) - set(found)  # the last row is torn
    fill(journal, [hit, 49])
    assert taken(opened(), 50) == {index: finished(index) for index in range(50)}


def test_row_damaged_between_opening_and_reading_is_not_taken(opened, tmp_path):
    fill(opened(), range(3))
    journal = opened()
    data = log_file(tmp_path).read_bytes()
    with open(log_file(tmp_path), "r+b") as file:
        file.seek(data.index(b"row 0 ") + 9)
        file.write(b"\xff")
    assert sorted(taken(journal, 3)) == [1, 2]


def test_changed_input_row_is_refused(opened):
    fill(opened(), range(3))
    with pytest.raises(UsageError, match="line 2 is not the row that was finished") as caught:
        opened().take(replace(input_row(1), columns={"prompt": "another"}))
    assert "--restart" in caught.value.hint


@pytest.mark.parametrize("fault", ["full", "short"])
def test_write_that_fails_keeps_what_was_written_and_says_what_to_do(opened, monkeypatch, fault):
    journal = opened()
    fill(journal, range(10))
    pwrite = os.pwrite

    def faulty(fd, data, offset):
        if fault == "short" and len(data) > 7:
            return pwrite(fd, data[:7], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", faulty)
    journal.append(finished(10))
    with pytest.raises(InputError, match="no space left") as caught:
        journal.commit()
    assert "resumes from 10 finished rows" in caught.value.hint
    with pytest.raises(InputError):
        journal.commit()
    monkeypatch.undo()
    assert sorted(taken(opened(), 20)) == list(range(10))


def test_short_writes_are_continued(opened, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:5], offset))
    fill(opened(), range(5))
    assert len(taken(opened(), 9)) == 5


def test_sync_that_fails_ends_the_job_at_the_next_commit(opened, monkeypatch):
    monkeypatch.setattr(journal_module, "SYNC_SECONDS", 0.01)
    failed = []

    def failing(fd):
        failed.append(fd)
        raise OSError(5, "Input/output error")

    journal = opened()
    monkeypatch.setattr(journal_module, "_flush_to_disk", failing)
    with pytest.raises(InputError, match="Input/output error"):  # noqa: PT012
        for index in range(100_000):
            fill(journal, [index])
    assert len(failed) == 1
    assert journal.num_safe_rows == 0


def test_rows_are_synced_by_the_clock(opened, monkeypatch):
    monkeypatch.setattr(journal_module, "SYNC_SECONDS", 0.01)
    synced = []
    monkeypatch.setattr(journal_module, "_flush_to_disk", synced.append)
    journal = opened()
    fill(journal, range(5))
    while journal.num_safe_rows < 5:
        pass
    num_syncs = len(synced)
    assert num_syncs <= 5
    while journal._thread.is_alive() and len(synced) == num_syncs:  # nothing new: nothing to sync
        journal.close()
    assert len(synced) == num_syncs


def test_status_counts_rows_of_a_job_without_touching_it(opened, tmp_path):
    assert read_journal_status(tmp_path / "out.jsonl") is None
    journal = opened()
    fill(journal, range(7))
    journal.append([error_row(input_row(7), "bad", code=ErrorCode.MISSING_PROMPT)])
    journal.append(finished(8) * 3)
    journal.commit()
    before = log_file(tmp_path).read_bytes()
    status = read_journal_status(tmp_path / "out.jsonl")
    assert (status.num_input_rows, status.num_rows, status.num_error_rows) == (9, 11, 1)
    assert (status.is_running, status.is_complete, status.job) == (False, False, JOB)
    assert log_file(tmp_path).read_bytes() == before
