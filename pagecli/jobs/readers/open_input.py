"""Opens an input by its name's end: JSON Lines, CSV (each plain, gzip or zstd), Parquet; a stream; or several files.

The first rows are read before the model is loaded, to check that they have a prompt in the column that the flags name.
"""

import glob
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pagecli.core import file_targets
from pagecli.errors import InputError
from pagecli.jobs.readers.jsonl_reader import JsonlSource
from pagecli.jobs.readers.text_input import MAX_ROW_BYTES
from pagecli.jobs.rows.row import InputRow, InputSource, RowEstimate

MAX_ROWS, MAX_BYTES = 100, 8 << 20  # looked at, if none of them has a prompt
SHOWN_COLUMNS = 12


class CheckedPrompts:
    """A source whose rows are to have one of the columns `names`, or `all_of` them. Raises InputError if neither the header
    nor a first row has.

    A file is looked at when it is opened; a stream, which may begin late, when its rows are taken. Rows that cannot be read and
    those of batch files say themselves what is wrong.
    """

    def __init__(self, source: InputSource, names: tuple[str, ...], is_stream: bool, all_of: bool = False) -> None:
        self._source = source
        self._names = names
        self._enough = all if all_of else any
        self.name = source.name
        self.schema = source.schema
        self.column_names = source.column_names
        self._rows: Iterator[InputRow] = iter(source)
        self._seen: deque[InputRow] = deque()
        if source.column_names is not None:
            self._check(source.column_names)
        elif not is_stream:
            self._read_first()

    def _read_first(self) -> None:
        """Reads until a row has what its prompt needs."""
        columns: dict[str, None] = {}
        num_bytes = 0
        for row in itertools.islice(self._rows, MAX_ROWS):
            self._seen.append(row)
            if row.batch_url is not None or (row.error is None and self._enough(name in row.columns for name in self._names)):
                return
            columns.update(dict.fromkeys(row.columns))
            num_bytes += row.num_bytes
            if num_bytes > MAX_BYTES:
                break
        if any(row.error is None for row in self._seen):
            self._check(list(columns))

    def _check(self, found: list[str]) -> None:
        if not self._enough(name in found for name in self._names):
            missing = [name for name in self._names if name not in found]
            near = get_close_matches(missing[0], found, n=1) if self._enough is all or len(missing) == 1 else []
            more = ", ..." if len(found) > SHOWN_COLUMNS else ""
            shown = ", ".join(found[:SHOWN_COLUMNS]) + more if found else "no columns"
            hint = "--template needs it; write {{ name | default('...') }} where it may be missing"
            if self._enough is any:
                hint = f"name the column of the prompts with --prompt-column{_made_of(found)}"
            hint = f"did you mean {near[0]}? {hint}" if near else hint
            if self.column_names is not None and len(found) == 1 and (mark := next(filter(found[0].__contains__, ";|\t,"), "")):
                hint = f"its columns seem to have {mark!r} between them: write them with commas in .csv, with tabs in .tsv"
            raise InputError(f"{self.name} has no column {', '.join(missing)}; it has {shown}", hint)

    def __iter__(self) -> Iterator[InputRow]:
        if self.column_names is None and not self._seen:
            self._read_first()
        while self._seen:
            yield self._seen.popleft()
        yield from self._rows

    def estimate(self) -> RowEstimate | None:
        return self._source.estimate()

    def check_unchanged(self) -> None:
        self._source.check_unchanged()

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        self._source.close()


def _made_of(found: list[str]) -> str:
    """How prompts are made of columns, by one of these."""
    if not found:
        return ""
    import shlex  # which no row needs

    column = found[0] if found[0].isidentifier() else f"row[{found[0]!r}]"
    return f", or make them of columns, as with --template {shlex.quote(f'Summarize: {{{{ {column} }}}}')}"


InputFormat = Literal["auto", "jsonl", "openai-batch", "csv", "parquet"]
TEXT_COMPRESSIONS = ("", ".gz", ".zst")
JSONL_SUFFIXES = tuple(f"{kind}{packed}" for kind in (".jsonl", ".ndjson", ".json") for packed in TEXT_COMPRESSIONS)
CSV_SUFFIXES = tuple(f"{kind}{packed}" for kind in (".csv", ".tsv") for packed in TEXT_COMPRESSIONS)
PARQUET_SUFFIXES = (".parquet", ".pq")
NAMES = ".jsonl, .csv, .tsv (each also .gz or .zst) or .parquet"


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How rows are read. `warn` is called once for each key of a batch file's requests that is ignored."""

    input_format: InputFormat = "auto"
    max_row_bytes: int = MAX_ROW_BYTES
    warn: Callable[[str], None] = lambda text: None


