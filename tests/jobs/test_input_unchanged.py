"""An input that is truncated or exchanged while it is read ends the job with exit code 3; what was finished stays."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import InputError
from pagecli.jobs.readers.open_input import open_input
from pagecli.jobs.rows.row import InputRow
from pagecli.jobs.rows.row_preparer import PreparedRow
from pagecli.jobs.rows.row_selection import RowChoice, SelectedRows
from pagecli.jobs.run.dry_run import check_rows
from pagecli.jobs.run.job_loop import Feeder

ROWS = [{"prompt": f"prompt {i}", "text": "x" * 200} for i in range(5_000)]  # more than any reader reads ahead
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def write(path):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=500)
    elif path.suffix == ".csv":
        path.write_text("prompt,text\n" + "".join(f"{row['prompt']},{row['text']}\n" for row in ROWS))
    else:
        path.write_bytes(gzip.compress(LINES, 0) if path.suffix == ".gz" else LINES)
    return path


def truncate(path):
    """At the end of a line, where there are lines."""
    data = path.read_bytes()
    os.truncate(path, data[: len(data) * 2 // 3].rfind(b"\n") + 1)


def append(path):
    with path.open("ab") as file:
        file.write(b'{"prompt": "more"}\n')


def rewrite(path):
    """In place, at the same size."""
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.write(data[:200] + data[200:].replace(b"prompt 4999", b"prompt 4-99"))


def replace(path):
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    os.replace(new, path)


CHANGES = {"truncated": truncate, "added to": append, "written to": rewrite, "replaced": replace, "gone": os.unlink}


INPUTS = ["in.jsonl", "in.jsonl.gz", "in.csv", "in.parquet", "several", "selected"]


@pytest.mark.parametrize(
    ("name", "change"),
    [  # every change of one input, and one of every input, are quick
        pytest.param(name, change, marks=() if name == "in.jsonl" or change == "written to" else pytest.mark.slow)
        for name in INPUTS
        for change in CHANGES
    ],
)
def test_change_while_the_input_is_read_is_found_at_its_end(tmp_path, name, change):
    if name == "several":
        (tmp_path / "several").mkdir()
        path = write(tmp_path / "several" / "b.jsonl")
        (tmp_path / "several" / "a.jsonl").write_bytes(LINES)
        source = open_input(str(tmp_path / "several"))
    else:
        path = write(tmp_path / ("in.jsonl" if name == "selected" else name))
        source = open_input(str(path))
    if name == "selected":
        source = SelectedRows(source, RowChoice(where="prompt != 'x'", limit=4_900).parse())
    rows = iter(source)
    for _ in range(10):
        next(rows)
    CHANGES[change](path)
    with pytest.raises(InputError, match=r"while it was read|cannot be read after") as caught:  # noqa: PT012
        for _ in rows:
            pass
        source.check_unchanged()
    assert path.name in caught.value.message
    source.close()


def test_input_without_a_writer_is_the_same_to_every_reader(tmp_path):
    path = write(tmp_path / "in.jsonl")
    source = open_input(str(path), limit=100)
    for _ in source:
        os.utime(path, ns=(1, path.stat().st_mtime_ns))  # the time of reading
    source.check_unchanged()
    source.close()


class ChangedRows:
    """Two rows of an input that is exchanged while they are read."""

    def __iter__(self):
        return iter([InputRow(0, {"prompt": "a"}), InputRow(1, {"prompt": "b"})])

    def check_unchanged(self):
        raise InputError("in.jsonl was replaced")

    def interrupt(self): ...

    def close(self): ...


def test_whoever_reads_an_input_to_its_end_asks_whether_it_changed():
    def prepare(row):
        return PreparedRow(row, [1], SamplingParams(), 0)

    taken = []
    with pytest.raises(InputError, match="replaced"), Feeder(ChangedRows(), prepare, 8) as feeder:  # noqa: PT012
        while not feeder.exhausted:
            taken.append(feeder.take(10))
    assert len(taken) == 2
    with pytest.raises(InputError, match="replaced"):
        check_rows(ChangedRows(), prepare, lambda token_ids, params: params)
