"""Helpers of the writer tests: rows through a writer and back."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pagecli.jobs.rows.row import InputRow, OutputRow, ResultColumns
from pagecli.jobs.writers.open_output import open_output


def result(row: InputRow, **values) -> OutputRow:
    """A finished row: its text says which row it is of."""
    values = {"text": f"text {row.index}", "token_ids": [row.index, 2], "finish_reason": "stop", **values}
    return OutputRow(row, prompt_tokens=3, output_tokens=2, **values)


def results(columns: list[dict]) -> list[OutputRow]:
    return [result(InputRow(index, row, line=index + 1, num_bytes=50)) for index, row in enumerate(columns)]


def open_writer(path: Path, warnings: list[str] | None = None, schema: pa.Schema | None = None, overwrite=False, **columns):
    warn = warnings.append if warnings is not None else lambda text: None
    return open_output(str(path), overwrite, ResultColumns(**columns), schema, warn)


def write_all(path: Path, rows: list[OutputRow], warnings: list[str] | None = None, schema=None, **columns) -> None:
    writer = open_writer(path, warnings, schema, **columns)
    for row in rows:
        writer.write(row)
    writer.finish()


def read_back(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    elif path.suffix == ".zst":
        content = pa.input_stream(pa.py_buffer(content), compression="zstd").read()
    return [json.loads(line) for line in content.decode().split("\n") if line]
