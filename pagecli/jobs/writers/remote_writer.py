"""An output that is a URL: written in the state directory of this machine, uploaded when it is complete."""

from pathlib import Path
from typing import Any

from pagecli.core import file_targets
from pagecli.errors import PagecliError, UsageError
from pagecli.jobs.rows.row import OutputRow
from pagecli.jobs.storage import remote_files
from pagecli.jobs.storage.atomic_file import not_writable, remove


def check_remote_output(path: str, overwrite: bool) -> None:
    """Finds out before the model loads whether the store can be reached and the name is free. Raises UsageError, InputError."""
    if remote_files.exists(path) and not overwrite:
        raise UsageError(f"{file_targets.shown(path)} already exists", "give another name, or --overwrite to replace it")
    local_path = file_targets.local_output_path(path)
    try:
        local_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise not_writable(local_path, error) from error


class RemoteRowWriter:
    """A writer to `local_path`, uploaded to `url` in finish(). If the upload fails, the complete file stays where it is."""

    def __init__(self, writer: Any, local_path: Path, url: str, overwrite: bool) -> None:
        self._writer = writer
        self._local_path = local_path
        self._url = url
        self._overwrite = overwrite
        self._is_complete = False
        self.num_rows = 0

    def write(self, row: OutputRow) -> None:
        self._writer.write(row)
        self.num_rows += 1

    def finish(self) -> None:
        self._writer.finish()
        self._is_complete = True
        try:
            remote_files.upload(self._local_path, self._url, self._overwrite)
        except PagecliError as error:
            hint = f"the complete output is kept in {self._local_path}"
            raise type(error)(error.message, f"{error.hint}; {hint}" if error.hint else hint) from error
        remove(self._local_path)

    def keep_partial(self) -> Path | None:
        """After a failed upload: the complete file, which is no part."""
        return self._local_path if self._is_complete else self._writer.keep_partial()

    def discard(self) -> None:
        if not self._is_complete:
            self._writer.discard()
