"""JSON Lines input, read line by line: a line that is no JSON object becomes a row with an error."""

import json
import os
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pagecli.errors import ErrorCode, InputError
from pagecli.jobs.byte_streams import InterruptibleStream, decompressed, is_stream, open_raw
from pagecli.jobs.input_row import InputRow, RowEstimate

UTF8_BOM = b"\xef\xbb\xbf"
# First bytes of files that are not what their name says: (bytes, what the file is, hint).
OTHER_FORMATS = (
    (b"PAR1", "a Parquet file", "rename it to end in .parquet"),
    (b"\x1f\x8b", "gzip-compressed", "rename it to end in .jsonl.gz"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "rename it to end in .jsonl.zst"),
    (b"\xff\xfe", "UTF-16 text", "convert it: iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff", "UTF-16 text", "convert it: iconv -f utf-16 -t utf-8"),
)


class JsonlSource:
    """Opens at once, so that a missing or mislabelled file is found before anything slow. Raises InputError."""

    schema: pa.Schema | None = None
    column_names: list[str] | None = None

    def __init__(self, path: str, limit: int | None = None) -> None:
        self.name = "standard input" if path == "-" else path
        self._limit = limit
        self._raw = open_raw(path)
        self._size = None if is_stream(path) else os.fstat(self._raw.fileno()).st_size
        self._lock = threading.Lock()  # estimate() looks at the descriptor that close() gives up
        self._num_rows = 0
        self._ended = False
        try:
            if self._size is not None:
                self._check_start(path)
            self._file = decompressed(self._raw, path)
        except BaseException:
            self._raw.close()
            raise

    def _check_start(self, path: str) -> None:
        start = self._raw.read(256) or b""
        self._raw.seek(0)
        compressed = path.lower().endswith((".gz", ".zst"))
        for magic, what, hint in () if compressed else OTHER_FORMATS:
            if start.startswith(magic):
                raise InputError(f"{path} is {what}, not JSON Lines", hint)
        text = start.removeprefix(UTF8_BOM).lstrip()
        if text.startswith(b"[") or text.split(b"\n", 1)[0].strip() == b"{":
            raise InputError(f"{path} is one JSON value, not one object a line", "convert it: jq -c '.[]' in.json > in.jsonl")

    def __iter__(self) -> Iterator[InputRow]:
        line_number = 0
        while self._limit is None or self._num_rows < self._limit:
            try:
                line = self._file.readline()
            except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
                raise InputError(
                    f"{self.name} cannot be read after line {line_number}: {error}",
                    "the file may be cut short or damaged; check it with gzip -t or zstd -t",
                ) from error
            if not line:
                break
            line_number += 1
            if line_number == 1:
                line = line.removeprefix(UTF8_BOM)
            if not line.strip():
                continue
            index = self._num_rows
            self._num_rows += 1
            yield parse_line(line, index, line_number)
        self._ended = True

    def estimate(self) -> RowEstimate | None:
        if self._ended:
            return RowEstimate(self._num_rows, exact=True)
        with self._lock:
            if self._size is None or self._raw.closed or not self._num_rows:
                return None
            position = os.lseek(self._raw.fileno(), 0, os.SEEK_CUR)
        estimate = self._num_rows if position >= self._size else int(self._num_rows * self._size / max(position, 1))
        return RowEstimate(min(estimate, self._limit or estimate), exact=False)

    def interrupt(self) -> None:
        if isinstance(self._raw, InterruptibleStream):
            self._raw.interrupt()

    def close(self) -> None:
        with self._lock:
            self._file.close()
            self._raw.close()


def parse_line(line: bytes, index: int, line_number: int) -> InputRow:
    """The row in one line of JSON; NaN, Infinity and integers of any size are taken, as Python's json does."""
    columns: dict[str, Any] = {}
    error: str | None = None
    code = ErrorCode.INVALID_JSON
    try:
        value = json.loads(line.decode("utf-8"))
        if isinstance(value, dict):
            columns, error = _without_surrogates(value, line)
            code = ErrorCode.INVALID_ENCODING
        else:
            error, code = f"a {_json_type(value)}, not an object with a prompt", ErrorCode.INVALID_TYPE
    except UnicodeDecodeError as problem:
        error, code = f"invalid UTF-8 at byte {problem.start + 1}", ErrorCode.INVALID_ENCODING
    except json.JSONDecodeError as problem:
        error = f"invalid JSON: {problem.msg} at column {problem.pos + 1}"
    except (ValueError, RecursionError) as problem:  # an integer of over 4,300 digits; nesting too deep
        error = f"invalid JSON: {str(problem).split(';')[0]}"
    if error is None:
        return InputRow(index, columns, line_number, num_bytes=len(line))
    return InputRow(index, columns, line_number, f"line {line_number}: {error}", num_bytes=len(line), error_code=code)


def _without_surrogates(columns: dict[str, Any], line: bytes) -> tuple[dict[str, Any], str | None]:
    """Half a surrogate pair (a lone \\ud83d) is valid JSON but no text: such a row is carried with it replaced."""
    if b"\\ud" not in line.lower():
        return columns, None
    try:
        json.dumps(columns, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(columns, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
        return json.loads(text), "invalid Unicode: half of a surrogate pair"
    return columns, None


def _json_type(value: object) -> str:
    names = {list: "JSON array", str: "JSON string", bool: "JSON boolean", type(None): "JSON null"}
    return names.get(type(value), "JSON number")
