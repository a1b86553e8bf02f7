"""The log of a run: --log-file, as lines or (--log-json) one JSON object each, with time and level and without secrets.

Libraries' own warnings go into it too. A file that is moved away by logrotate is opened anew.
"""

import json
import logging
import logging.handlers
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pagecli
from pagecli.core.file_targets import check_replaceable, is_stream_target, open_stream, resolved_target
from pagecli.errors import InputError, PagecliError
from pagecli.jobs.monitoring.monitor import Event, JobSnapshot, utc_text
from pagecli.jobs.storage.redaction import redact, redact_values

LOGGER = "pagecli"
PROGRESS_SECONDS = 30.0
LOADED = ("load_seconds", "dtype", "cpu_isa", "num_threads", "kv_blocks_total", "kv_block_size")
PROGRESS = ("num_rows", "num_rows_total", "num_error_rows", "output_tokens_per_second", "kv_usage", "eta_seconds")
END = ("prompt_tokens", "output_tokens", "generate_seconds")
LIBRARIES_WITH_HANDLERS = ("transformers", "huggingface_hub")  # they write to stderr themselves and do not propagate


class LineFormatter(logging.Formatter):
    """`2026-11-22T22:16:46.123Z WARNING [4711] message`; what follows the first line is indented."""

    def format(self, record: logging.LogRecord) -> str:
        text = redact(record.getMessage())
        fields = getattr(record, "fields", None)
        if fields:
            text += "".join(f" {name}={_shown(value)}" for name, value in redact_values(fields).items() if value is not None)
        if record.exc_info:
            text += "\n" + redact(self.formatException(record.exc_info))
        source = "" if record.name == LOGGER else f" {record.name}:"
        text = text.replace("\r", " ").rstrip().replace("\n", "\n    ")
        return f"{utc_text(record.created)} {record.levelname} [{record.process}]{source} {text}"


class JsonFormatter(logging.Formatter):
    """`{"time": ..., "level": ..., "pid": ..., "logger": ..., "message": ...}` and the message's fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": utc_text(record.created),
            "level": record.levelname.lower(),
            "pid": record.process,
            "logger": record.name,
            "message": redact(record.getMessage()),
            **redact_values(getattr(record, "fields", {})),
        }
        if record.exc_info:
            line["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


class LogFileHandler(logging.handlers.WatchedFileHandler):
    """A full disk loses lines of the log but does not end the job; reported once."""

    has_failed = False

    def _open(self) -> Any:
        """A link is followed to its file, a pipe is opened only if it has a reader, and nothing else than a file or stream."""
        path = Path(self.baseFilename)
        if is_stream_target(path):
            return os.fdopen(open_stream(path), "w", encoding=self.encoding, errors=self.errors)
        path = resolved_target(path)
        check_replaceable(path)
        return open(path, "a", encoding=self.encoding, errors=self.errors)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except (OSError, PagecliError):  # opened anew where it has been moved away, or its directory has
            self.handleError(record)

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # of lines that were kept back
            self._warn()

    def handleError(self, record: logging.LogRecord) -> None:
        self._warn()

    def _warn(self) -> None:
        if not self.has_failed and sys.stderr is not None:
            self.has_failed = True
            print(f"warning: --log-file {self.baseFilename}: {sys.exc_info()[1]}; the job continues", file=sys.stderr)


class RunLog:
    """The open log: the console writes messages to it, LogListener the job's events. `close` puts logging back as it was."""

    def __init__(self, path: Path | None, as_json: bool, lowest_level: int = logging.INFO) -> None:
        """`path` None: stderr. Raises InputError."""
        self.path = path
        self._handler = _handler(path)
        self._handler.setLevel(lowest_level)
        self._handler.setFormatter(JsonFormatter() if as_json else LineFormatter())
        self._logger = logging.getLogger(LOGGER)
        self._logger.setLevel(lowest_level)
        logging.getLogger().addHandler(self._handler)
        logging.captureWarnings(True)
        warnings.simplefilter("default")

    def write(
        self, level: int, message: str, fields: Mapping[str, Any] | None = None, error: BaseException | None = None
    ) -> None:
        """`level` is one of logging's; `error` adds its traceback."""
        self._logger.log(level, "%s", message, extra={"fields": dict(fields or {})}, exc_info=error)

    def capture_libraries(self) -> None:
        """To be called once they are imported: their warnings go to the log instead of stderr."""
        for name in LIBRARIES_WITH_HANDLERS:
            logger = logging.getLogger(name)
            for handler in [*logger.handlers]:
                logger.removeHandler(handler)
            logger.propagate = True
            logger.setLevel(logging.WARNING)

    def close(self) -> None:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(self._handler)
        self._handler.close()


class LogListener:
    """Writes a job's events: start, loaded, progress, checkpoints (with -v), end."""

    interval = PROGRESS_SECONDS
    name = "the log"

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._has_begun = False

    def on_event(self, event: Event, job: JobSnapshot) -> None:
        if event == "start":
            self._say("started", {"version": pagecli.__version__, **job.pick("input", "output", "model", "host")})
        elif event == "loaded":
            self._say("loaded", {name: job.engine.get(name) for name in LOADED})
        elif event == "progress" and self._has_begun:
            self._say("progress", job.pick(*PROGRESS))
        elif event == "progress":  # the first, when the job has hardly begun
            self._has_begun = True
        elif event == "checkpoint":
            self._say("checkpoint", {"num_rows": job.checkpoint_rows}, logging.DEBUG)
        elif event == "end":
            rows = job.pick("num_rows", "num_error_rows") if job.stats else {}
            fields = {**job.pick("exit_code", "error"), **rows, **{name: job.stats.get(name) for name in END}}
            self._say("ended", fields, logging.INFO if job.exit_code == 0 else logging.ERROR)

    def close(self) -> None: ...

    def _say(self, event: str, fields: Mapping[str, Any], level: int = logging.INFO) -> None:
        self._log.write(level, event, fields)


def _handler(path: Path | None) -> logging.Handler:
    if path is None:
        return logging.StreamHandler(sys.stderr)
    try:
        return LogFileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", "name a file you may create or append to") from error


def _shown(value: Any) -> str:
    """As in logfmt: quoted if it has spaces."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(char in text for char in ' "=\n') else text
