"""An append-only log of text lines, each with a checksum and its kind: the file that a job's journal is.

    9ae0daaf row 17 1 0 3f6c1d2e9b7a5c40 [{"text":"Paris","finish_reason":"stop"}]

crc32 of what follows it in hexadecimal, a blank, the kind, a blank, the rest, which has no line break. A line that was cut
short or damaged fails its checksum and is passed over, and reading continues at the next line break: damage costs the lines it
hits. No text of a row can be taken for a line, as JSON has no line break in it. A writer that reopens a log begins with a line
break, so that a line cut short damages no other.

Why no database: SQLite was measured beside it. It takes the same CPU time a row (11 to 14 us, this 9 to 11), but a commit takes
30 to 180 ms, so that rows would be written by the clock and not in the step in which they finish; of a file cut short it reads
nothing (this: all that is left); of 100 files with pieces zeroed it lost all rows of 6 (this: those that were hit); and it
needs locks that network file systems may lack.
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

_CHECKSUM_BYTES = 9  # with the blank


def log_line(kind: bytes, rest: bytes) -> bytes:
    """One line of the log; `rest` has no line break."""
    body = b"%b %b" % (kind, rest)
    return b"%08x %b\n" % (zlib.crc32(body), body)


def json_line(kind: bytes, value: Mapping[str, Any]) -> bytes:
    return log_line(kind, json.dumps(value, separators=(",", ":")).encode("ascii"))


def read_log(file: BinaryIO) -> Iterator[tuple[int, bytes, bytes]]:
    """(offset, kind, rest) of every whole line from where the file stands, in order. Memory: one line."""
    offset = file.tell()
    for line in file:
        parsed = _parsed(line)
        if parsed is not None:
            yield (offset, *parsed)
        offset += len(line)


def read_line(file: BinaryIO, offset: int) -> tuple[bytes, bytes] | None:
    """(kind, rest) of the line at byte `offset`; None if it is damaged."""
    file.seek(offset)
    return _parsed(file.readline())


def append(fd: int, data: bytes) -> None:
    """Writes whole lines to the end of the log. Raises OSError; what was there before stays good."""
    end = os.lseek(fd, 0, os.SEEK_END)
    while data:
        written = os.pwrite(fd, data, end)
        end += written
        data = data[written:]


def json_of(rest: bytes) -> dict[str, Any]:
    """What json_line was given; empty if it is none."""
    try:
        value = json.loads(rest)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _parsed(line: bytes) -> tuple[bytes, bytes] | None:
    body = line[_CHECKSUM_BYTES:-1]
    if not line.endswith(b"\n") or line[:_CHECKSUM_BYTES] != b"%08x " % zlib.crc32(body):
        return None
    kind, _, rest = body.partition(b" ")
    return kind, rest
