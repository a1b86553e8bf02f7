"""JSON Lines input, read line by line: a line that is no JSON object becomes a row with an error.

A file whose first object is a request of an OpenAI batch file is one: its rows get plain columns and a `batch_url`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pagecli.errors import ErrorCode, InputError
from pagecli.jobs.readers.text_input import (
    COMPRESSED_SUFFIXES,
    MAX_ROW_BYTES,
    UTF8_BOM,
    LineTooLongError,
    TextInput,
)
from pagecli.jobs.rows.row import MAX_DEPTH, TOO_DEEP, InputRow, is_too_deep

MAX_UNDECIDED_ROWS = 100  # unreadable rows held until one shows of which kind the file is


class JsonlSource(TextInput):
    """Opens at once, so that a missing or mislabelled file is found before anything slow. Raises InputError.

    `is_batch`: whether it is an OpenAI batch file; None: the first readable row decides.
    """

    schema: None = None
    column_names: list[str] | None = None

    def __init__(
        self,
        path: str,
        limit: int | None = None,
        is_batch: bool | None = None,
        max_row_bytes: int = MAX_ROW_BYTES,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__(path, "JSON Lines", limit, max_row_bytes)
        self._is_batch = is_batch
        self._warn = warn
        self._read_request: Callable[[InputRow], InputRow] | None = None  # of a batch file, from its first request on
        text = b"" if path.lower().endswith(COMPRESSED_SUFFIXES) else self.start.removeprefix(UTF8_BOM).lstrip()
        if text.startswith(b"[") or text.split(b"\n", 1)[0].strip() == b"{":
            self.close()
            import shlex  # which no row needs

            each = "'.[]'" if text.startswith(b"[") else "."
            hint = f"convert it: jq -c {each} {shlex.quote(path)} > converted.jsonl"
            raise InputError(f"{path} is one JSON value, not one object a line", hint)

    def __iter__(self) -> Iterator[InputRow]:
        undecided: list[InputRow] = []
        for row in self._plain_rows():
            if self._is_batch is None:
                undecided.append(row)
                if row.columns:
                    self._is_batch = is_batch_row(row.columns)
                elif len(undecided) < MAX_UNDECIDED_ROWS:
                    continue
                else:
                    self._is_batch = False
                yield from map(self._shaped, undecided)
                undecided = []
            else:
                yield self._shaped(row)
        yield from undecided
        self._ended = True

    def _shaped(self, row: InputRow) -> InputRow:
        if not self._is_batch:
            return row
        if self._read_request is None:
            from pagecli.jobs.readers.openai_batch_input import BatchRequests

            self._read_request = BatchRequests(self._warn).plain_row
        return self._read_request(row)

    def _plain_rows(self) -> Iterator[InputRow]:
        while self._limit is None or self._num_rows < self._limit:
            try:
                line = self.readline()
                if not line:
                    return
                if not line.strip():
                    continue
                row = parse_line(line, self._num_rows, self.line_number)
            except LineTooLongError as problem:
                number = self.line_number
                text = f"line {number}: {problem.message}"
                row = InputRow(self._num_rows, {}, number, text, error_code=ErrorCode.ROW_TOO_LARGE)
            self._num_rows += 1
            yield row


def is_batch_row(columns: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a request of an OpenAI batch file: an id and a body that is an object, no prompt beside them."""
    is_plain = any(name in columns for name in ("prompt", "messages", "prompt_token_ids"))
    return not is_plain and "custom_id" in columns and isinstance(columns.get("body"), Mapping)


def parse_line(line: bytes, index: int, line_number: int) -> InputRow:
    """The row in one line of JSON; NaN, Infinity and integers of up to 4,300 digits are taken, as Python's json does."""
    columns: dict[str, Any] = {}
    error: str | None = None
    code = ErrorCode.INVALID_JSON
    try:
        value = json.loads(line.decode("utf-8"))
        if _may_be_too_deep(line) and is_too_deep(value):
            error, code = TOO_DEEP, ErrorCode.ROW_TOO_LARGE
        elif isinstance(value, dict):
            columns, error = _without_surrogates(value, line)
            code = ErrorCode.INVALID_ENCODING
        else:
            error, code = f"a {_json_type(value)}, not an object with a prompt", ErrorCode.INVALID_TYPE
    except UnicodeDecodeError as problem:
        error, code = f"invalid UTF-8 at byte {problem.start + 1}", ErrorCode.INVALID_ENCODING
    except json.JSONDecodeError as problem:
        error = f"invalid JSON: {problem.msg} at column {problem.pos + 1}"
    except ValueError as problem:  # an integer of over 4,300 digits
        error = f"invalid JSON: {str(problem).split(';')[0]}"
    except RecursionError:
        error, code = TOO_DEEP, ErrorCode.ROW_TOO_LARGE
    if error is None:
        return InputRow(index, columns, line_number, num_bytes=len(line))
    return InputRow(index, columns, line_number, f"line {line_number}: {error}", num_bytes=len(line), error_code=code)


def _may_be_too_deep(line: bytes) -> bool:
    return line.count(b"[") + line.count(b"{") > MAX_DEPTH


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
