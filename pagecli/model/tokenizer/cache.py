"""Cached copies of tokenizers, one file each, so that a start needs no transformers. On any error there is no copy.

A file is a line of JSON, which says what it is and what the rest hashes to, and the rest. Files of other users are not read.
"""

import contextlib
import hashlib
import json
import os
import stat
import time
from pathlib import Path

from pagecli.model.tokenizer.cache_key import FORMAT

MAX_FILES = 32
_MAX_BYTES = 256 << 20
_STALE_SECONDS = 3600.0  # an unfinished file this old has no writer any more
_SUFFIX, _UNFINISHED = ".json", ".tmp"


def cache_folder() -> Path | None:
    """The folder: under $PAGECLI_CACHE_DIR, else $XDG_CACHE_HOME/pagecli, else ~/.cache/pagecli. None: nothing is kept."""
    named = os.environ.get("PAGECLI_CACHE_DIR")
    if named is not None and not named.strip():
        return None
    try:
        if named is not None:
            return Path(named).expanduser() / "tokenizers"
        caches = os.environ.get("XDG_CACHE_HOME", "")
        home = Path(caches) if os.path.isabs(caches) else Path.home() / ".cache"
        return home / "pagecli" / "tokenizers"
    except RuntimeError:  # no home directory
        return None


def make_folder(folder: Path) -> bool:
    """Make it, for this user alone, if it is missing. Whether files can be written there."""
    try:
        for each in (folder.parent.parent, folder.parent, folder):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def read(folder: Path, name: str) -> bytes | None:
    """What was written under that name, marked as used just now; None if there is nothing, or it is damaged or another's."""
    try:
        # Not through a link; and not waiting for the writer of a pipe.
        descriptor = os.open(folder / (name + _SUFFIX), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not _is_own(os.fstat(descriptor)):
            return None
        with open(descriptor, "rb", closefd=False) as file:
            content = _checked(file.read(), name)
        if content is not None:
            with contextlib.suppress(OSError):
                os.utime(descriptor)
        return content
    except OSError:
        return None
    finally:
        os.close(descriptor)


def write(folder: Path, name: str, content: bytes) -> None:
    """Keep `content` under that name, for the next start; the copies used longest ago go when there are more than MAX_FILES."""
    import tempfile

    if len(content) > _MAX_BYTES:
        return
    head = {"pagecli_tokenizer": FORMAT, "name": name, "sha256": hashlib.sha256(content).hexdigest()}
    try:
        descriptor, unfinished = tempfile.mkstemp(prefix=".", suffix=_UNFINISHED, dir=folder)  # readable by this user alone
        try:
            with open(descriptor, "wb") as file:
                file.write(json.dumps(head).encode() + b"\n")
                file.write(content)
            os.replace(unfinished, folder / (name + _SUFFIX))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(unfinished)
            raise
        _tidy(folder)
    except OSError:
        return


def _is_own(status: os.stat_result) -> bool:
    """Whether it is a regular file of this user that no other user can write."""
    mode = status.st_mode
    return stat.S_ISREG(mode) and status.st_uid == os.geteuid() and not mode & 0o022 and status.st_size <= 2 * _MAX_BYTES


def _checked(file: bytes, name: str) -> bytes | None:
    head, _, content = file.partition(b"\n")
    try:
        said = json.loads(head)
    except ValueError:
        return None
    expected = {"pagecli_tokenizer": FORMAT, "name": name, "sha256": hashlib.sha256(content).hexdigest()}
    return content if said == expected else None


def _tidy(folder: Path) -> None:
    kept = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process removed it first
            changed = path.lstat().st_mtime
            if path.name.endswith(_SUFFIX):
                kept.append((changed, path))
            elif path.name.endswith(_UNFINISHED) and changed < time.time() - _STALE_SECONDS:
                path.unlink()
    for _, path in sorted(kept, reverse=True)[MAX_FILES:]:
        with contextlib.suppress(OSError):
            path.unlink()
