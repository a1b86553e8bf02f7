"""The journal of finished rows: what a job that was killed, in whatever way, takes over when it is run again.

Why it is made so. A record holds what the engine made of an input row, not the row: on resuming, the input is read again and
the ordinary writer writes everything anew, rows that are in the journal without being computed. So every format of output can
be resumed, none of the writers knows of it, and what comes out is the same to the byte as without interruption. Rows cost two
writes, but the second one is only the text: the input's columns are never copied here.

`rows` is a sequence of records, appended after each step in one write and synced to the disk once a second by a thread:

    magic 4 | header_crc 4 | payload_len 4 | index 8 | num_rows 2 | num_error_rows 2 | input_digest 8 | checksum 8 | payload

little-endian. `index` is the input row's, from 0; num_rows counts its output rows (samples) and num_error_rows those with an
error; input_digest is of the input row (journal_record.row_digest): a row that has changed is noticed. header_crc is crc32 of
payload_len .. input_digest; checksum is blake2b of all the rest, keyed with the job's own random key (in job.json), so that
no text of a row can be taken for a record. The payload is JSON (see journal_record.py).

A record that is cut short or damaged is left out, its row computed again; reading goes on at the next record that is whole.
If an index comes twice, the first one counts. The directory it lies in is described in job_directory.py; `pagecli status`
and others read a job by read_journal_status (journal_status.py), at any time, without a lock.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

MAGIC = b"pgR\x01"
_FIELDS = struct.Struct("<IQHH8s")  # what header_crc is of
_Fields = tuple[int, int, int, int, bytes]  # payload_len, index, num_rows, num_error_rows, input_digest
HEADER_BYTES = 4 + 4 + _FIELDS.size + 8
DIGEST_BYTES = 8
READ_BYTES = 1 << 20
MAX_INDEX = 1 << 40


@dataclass(frozen=True, slots=True)
class Record:
    """A whole record and where it lies."""

    offset: int
    index: int
    num_rows: int
    num_error_rows: int
    input_digest: bytes
    payload: bytes

    @property
    def end(self) -> int:
        return self.offset + HEADER_BYTES + len(self.payload)


def pack(key: bytes, index: int, num_rows: int, num_error_rows: int, input_digest: bytes, payload: bytes) -> bytes:
    """The bytes of one record."""
    fields = _FIELDS.pack(len(payload), index, num_rows, num_error_rows, input_digest)
    return b"".join((MAGIC, zlib.crc32(fields).to_bytes(4, "little"), fields, _checksum(key, fields, payload), payload))


def scan(fd: int, key: bytes, start: int = 0) -> Iterator[Record]:
    """Every whole record from byte `start` on; whatever is damaged between them is passed over. Memory: one record."""
    buffer, base = bytearray(), start  # buffer[0] is the file's byte `base`
    position, at_end = 0, False
    while True:
        needed = HEADER_BYTES
        if len(buffer) - position >= needed and (fields := _header(buffer, position)) is not None:
            needed += fields[0]
            if len(buffer) - position >= needed:
                record = _whole(buffer, position, base, fields, key)
                if record is not None:
                    yield record
                position = position + needed if record is not None else _next_magic(buffer, position + 1)
                continue
        elif len(buffer) - position >= needed:
            position = _next_magic(buffer, position + 1)
            continue
        if at_end:  # cut short here; a whole record may still follow what only looks like the start of one
            position = _next_magic(buffer, position + 1)
            if len(buffer) - position < HEADER_BYTES:
                return
            continue
        del buffer[:position]
        base, position = base + position, 0
        piece = os.pread(fd, max(READ_BYTES, needed - len(buffer)), base + len(buffer))
        buffer += piece
        at_end = not piece


def _header(buffer: bytes | bytearray, position: int) -> _Fields | None:
    """The fields of the header at `position`, or None if there is none."""
    if not buffer.startswith(MAGIC, position):
        return None
    fields = bytes(buffer[position + 8 : position + 8 + _FIELDS.size])
    if zlib.crc32(fields) != int.from_bytes(buffer[position + 4 : position + 8], "little"):
        return None
    values: _Fields = _FIELDS.unpack(fields)
    return values if values[1] < MAX_INDEX else None


def _whole(buffer: bytearray, position: int, base: int, fields: _Fields, key: bytes) -> Record | None:
    """The record at `position`, all of which is in the buffer, or None if its checksum is wrong."""
    start = position + HEADER_BYTES
    payload = bytes(buffer[start : start + fields[0]])
    checksum = bytes(buffer[start - DIGEST_BYTES : start])
    if _checksum(key, bytes(buffer[position + 8 : start - DIGEST_BYTES]), payload) != checksum:
        return None
    return Record(base + position, fields[1], fields[2], fields[3], fields[4], payload)


def _next_magic(buffer: bytes | bytearray, position: int) -> int:
    """Where the next record may begin: a magic number, or the last bytes, which may be the start of one."""
    found = buffer.find(MAGIC, position)
    return found if found >= 0 else max(position, len(buffer) - len(MAGIC) + 1)


def _checksum(key: bytes, fields: bytes, payload: bytes) -> bytes:
    digest = _keyed_hash(key).copy()
    digest.update(fields)
    digest.update(payload)
    return digest.digest()


@lru_cache(maxsize=4)
def _keyed_hash(key: bytes) -> hashlib.blake2b:
    """With the key taken in already, which takes as long as a short record."""
    return hashlib.blake2b(digest_size=DIGEST_BYTES, key=key)


def read_record(fd: int, key: bytes, offset: int) -> Record | None:
    """The whole record at byte `offset`, or None."""
    buffer = bytearray(os.pread(fd, 4096, offset))
    fields = _header(buffer, 0) if len(buffer) >= HEADER_BYTES else None
    if fields is None:
        return None
    missing = HEADER_BYTES + fields[0] - len(buffer)
    if missing > 0:
        buffer += os.pread(fd, missing, offset + len(buffer))
    return _whole(buffer, 0, offset, fields, key) if len(buffer) >= HEADER_BYTES + fields[0] else None


def scan_headers(fd: int) -> Iterator[tuple[int, int, int]]:
    """(index, num_rows, num_error_rows) of each record, payloads unread and unchecked: for counting."""
    buffer, base, position = b"", 0, 0  # buffer[0] is the file's byte `base`
    while True:
        if len(buffer) - position < HEADER_BYTES:
            base, position = base + position, 0
            buffer = os.pread(fd, READ_BYTES, base)
            if len(buffer) < HEADER_BYTES:
                return
        fields = _header(buffer, position)
        if fields is None:
            position = _next_magic(buffer, position + 1)
            continue
        yield fields[1], fields[2], fields[3]
        position += HEADER_BYTES + fields[0]
