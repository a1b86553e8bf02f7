"""CSV and TSV input with a header line, read record by record; a record that does not fit the header is an error row.

Cells are text. Those of columns that pagecli itself looks at (sampling parameters, messages, prompt_token_ids, ...) are read as
JSON where they are JSON, and an empty one is null; all others are carried as they are.
"""

import csv
import json
import sys
from collections.abc import Iterator
from typing import Any

from pagecli.errors import ErrorCode, InputError
from pagecli.jobs.prompts.template_variables import COLUMN as TEMPLATE_VARIABLES
from pagecli.jobs.readers.text_input import MAX_ROW_BYTES, LineTooLongError, TextInput
from pagecli.jobs.rows.row import InputRow, is_too_deep
from pagecli.jobs.rows.row_parameters import SAMPLING_FIELDS

JSON_COLUMNS = {*SAMPLING_FIELDS, "messages", "prompt_token_ids", TEMPLATE_VARIABLES}


class CsvSource(TextInput):
    """Opens at once and reads the header of a file, so that a missing or mislabelled file is found early. Raises InputError."""

    schema: None = None

    def __init__(self, path: str, limit: int | None = None, max_row_bytes: int = MAX_ROW_BYTES) -> None:
        csv.field_size_limit(sys.maxsize)  # records are bounded by _RecordLines
        super().__init__(path, "CSV", limit, max_row_bytes)
        self._lines = _RecordLines(self)
        delimiter = "\t" if ".tsv" in path.lower().rsplit("/", 1)[-1] else ","
        self._records = csv.reader(self._lines, delimiter=delimiter, strict=True)
        try:
            self.column_names: list[str] | None = self._header()
            self.end_header()
        except BaseException:
            self.close()
            raise

    def _header(self) -> list[str]:
        try:
            names = next((record for record in self._records if record), [])
        except (csv.Error, LineTooLongError) as error:
            reason = error.message if isinstance(error, LineTooLongError) else str(error)
            raise InputError(
                f"{self.name}, line 1: the header is no CSV: {reason}", "its first line names the columns"
            ) from error
        if not names:
            raise InputError(f"{self.name} is empty", "the first line of a CSV file names its columns")
        if any(_is_invalid(name) for name in names) or "\x00" in "".join(names):
            raise InputError(f"{self.name}, line 1: the header is not UTF-8", "convert it: iconv -f latin1 -t utf-8")
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise InputError(f"{self.name} has more than one column named {repeated!r}", "rename one of them")
        return names

    def __iter__(self) -> Iterator[InputRow]:
        while self._limit is None or self._num_rows < self._limit:
            line = self.line_number + 1
            self._lines.begin_record()
            error: str | None = None
            code = ErrorCode.INVALID_CSV
            try:
                record = next(self._records, None)
            except csv.Error as problem:
                record, error = [], f"line {line}: invalid CSV: {problem}"
            except LineTooLongError as problem:
                record, error, code = [], f"line {line}: {problem.message}", ErrorCode.ROW_TOO_LARGE
            if record is None:
                break
            if not record and error is None:
                continue  # a blank line
            index = self._num_rows
            self._num_rows += 1
            if error is not None:
                yield InputRow(index, {}, line, error, error_code=code)
            else:
                yield self._row(index, line, record)
        self._ended = True

    def _row(self, index: int, line: int, record: list[str]) -> InputRow:
        assert self.column_names is not None
        names, num_bytes = self.column_names, self._lines.record_bytes
        columns: dict[str, Any] = dict(zip(names, map(_valid, record), strict=False))
        if len(record) != len(names):
            error = f"line {line}: invalid CSV: {len(record)} fields, but {len(names)} columns"
            return InputRow(index, columns, line, error, num_bytes, ErrorCode.INVALID_CSV)
        wrong = next((name for name, cell in zip(names, record, strict=True) if _is_invalid(cell)), None)
        if wrong is not None:
            error = f"line {line}: invalid UTF-8 in column {wrong}"
            return InputRow(index, columns, line, error, num_bytes, ErrorCode.INVALID_ENCODING)
        for name in JSON_COLUMNS & columns.keys():
            columns[name] = cell_value(columns[name], is_text=name == "stop")
        return InputRow(index, columns, line, num_bytes=num_bytes)


class _RecordLines:
    """The lines of an input for csv.reader, which takes more than one for a record with line breaks in quotes.

    Of a record that is too long the rest is passed over, up to the line in which its last quote is closed. Bytes that are no
    UTF-8 come as surrogates, so that only their own record is lost.
    """

    def __init__(self, text: TextInput) -> None:
        self._text = text
        self.record_bytes = 0  # of the record that is being read
        self._num_quotes = 0  # in it

    def begin_record(self) -> None:
        self.record_bytes = self._num_quotes = 0

    def __iter__(self) -> "_RecordLines":
        return self

    def __next__(self) -> str:
        line = self._next()
        if self.record_bytes <= self._text.max_row_bytes + 2:
            if not line:
                raise StopIteration
            return line.decode("utf-8", "surrogateescape")
        while self._num_quotes % 2 and (line or line is None):
            line = self._next()
        raise LineTooLongError(self.record_bytes, self._text.max_row_bytes)

    def _next(self) -> bytes | None:
        """None: a line that was too long."""
        try:
            line = self._text.readline(starts_row=self.record_bytes == 0)
        except LineTooLongError as problem:
            self.record_bytes += problem.num_bytes
            self._num_quotes += problem.num_quotes
            return None
        self.record_bytes += len(line)
        self._num_quotes += line.count(b'"')
        return line


def cell_value(cell: str, is_text: bool = False) -> Any:
    """A cell as JSON if it is JSON (0.5, true, [1, 2]), null if empty, else its text; of `is_text`, only a list is JSON."""
    if not cell:
        return None
    if is_text and not cell.startswith("["):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return cell if is_too_deep(value) else value


def _is_invalid(text: str) -> bool:
    """Whether it has bytes that were no UTF-8."""
    return not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)


def _valid(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
