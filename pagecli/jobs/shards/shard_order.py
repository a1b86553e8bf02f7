"""Whether the parts of a job are all there, of one job, and their rows in order without a gap and each once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagecli.errors import InputError
from pagecli.jobs.journal.job_differences import key_difference

NO_PART = "give outputs of pagecli generate --shard I/N"


@dataclass(frozen=True, slots=True)
class ShardLabel:
    """The label of a shard's row (shard_labels.py)."""

    number: int
    count: int
    row: int  # the input row's position among those of all parts, from 0
    line: int  # the output row's position in its part, from 0
    job: str
    rows: int | None = None  # of the last one in JSON Lines and CSV: input rows of all parts
    crc: int | None = None  # of the row, there

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "ShardLabel":
        """Raises TypeError, AttributeError for what is no label."""
        found: dict[str, Any] = {name: values.get(name) for name in ("number", "count", "row", "line", "job", "rows", "crc")}
        label = cls(**found)
        numbers = (label.number, label.count, label.row, label.line, *(n for n in (label.rows, label.crc) if n is not None))
        if not all(type(value) is int for value in numbers) or not isinstance(label.job, str):
            raise TypeError
        return label

    def check_row(self, location: str, crc: int) -> None:
        """That the row is the one that was labelled. Raises InputError."""
        if self.crc is not None and self.crc != crc:
            raise InputError(f"{location} is not as it was written", "run the part again, then merge")


class PartOrder:
    """Takes the labels of one part's rows as they are read. Raises InputError."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.first: ShardLabel | None = None
        self.last: ShardLabel | None = None

    def next(self, now: ShardLabel) -> None:
        before = self.last
        if self.first is None:
            self.first = now
        elif before is not None and (before.number, before.count, before.job) != (now.number, now.count, now.job):
            raise InputError(
                f"{self.path} has rows of parts {before.number}/{before.count} and {now.number}/{now.count}, or of two jobs",
                "merge one run's parts",
            )
        line = -1 if before is None else before.line
        if now.line <= line or (before is not None and now.row < before.row):
            raise InputError(f"{self.path} has line {now.line + 1} twice, or out of order", "run the part again, then merge")
        if now.line > line + 1:
            raise InputError(f"{self.path} lacks line {line + 2}", "a part is not as it was written: run it again, then merge")
        self.last = now

    def check_end(self) -> None:
        """That nothing is cut off at the end, of a part in JSON Lines that has any row."""
        if self.last is not None and self.last.rows is None:
            raise InputError(f"{self.path} ends before its last row", "it was cut short: run the part again, then merge")


class ShardOrder:
    """Takes the positions of rows as they are written; several rows may have one position (samples)."""

    def __init__(self) -> None:
        self.last = -1

    def next(self, row: int) -> None:
        """Raises InputError if rows are missing before `row`."""
        if row > self.last + 1:
            raise missing_row(self.last + 1)
        self.last = row

    def check_end(self, parts: list[PartOrder]) -> None:
        """That all input rows are there. Raises InputError."""
        totals = {part.last.rows: part.path for part in parts if part.last is not None and part.last.rows is not None}
        if len(totals) > 1:
            (one, path), (other, other_path) = list(totals.items())[:2]
            raise InputError(f"{path} is of {one:,} rows, {other_path} of {other:,}", "run all parts on one input")
        if any(self.last + 1 < total for total in totals):
            raise missing_row(self.last + 1)


def missing_row(row: int) -> InputError:
    return InputError(f"row {row} of the whole is missing", "a part is not complete: run it again, then merge")


def check_parts(parts: list[PartOrder]) -> None:
    """That all parts of one job are there, each once, by their first rows. Raises InputError."""
    labelled = [(part.path, part.first) for part in parts if part.first is not None]
    paths: dict[int, str] = {}
    for path, label in labelled:
        first_path, first = labelled[0]
        if label.count != first.count:
            raise InputError(
                f"{first_path} is one of {first.count} parts, {path} one of {label.count}", "merge the parts of one job"
            )
        if label.job != first.job:
            what, hint = key_difference(first.job, label.job)
            raise InputError(f"{first_path} and {path} are parts of different jobs: {what}", hint)
        if not 1 <= label.number <= label.count:
            raise InputError(f"{path} is part {label.number}/{label.count}", NO_PART)
        if label.number in paths:
            raise InputError(
                f"{paths[label.number]} and {path} are both part {label.number}/{label.count}", "leave one of them out"
            )
        paths[label.number] = path
    if labelled:
        _check_number(labelled[0][1].count, set(paths), len(parts))


def _check_number(count: int, found: set[int], num_files: int) -> None:
    """Parts that have no row bear no number."""
    missing = [number for number in range(1, count + 1) if number not in found]
    if len(missing) > num_files - len(found):
        shown = ", ".join(f"{number}/{count}" for number in missing[:8]) + (", ..." if len(missing) > 8 else "")
        raise InputError(f"parts are missing: {shown}", "name all of them")
    if num_files > count:
        raise InputError(f"{num_files} files are given, but there are {count} parts", "leave out what is none")
