"""The label that every row of a shard's output bears: which part it is of, its position in the part and in the whole, the job.

`pagecli merge` puts parts in order by it and takes it off. `line` counts the part's output rows from 0, so that one that is
missing or there twice shows. In JSON Lines and CSV the last one also has `rows`, how many input rows all parts have together,
so that an end that is cut off shows too (a Parquet file whose end is missing cannot be opened), and each has `crc`, the crc32
of the row without its label (Parquet has one of each page).
"""

import json
import zlib
from collections.abc import Callable
from typing import Any

from pagecli.jobs.rows.row import SHARD_COLUMN, OutputRow
from pagecli.jobs.rows.row_selection import Shard


class ShardLabels:
    """Gives the rows of one part their labels, in the order they are written."""

    def __init__(self, shard: Shard, job_key: str) -> None:
        self._shard = shard
        self._job_key = job_key
        self._line = 0

    def label(self, row: OutputRow) -> dict[str, Any]:
        line, self._line = self._line, self._line + 1
        number, count = self._shard.number, self._shard.count
        position = self._shard.position(row.row.index)
        return {"number": number, "count": count, "row": position, "line": line, "job": self._job_key}


class LabelledLines:
    """An encoder of JSON lines that labels them; it holds one line back, as the last one gets more."""

    def __init__(
        self, encode: Callable[[OutputRow], bytes], labels: ShardLabels, num_selected: Callable[[], int | None]
    ) -> None:
        self._encode = encode
        self._labels = labels
        self._num_selected = num_selected
        self._held: tuple[bytes, dict[str, Any]] | None = None

    def __call__(self, row: OutputRow) -> bytes:
        line = self._encode(row)
        if not line:  # a batch row whose samples are not all there
            return b""
        before, self._held = self._held, (line, self._labels.label(row))
        return b"" if before is None else _labelled(*before)

    def end(self, is_complete: bool) -> bytes:
        """The line that is held; `is_complete`: every row of the part has been given."""
        if self._held is None:
            return b""
        (line, label), self._held = self._held, None
        return _labelled(line, {**label, "rows": self._num_selected()} if is_complete else label)


def _labelled(line: bytes, label: dict[str, Any]) -> bytes:
    label = {**label, "crc": zlib.crc32(line)}
    return line.removesuffix(b"}\n") + f', "{SHARD_COLUMN}": {json.dumps(label)}}}\n'.encode("ascii")
