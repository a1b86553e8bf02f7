"""Which rows a job takes: --where, then --sample, then --limit, then --shard. Rows keep their number in the input."""

import dataclasses
import hashlib
import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pagecli.errors import UsageError
from pagecli.jobs.rows.row import InputRow, InputSource, RowEstimate, arrow_columns

if TYPE_CHECKING:
    from pagecli.jobs.rows.row_filter import Condition


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` (from 1) of `count`: the rows whose position among the selected ones is number - 1 modulo count."""

    number: int
    count: int

    def position(self, index: int) -> int:
        """The position among all selected rows of the shard's row `index`."""
        return index * self.count + self.number - 1


@dataclass(frozen=True, slots=True)
class RowSelection:
    """`sample`: a number of rows (int), or the probability to take each (float); which ones depends on `sample_seed` alone."""

    where: "Condition | None" = None
    sample: int | float | None = None
    sample_seed: int = 0
    limit: int | None = None
    shard: Shard | None = None

    @property
    def takes_all(self) -> bool:
        return self.where is None and self.sample is None and self.shard is None


@dataclass(frozen=True, slots=True)
class RowChoice:
    """A selection as the flags say it."""

    where: str | None = None
    sample: str | None = None
    sample_seed: int = 0
    limit: int | None = None
    shard: str | None = None

    @property
    def num_parts(self) -> int | None:
        """N of `auto/N`, of which processes take one part after the other (jobs/shards/part_directory.py); None: not given so.

        Raises UsageError.
        """
        if self.shard is None or not self.shard.startswith("auto"):
            return None
        match = re.fullmatch(r"auto/(\d{1,6})", self.shard)
        if match is None or int(match[1]) < 1:
            raise UsageError(f"--shard is {self.shard!r}", "give the number of parts: auto/64")
        return int(match[1])

    def parse(self) -> RowSelection:
        """The rows; of a job in automatic parts those of all parts. Raises UsageError."""
        condition = None
        if self.where is not None:
            from pagecli.jobs.rows.row_filter import parse_condition

            condition = parse_condition(self.where)
        shard = None if self.num_parts is not None else _parse_shard(self.shard)
        return RowSelection(condition, _parse_sample(self.sample), self.sample_seed, self.limit, shard)


def _parse_sample(text: str | None) -> int | float | None:
    if text is None:
        return None
    if re.fullmatch(r"\d{1,12}", text) and int(text) > 0:
        return int(text)
    if re.fullmatch(r"0?\.\d+|1\.0*", text) and float(text) > 0:
        return float(text)
    raise UsageError(f"--sample is {text!r}", "give a number of rows, as 1000, or a fraction of them, as 0.01")


def _parse_shard(text: str | None) -> Shard | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard is {text!r}", "give its number, from 1, and how many there are: 3/16; or auto/16")
    return Shard(int(match[1]), int(match[2]))


class SelectedRows:
    """The selected rows of a source, with `index` counted on and `source_index` their number in the input.

    A row that cannot be read is taken, whatever --where says, so that it shows as an error row.
    """

    def __init__(self, source: InputSource, selection: RowSelection) -> None:
        self._source = source
        self._selection = selection
        self.name = source.name
        self.schema = source.schema
        self.column_names = source.column_names
        self._num_read = 0
        self._num_selected = 0  # before the shard
        self._num_rows = 0
        self._ended = False

    def __iter__(self) -> Iterator[InputRow]:
        selection = self._selection
        shard, limit = selection.shard, selection.limit
        for row in self._sampled():
            if limit is not None and self._num_selected >= limit:
                break
            position = self._num_selected
            self._num_selected += 1
            if shard is None or position % shard.count == shard.number - 1:
                yield dataclasses.replace(row, index=self._num_rows, source_index=row.number)
                self._num_rows += 1
        self._ended = True

    @property
    def num_selected(self) -> int:
        """Rows of all shards together, so far."""
        return self._num_selected

    def _matching(self) -> Iterator[InputRow]:
        where = self._selection.where
        if where is not None:
            from pagecli.jobs.rows.row_filter import is_selected
        for row in self._source:
            self._num_read += 1
            if where is None or row.error is not None or is_selected(where, row.columns):
                yield row

    def _sampled(self) -> Iterator[InputRow]:
        sample = self._selection.sample
        if sample is None:
            return self._matching()
        if isinstance(sample, int):
            return iter(self._sample_of(sample))
        threshold = int(sample * 2**64)
        return (row for row in self._matching() if self._draw(row) < threshold)

    def _sample_of(self, size: int) -> list[InputRow]:
        """The `size` rows with the lowest draws, in the input's order; so many are held in memory."""
        drawn = ((self._draw(row), row.number, _detached(row)) for row in self._matching())
        heap: list[tuple[int, int, InputRow]] = []
        for draw, number, row in drawn:
            item = (-draw, -number, row)
            if len(heap) < size:
                heapq.heappush(heap, item)
            elif item[:2] > heap[0][:2]:
                heapq.heapreplace(heap, item)
        return [row for _, _, row in sorted(heap, key=lambda item: -item[1])]

    def _draw(self, row: InputRow) -> int:
        """64 bits that depend on the seed and the row's number."""
        text = f"{self._selection.sample_seed} {row.number}".encode("ascii")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")

    def estimate(self) -> RowEstimate | None:
        if self._ended:
            return RowEstimate(self._num_rows, exact=True)
        whole, selection = self._source.estimate(), self._selection
        if whole is None:
            return None
        count, exact = whole.num_rows, whole.exact
        if selection.where is not None or isinstance(selection.sample, float):
            exact = False
            share = self._num_selected / self._num_read if self._num_read else (selection.sample or 1)
            count = int(count * share)
        if isinstance(selection.sample, int):
            count = min(count, selection.sample)
        if selection.limit is not None:
            count = min(count, selection.limit)
        if selection.shard is not None:
            count = (count + selection.shard.count - selection.shard.number) // selection.shard.count
        return RowEstimate(count, exact)

    def check_unchanged(self) -> None:
        self._source.check_unchanged()

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        self._source.close()


def _detached(row: InputRow) -> InputRow:
    """A row of a record batch in a batch of its own, so that holding it does not hold all rows beside it."""
    columns = arrow_columns(row.columns)
    if columns is None or columns.batch.num_rows == 1:
        return row
    import pyarrow as pa

    from pagecli.jobs.rows.arrow_values import ArrowColumns

    return dataclasses.replace(row, columns=ArrowColumns(columns.batch.take(pa.array([columns.offset])), 0))
