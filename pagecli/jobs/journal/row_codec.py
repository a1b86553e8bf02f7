"""The journal's record of an input row: its output rows as JSON, and a digest of the row itself.

The payload is a list with an object for each output row: its fields by their names in OutputRow, those with their default left
out. Floats come back to the bit, as Python writes the shortest text that reads as the same number.
"""

import dataclasses
import hashlib
import json
import operator
from typing import Any

from pagecli.core.outputs import TokenLogprobs
from pagecli.errors import ErrorCode
from pagecli.jobs.rows.arrow_digest import row_bytes
from pagecli.jobs.rows.arrow_values import ArrowColumns, json_default
from pagecli.jobs.rows.input_row import InputRow
from pagecli.jobs.rows.output_row import OutputRow

_FIELDS = [field for field in dataclasses.fields(OutputRow) if field.name != "row"]
_NAMES, _DEFAULTS = [field.name for field in _FIELDS], [field.default for field in _FIELDS]
_get_fields = operator.attrgetter(*_NAMES)
# Made once: json.dumps makes an encoder for every call that is not a plain one, which takes longer than encoding a short row.
_encode_row = json.JSONEncoder(default=json_default).encode
_encode_outputs = json.JSONEncoder(separators=(",", ":")).encode


def row_digest(row: InputRow) -> bytes:
    """8 bytes that tell an input row from another: of all its columns, and of why it could not be read."""
    columns = row.columns
    if not isinstance(columns, ArrowColumns):
        return hashlib.blake2b(_encode_row([columns, row.error]).encode("ascii"), digest_size=8).digest()
    digest = hashlib.blake2b(f"{row.error}".encode("utf-8", "replace"), digest_size=8)
    for piece in row_bytes(columns.batch, columns.offset):
        digest.update(piece)
    return digest.digest()


def encode(outputs: list[OutputRow], with_token_ids: bool = True) -> bytes:
    """The payload; without token_ids where no column wants them."""
    return _encode_outputs([_as_dict(output, with_token_ids) for output in outputs]).encode("ascii")


def decode(payload: bytes, row: InputRow) -> list[OutputRow] | None:
    """The output rows of `row`; None if another version of pagecli wrote them in a format that this one does not know."""
    try:
        return [OutputRow(row, **_from_dict(values)) for values in json.loads(payload)]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _as_dict(output: OutputRow, with_token_ids: bool) -> dict[str, Any]:
    fields = zip(_NAMES, _get_fields(output), _DEFAULTS, strict=True)
    values = {name: value for name, value, default in fields if value is not default and value != default}
    if not with_token_ids:
        values.pop("token_ids", None)
    if output.logprobs is not None:
        values["logprobs"] = [(token.token_id, token.logprob, token.top) for token in output.logprobs]
    return values


def _from_dict(values: dict[str, Any]) -> dict[str, Any]:
    if "logprobs" in values:
        values["logprobs"] = [
            TokenLogprobs(token_id, logprob, tuple((other, value) for other, value in top))
            for token_id, logprob, top in values["logprobs"]
        ]
    if "error_code" in values:
        values["error_code"] = ErrorCode(values["error_code"])
    return values
