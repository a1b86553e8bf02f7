"""The digests of whole weights files, for the identity of a job that is old enough that losing it would hurt."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pagecli.jobs.journal.job_identity import content_digest, rewritten


class ContentDigests:
    """Computes the digests of weights files in a thread; `noted` gets the entries with them, once, in it."""

    def __init__(self, entries: list[dict[str, Any]], paths: list[Path], noted: Callable[[list[dict[str, Any]]], None]) -> None:
        self._entries = entries
        self._paths = paths
        self._noted = noted
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pagecli-digests", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            noted = []
            for entry, path in zip(self._entries, self._paths, strict=True):
                content = content_digest(path, self._ending.is_set)
                noted.append({**entry, "content": content})
            if rewritten(self._entries, self._paths) is None:  # still the files that were loaded
                self._noted(noted)
        except OSError:  # of a file, or stopped: the job continues without them
            return
