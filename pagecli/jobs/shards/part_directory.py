"""The parts of a job that any number of processes share (--shard auto/N): a hidden directory beside the output.

    .out.jsonl.pagecli-parts/
        job.json              how many parts, the job's key, the time that chat templates see: the first process writes it
        part-03-of-64.jsonl   a part that is complete; while it runs, its lock and journal lie beside it (job_directory.py)
        part-03-of-64.errors  that part has error rows
        merging               from here on an output that exists may be this job's
        merged.json           the output is complete: its size, the job's exit code; the parts are gone

No process is in charge. A part belongs to whoever holds its lock, which ends with its process (job_lock.py: on another host
60 s after its last sign of life), and resumes from its journal. What stays behind, job.json and merged.json, tells processes
that start late that there is nothing left to do.
"""

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pagecli.core.json_text import parsed
from pagecli.errors import ExitCode, InputError, UsageError
from pagecli.jobs.journal.job_differences import key_difference
from pagecli.jobs.journal.job_lock import OutputLocked
from pagecli.jobs.journal.locked_output import lock_output
from pagecli.jobs.shards.merge import Merged, merge_outputs
from pagecli.jobs.storage.atomic_file import check_output, create_temporary, not_writable, publish, remove, write_atomically
from pagecli.jobs.storage.job_directory import job_directory_path
from pagecli.jobs.storage.records import check_fields, read_record
from pagecli.jobs.writers.open_output import suffix_of
from pagecli.jobs.writers.parquet import Compression

SUFFIX = ".pagecli-parts"
MAX_PARTS = 999_999  # as --shard auto/N takes
JOB, MERGING, MERGED = "job.json", "merging", "merged.json"


@dataclass(frozen=True, slots=True)
class PartsJob:
    """What all parts of a job have in common."""

    count: int
    key: str  # job_identity.job_key
    time: str  # ISO

    def __post_init__(self) -> None:
        check_fields(self)
        datetime.fromisoformat(self.time)
        if not 1 <= self.count <= MAX_PARTS:
            raise ValueError(f"{self.count} parts")


@dataclass(frozen=True, slots=True)
class MergedRecord:
    """An output that was put together: `size` in bytes, by which it is known again."""

    key: str
    size: int
    num_rows: int
    exit_code: int

    def __post_init__(self) -> None:
        check_fields(self)


class PartFiles:
    """Where the parts of the job that writes `output` are."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = job_directory_path(output, SUFFIX)

    def part(self, number: int, count: int) -> Path:
        """The output of part `number`, from 1, of `count`."""
        return self.path / f"{part_stem(number, count)}{suffix_of(self.output.name)}"

    def read(self, name: str, kind: Callable[..., Any]) -> Any:
        """A record of the directory; None if it has none. Raises InputError for a damaged one."""
        try:
            return kind(**parsed(read_record(self.path / name)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{self.path / name} cannot be read", f"remove {self.path} to begin anew") from error


def part_stem(number: int, count: int) -> str:
    """The name of a part's files, but for what they end in."""
    return f"part-{number:0{len(str(count))}}-of-{count}"


