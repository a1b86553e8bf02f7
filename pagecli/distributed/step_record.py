"""A step on its way to the ranks: a header, then the arrays that a forward pass takes, in one run of bytes.

    magic, crc32 of all that follows      8 bytes
    number of the step, kind              8 + 4 bytes
    tokens, sequences, blocks of the longest table, rows wanted, block moves      4 bytes each
    bytes, tokens again if any has a LoRA adapter, else 0      4 bytes each
    moves[M, 3] int32 (kind, source, target), slot_ids[T], logit_rows[R] int64,
    token_ids[T], positions[T], block_tables[S, B], context_lens[S], query_start[S + 1], adapter_ids[T or 0] int32

Block moves and tables are the KV manager's instructions about physical memory, the same numbers on every rank.
"""

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.step_plan import BlockMove, MoveKind
from pagecli.devices.base import StepInputs

MAGIC = 0x50435354
_HEADER = struct.Struct("<IIQIIIIIIII")  # 48 bytes: what follows is aligned
_CHECKED_FROM = 8
_MOVE_KINDS = tuple(MoveKind)


class Wanted(IntEnum):
    """Of the rows whose next tokens are wanted."""

    TOKENS = 0  # each rank's likeliest token and its logit
    LOGITS = 1


class DamagedRecordError(RuntimeError):
    """Bytes that are not the record that was written."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step, as ranks run it."""

    number: int
    wanted: Wanted
    moves: list[BlockMove]
    inputs: StepInputs[Array]


def record_bytes(max_tokens: int, max_sequences: int, max_blocks: int, max_moves: int) -> int:
    """Bytes of the largest record."""
    return _HEADER.size + 12 * max_moves + 32 * max_tokens + 4 * max_sequences * (max_blocks + 2) + 64


def pack(record: StepRecord, into: Array) -> int:
    """Writes the record to into[n] (uint8); returns its bytes. Raises ValueError if it has no room."""
    inputs = record.inputs
    moves = np.array(
        [(_MOVE_KINDS.index(move.kind), move.source, move.target) for move in record.moves], dtype=np.int32
    ).reshape(len(record.moves), 3)
    arrays = [inputs.slot_ids, inputs.logit_rows, moves, inputs.token_ids, inputs.positions]
    arrays += [inputs.block_tables, inputs.context_lens, inputs.query_start]
    num_adapted = 0
    if inputs.adapter_ids is not None:
        arrays.append(inputs.adapter_ids)
        num_adapted = len(inputs.adapter_ids)
    end = _HEADER.size
    for array in arrays:
        if end + array.nbytes > len(into):
            raise ValueError("the step's record is larger than its room")
        into[end : end + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        end += array.nbytes
    sizes = len(inputs.token_ids), *inputs.block_tables.shape, len(inputs.logit_rows), len(moves)
    header = bytearray(_HEADER.pack(MAGIC, 0, record.number, record.wanted, *sizes, end, num_adapted))
    checked = zlib.crc32(into[_HEADER.size : end].data, zlib.crc32(header[_CHECKED_FROM:]))
    struct.pack_into("<I", header, 4, checked)
    into[: _HEADER.size] = np.frombuffer(header, np.uint8)
    return end


def unpack(data: Array) -> StepRecord:
    """The record in data[n] (uint8); its arrays are views. Raises DamagedRecordError."""
    magic, checked, number, wanted, *sizes, end, num_adapted = _HEADER.unpack(data[: _HEADER.size].tobytes())
    tokens, sequences, blocks, rows, num_moves = sizes
    if magic != MAGIC or not _HEADER.size <= end <= len(data):
        raise DamagedRecordError("no step record")
    if zlib.crc32(data[_HEADER.size : end].data, zlib.crc32(data[_CHECKED_FROM : _HEADER.size].data)) != checked:
        raise DamagedRecordError(f"step {number} came damaged")
    start = _HEADER.size

    def take(dtype: type, *shape: int) -> Array:
        nonlocal start
        begin, start = start, start + int(np.prod(shape)) * np.dtype(dtype).itemsize
        return data[begin:start].view(dtype).reshape(shape)

    slot_ids, logit_rows = take(np.int64, tokens), take(np.int64, rows)
    moves = [BlockMove(_MOVE_KINDS[kind], source, target) for kind, source, target in take(np.int32, num_moves, 3).tolist()]
    inputs = StepInputs(
        token_ids=take(np.int32, tokens),
        positions=take(np.int32, tokens),
        slot_ids=slot_ids,
        block_tables=take(np.int32, sequences, blocks),
        context_lens=take(np.int32, sequences),
        query_start=take(np.int32, sequences + 1),
        logit_rows=logit_rows,
        adapter_ids=take(np.int32, num_adapted) if num_adapted else None,
    )
    return StepRecord(number, Wanted(wanted), moves, inputs)
