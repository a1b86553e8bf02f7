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
from pagecli.jobs.journal.journal import ROWS, Journal
from pagecli.jobs.journal.journal_status import read_journal_status
from pagecli.jobs.journal.record_format import HEADER_BYTES, MAGIC, pack, scan, scan_headers
from pagecli.jobs.journal.row_codec import decode, encode, row_digest
from pagecli.jobs.rows.input_row import InputRow
from pagecli.jobs.rows.output_row import OutputRow, error_row
from pagecli.jobs.storage.job_directory import JobDirectory

KEY = b"k" * 16


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
        journal = Journal(directory, KEY)
        open_ones.append((journal, directory))
        return journal

    def close_all():
        while open_ones:
            journal, directory = open_ones.pop()
            journal.close()
            directory.close()

    yield reopen
    close_all()


def rows_file(tmp_path):
    return tmp_path / ".out.jsonl.pagecli-journal" / ROWS


def fill(journal: Journal, indexes) -> None:
    for index in indexes:
        journal.append(finished(index))
        journal.commit()


def taken(journal: Journal, count: int) -> dict[int, list[OutputRow]]:
    found = {index: journal.take(input_row(index)) for index in range(count)}
    return {index: rows for index, rows in found.items() if rows is not None}


def write_records(path, payloads: list[bytes]) -> list[int]:
    """A file of records; where each ends."""
    ends, data = [], b""
    for index, payload in enumerate(payloads):
        data += pack(KEY, index, 1, 0, b"digest 8", payload)
        ends.append(len(data))
    path.write_bytes(data)
    return ends


def scanned(path) -> list[tuple[int, bytes]]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return [(record.index, record.payload) for record in scan(fd, KEY)]
    finally:
        os.close(fd)


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


@settings(max_examples=60, deadline=None)
@given(payloads=st.lists(st.binary(max_size=40), max_size=12), cut=st.integers(0, 10**6), tail=st.binary(max_size=60))
def test_torn_tail_costs_the_row_it_cuts_and_none_before(tmp_path_factory, payloads, cut, tail):
    path = tmp_path_factory.mktemp("journal") / "rows"
    ends = write_records(path, payloads)
    whole = path.read_bytes()
    cut = cut % (len(whole) + 1)
    path.write_bytes(whole[:cut] + tail)
    expected = [(index, payload) for index, payload in enumerate(payloads) if ends[index] <= cut]
    found = scanned(path)
    assert found[: len(expected)] == expected
    # What the tail completes by chance is what was written, nothing else.
    assert all(payloads[index] == payload for index, payload in found)


@settings(max_examples=150, deadline=None)
@given(
    payloads=st.lists(st.one_of(st.binary(max_size=40), st.just(MAGIC * 3)), min_size=1, max_size=10),
    flips=st.lists(st.integers(0, 10**6), min_size=1, max_size=4),
)
def test_flipped_bits_cost_the_rows_they_hit_and_no_other(tmp_path_factory, payloads, flips):
    path = tmp_path_factory.mktemp("journal") / "rows"
    ends = write_records(path, payloads)
    data = bytearray(path.read_bytes())
    original = bytes(data)
    for flip in flips:
        data[flip // 8 % len(data)] ^= 1 << flip % 8
    path.write_bytes(data)
    starts = [0, *ends]
    unhurt = [
        (index, payload)
        for index, payload in enumerate(payloads)
        if data[starts[index] : ends[index]] == original[starts[index] : ends[index]]
    ]
    assert scanned(path) == unhurt


def test_text_that_looks_like_a_record_is_not_one(tmp_path):
    forged = pack(b"x" * 16, 0, 1, 0, b"digest 8", b"forged")
    path = tmp_path / "rows"
    ends = write_records(path, [b"a", forged * 2, b"b"])
    data = bytearray(path.read_bytes())
    data[ends[0] + 8] ^= 1  # the header that covers the forged text is damaged, so the text is looked at
    path.write_bytes(data)
    assert scanned(path) == [(0, b"a"), (2, b"b")]


@pytest.mark.parametrize("size", [10, (1 << 20) - HEADER_BYTES, (1 << 20) + 5, 3 << 20])
def test_records_across_the_pieces_that_are_read(tmp_path, size):
    payloads = [bytes([index]) * size for index in range(4)] + [b"last"]
    write_records(tmp_path / "rows", payloads)
    assert scanned(tmp_path / "rows") == list(enumerate(payloads))
    fd = os.open(tmp_path / "rows", os.O_RDONLY)
    assert list(scan_headers(fd)) == [(index, 1, 0) for index in range(5)]
    os.close(fd)


def test_damage_is_repaired_by_computing_the_row_again(opened, tmp_path):
    fill(opened(), range(50))
    data = bytearray(rows_file(tmp_path).read_bytes())
    data[len(data) // 2] ^= 8
    rows_file(tmp_path).write_bytes(data[:-3])
    journal = opened()
    found = taken(journal, 50)
    (hit,) = set(range(49)) - set(found)  # the last row is torn
    fill(journal, [hit, 49])
    assert taken(opened(), 50) == {index: finished(index) for index in range(50)}


def test_row_damaged_between_opening_and_reading_is_not_taken(opened, tmp_path):
    fill(opened(), range(3))
    journal = opened()
    with open(rows_file(tmp_path), "r+b") as file:
        file.seek(HEADER_BYTES + 3)
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
    assert "goes on from 10 finished rows" in caught.value.hint
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

    monkeypatch.setattr(journal_module, "_flush_to_disk", failing)
    journal = opened()
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
    before = rows_file(tmp_path).read_bytes()
    status = read_journal_status(tmp_path / "out.jsonl")
    assert (status.num_input_rows, status.num_rows, status.num_error_rows) == (9, 11, 1)
    assert (status.is_running, status.is_complete, status.job) == (False, False, {})
    assert rows_file(tmp_path).read_bytes() == before