class PartDirectory:
    """The parts of the job that writes `output`, `count` of them. Raises InputError, UsageError."""

    def __init__(self, output: Path, count: int) -> None:
        self._files = PartFiles(output)
        self.output, self.path, self.count = output, self._files.path, count
        try:
            with contextlib.suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            found = os.stat(self.path, follow_symlinks=False)
        except OSError as error:
            raise not_writable(self.path, error) from error
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise UsageError(f"{self.path} is not this user's own plain directory", "remove it")

    def part(self, number: int) -> Path:
        """The output of part `number`, from 1."""
        return self._files.part(number, self.count)

    def agree(self, time: datetime, key_at: Callable[[datetime], str], overwrite: bool) -> datetime:
        """The time of all parts: that of the first process to get here. `key_at`: the job's key at a time.

        Raises UsageError where the parts are of another job, one aside that is complete and may be overwritten; OutputLocked.
        """
        self._forget(lambda record: record is None)  # the output has been removed since
        found = self._files.read(JOB, PartsJob)
        if found is not None and overwrite and found.key != key_at(datetime.fromisoformat(found.time)):
            self._forget(lambda record: record is not None and record.key == found.key)
            found = self._files.read(JOB, PartsJob)
        if found is None:
            self._write_once(PartsJob(self.count, key_at(time), time.isoformat(timespec="seconds")))
            found = self._files.read(JOB, PartsJob)
        if found is None:
            raise UsageError(f"{self.path / JOB} cannot be read", f"remove {self.path} to begin anew")
        remedy = f"run it as it was begun to go on, or remove {self.path} to begin anew"
        if found.count != self.count:
            raise UsageError(f"{self.output} was begun in {found.count} parts, now {self.count}", remedy)
        agreed = datetime.fromisoformat(found.time)
        key = key_at(agreed)
        if key != found.key:
            raise UsageError(f"{self.output} was begun by another job: {key_difference(found.key, key)[0]}", remedy)
        return agreed

    def next_part(self) -> int | None:
        """The lowest part that is neither complete nor locked now; None if there is none."""
        return next((number for number in range(1, self.count + 1) if self._is_open(number)), None)

    def is_part_complete(self, number: int) -> bool:
        return os.path.lexists(self.part(number))

    @property
    def num_complete(self) -> int:
        return sum(map(self.is_part_complete, range(1, self.count + 1)))

    def note_errors(self, number: int) -> None:
        self._touch(f"{part_stem(number, self.count)}.errors")

    def check_output_is_free(self, overwrite: bool) -> None:
        """Raises UsageError if the output exists and was not made by this job's parts, InputError."""
        if not os.path.lexists(self.path / MERGING) and self.merged() is None:
            check_output(self.output, overwrite)

    def merged(self) -> MergedRecord | None:
        """The record of the output that the parts were put together in, if it is there."""
        record = self._files.read(MERGED, MergedRecord)
        try:
            is_there = record is not None and os.stat(self.output).st_size == record.size
        except OSError:
            is_there = False
        return record if is_there else None

    def _forget(self, condition: Callable[[MergedRecord | None], bool]) -> None:
        """Begins anew if the parts were put together before and the record of it meets the condition. Raises OutputLocked."""
        if not os.path.lexists(self.path / MERGED) or not condition(self.merged()):
            return
        with contextlib.closing(lock_output(self.output)):  # type: ignore[type-var]
            if condition(self.merged()):
                for name in (JOB, MERGING, MERGED):
                    remove(self.path / name)

    def merge(self, overwrite: bool, compression: Compression) -> Merged | None:
        """Puts the parts together, which are all complete; None if another process has done so.

        Raises OutputLocked while another does, UsageError, InputError.
        """
        with contextlib.closing(lock_output(self.output)):  # type: ignore[type-var]
            job = self._files.read(JOB, PartsJob)
            if self.merged() is not None or job is None:
                return None
            begun = os.path.lexists(self.path / MERGING)
            if not begun:
                check_output(self.output, overwrite)
                self._touch(MERGING)
            parts = [str(self.part(number)) for number in range(1, self.count + 1)]
            merged = merge_outputs(parts, str(self.output), overwrite or begun, compression)
            code = ExitCode.ROWS if any(self.path.glob("*.errors")) else ExitCode.OK
            record = MergedRecord(job.key, os.stat(self.output).st_size, merged.num_rows, int(code))
            write_atomically(self.path / MERGED, json.dumps(asdict(record)).encode())
            self._remove_parts()
            return merged

    def _remove_parts(self) -> None:
        for path in sorted(self.path.iterdir()):
            if path.is_dir():  # the journal of a part whose process was killed when it was complete
                shutil.rmtree(path, ignore_errors=True)
            elif path.name not in (JOB, MERGED):
                remove(path)

    def _is_open(self, number: int) -> bool:
        part = self.part(number)
        if os.path.lexists(part):
            return False
        try:
            locked = lock_output(part, create=False)
        except OutputLocked:
            return False
        if locked is not None:
            locked.close()
        return True

    def _touch(self, name: str) -> None:
        try:
            (self.path / name).touch()
        except OSError as error:
            raise not_writable(self.path / name, error) from error

    def _write_once(self, job: PartsJob) -> None:
        """Another process may do so at the same time: the first one counts."""
        temporary, file = create_temporary(self.path / JOB)
        try:
            with file:
                file.write(json.dumps(asdict(job)).encode())
            with contextlib.suppress(UsageError):
                publish(temporary, self.path / JOB, overwrite=False)
        except OSError as error:
            raise not_writable(self.path / JOB, error) from error
        finally:
            remove(temporary)
