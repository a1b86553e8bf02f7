"""Parquet input, streamed in small record batches; columns stay Arrow until somebody asks for a value."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pagecli.errors import InputError
from pagecli.jobs.arrow_values import ArrowColumns
from pagecli.jobs.byte_streams import unreadable
from pagecli.jobs.input_row import InputRow, RowEstimate

BATCH_ROWS = 256  # a row that waits for its turn keeps its whole batch in memory


class ParquetSource:
    """Opens at once, so that a missing or damaged file is found before anything slow. Raises InputError."""

    def __init__(self, path: str, limit: int | None = None) -> None:
        self.name = path
        self._limit = limit
        try:
            self._file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        except (pa.ArrowException, ValueError) as error:
            raise InputError(f"{path} is not a readable Parquet file: {_one_line(error)}", "it may be cut short") from error
        except OSError as error:
            raise unreadable(path, error) from error
        self.schema: pa.Schema | None = self._file.schema_arrow
        names = self._file.schema_arrow.names
        self.column_names: list[str] | None = names
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            self._file.close()
            raise InputError(f"{path} has more than one column named {repeated[0]!r}", "rename one of them")

    def __iter__(self) -> Iterator[InputRow]:
        index = 0
        batches = self._file.iter_batches(batch_size=BATCH_ROWS, use_threads=False)
        while self._limit is None or index < self._limit:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{self.name} cannot be read after row {index}: {_one_line(error)}") from error
            if batch is None:
                return
            num_rows = batch.num_rows if self._limit is None else min(batch.num_rows, self._limit - index)
            row_bytes = batch.nbytes // max(batch.num_rows, 1)
            for offset in range(num_rows):
                yield InputRow(index, ArrowColumns(batch, offset), num_bytes=row_bytes)
                index += 1

    def estimate(self) -> RowEstimate | None:
        num_rows = self._file.metadata.num_rows
        return RowEstimate(num_rows if self._limit is None else min(num_rows, self._limit), exact=True)

    def interrupt(self) -> None:
        """A file never keeps its reader waiting."""

    def close(self) -> None:
        self._file.close()


def _one_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