def is_several(path: str) -> bool:
    """Whether the path is a directory, or a pattern that is not itself the name of a file."""
    if file_targets.is_remote(path):
        return path.endswith("/") or any(char in path for char in "*?[")
    return os.path.isdir(path) or (any(char in path for char in "*?[") and not os.path.lexists(path))


def files_of(path: str, suffixes: tuple[str, ...]) -> list[str]:
    """The files below a directory (those that begin with . or _ left out), or that match; sorted. Raises InputError."""
    if file_targets.is_remote(path):
        from pagecli.jobs.storage import remote_files

        files = [file for file in remote_files.matching(path, suffixes) if not _is_hidden(file.rpartition("/")[2])]
    elif os.path.isdir(path):
        below = [found for found in Path(path).rglob("*") if not any(map(_is_hidden, found.relative_to(path).parts))]
        files = sorted(str(found) for found in below if found.name.lower().endswith(suffixes) and found.is_file())
    else:
        files = sorted(found for found in glob.glob(path, recursive=True) if os.path.isfile(found))
    if not files:
        raise InputError(f"{file_targets.shown(path)}: no file found", f"inputs end in {', '.join(suffixes)}")
    return files


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def open_input(path: str, limit: int | None = None, options: ReadOptions = ReadOptions()) -> InputSource:
    """Opens `path` (`-`: standard input, JSON Lines unless told) for one pass over `limit` rows. Raises InputError."""
    input_format = options.input_format
    path = file_targets.local(path)
    if not file_targets.is_remote(path) and file_targets.is_stream(path):
        if input_format == "parquet":
            raise InputError("Parquet cannot be read from a pipe", "name a file")
        return _open_one(path, limit, "jsonl" if input_format == "auto" else input_format, options)
    if not is_several(path):
        return _open_one(path, limit, input_format, options)
    kind = input_format
    suffixes = PARQUET_SUFFIXES + JSONL_SUFFIXES + CSV_SUFFIXES if kind == "auto" else _suffixes(kind)
    paths = files_of(path, suffixes)
    kinds = {format_of(file) if kind == "auto" else kind for file in paths}
    if len(kinds) > 1:
        found = ", ".join(sorted(kinds))
        raise InputError(
            f"{file_targets.shown(path)} has files of more than one format: {found}", "give a pattern: 'DIR/*.jsonl'"
        )
    from pagecli.jobs.readers.multi_file_reader import MultiFileSource, MultiParquetSource

    if kinds == {"parquet"}:
        return MultiParquetSource(path, paths, limit, options.max_row_bytes)
    return MultiFileSource(path, paths, lambda file, rest: _open_one(file, rest, kind, options), limit)


def input_files(path: str) -> list[str]:
    """The local files that an input consists of; none for streams and URLs. Raises InputError."""
    path = file_targets.local(path)
    if file_targets.is_remote(path) or file_targets.is_stream(path):
        return []
    return files_of(path, PARQUET_SUFFIXES + JSONL_SUFFIXES + CSV_SUFFIXES) if is_several(path) else [path]


def format_of(path: str) -> InputFormat:
    """By the name's end. Raises InputError for one that is unknown."""
    name = path.lower()
    kinds: tuple[InputFormat, ...] = ("parquet", "jsonl", "csv")
    for kind in kinds:
        if name.endswith(_suffixes(kind)):
            return kind
    if not file_targets.is_remote(path) and not os.path.exists(path):
        raise InputError(f"{path}: no such file", "check the path; - reads JSON Lines from standard input")
    raise InputError(
        f"{file_targets.shown(path)}: unknown input format", f"inputs end in {NAMES}, or name it by --input-format"
    )


def _suffixes(kind: InputFormat) -> tuple[str, ...]:
    return {"parquet": PARQUET_SUFFIXES, "csv": CSV_SUFFIXES}.get(kind, JSONL_SUFFIXES)


def _open_one(path: str, limit: int | None, kind: InputFormat, options: ReadOptions) -> InputSource:
    if kind == "auto":
        kind = format_of(path)
    if kind == "parquet":
        from pagecli.jobs.readers.parquet_reader import ParquetSource

        return ParquetSource(path, limit, max_row_bytes=options.max_row_bytes)
    if kind == "csv":
        from pagecli.jobs.readers.csv_reader import CsvSource

        return CsvSource(path, limit, options.max_row_bytes)
    is_batch = None if options.input_format == "auto" else options.input_format == "openai-batch"
    return JsonlSource(path, limit, is_batch, options.max_row_bytes, options.warn)
