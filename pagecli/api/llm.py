"""The door from Python: rows in, dicts out, by the path that the command line takes.

Nothing of the process is changed: no signal handler, no standard stream, no logging. Rows are run as the caller takes them;
while it takes none, nothing runs. Ctrl-C ends a call between two steps or in one, and the model stays usable.
"""

import dataclasses
import os
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack

from pagecli.api.settings import (
    GenerateSettings,
    ModelSettings,
    RowSettings,
    checked,
    is_of_model,
    model_name,
    options_of,
)
from pagecli.cli.generate.options import GenerateOptions
from pagecli.errors import UsageError

if TYPE_CHECKING:
    from pagecli.cli.generate.job import GenerateJob
    from pagecli.engine.engine import Engine
    from pagecli.engine.loaded_model import LoadedModel
    from pagecli.jobs.rows.row import InputSource, OutputRow, ResultColumns


def generate(rows: Any, model: str | os.PathLike[str], **settings: Unpack[GenerateSettings]) -> Iterator[dict[str, Any]]:
    """Generate text for every row, lazily: yields the columns that `pagecli generate` writes, as a dict for each output row.

    `rows`: an iterable of dicts or of texts, an Arrow table or stream, a data frame, or the path (or URL) of any input that the
    command line takes. `settings`: its flags with underscores. A row that fails is a dict with `error` and `error_code`.
    Raises PagecliError: UsageError, InputError, ModelError; TypeError for a setting that does not exist.
    """
    given = checked("generate", settings, GenerateSettings)
    of_model: Any = {name: value for name, value in given.items() if is_of_model(name)}
    of_rows: Any = {name: value for name, value in given.items() if name not in of_model}
    return LLM(model, **of_model).generate(rows, **of_rows)


class LLM:
    """A model that stays loaded for any number of calls, one after the other. Raises PagecliError, TypeError.

    A row's text is the same in every call, alone or beside others.
    """

    def __init__(self, model: str | os.PathLike[str], **settings: Unpack[ModelSettings]) -> None:
        self._settings = checked("LLM", settings, ModelSettings)
        self.model = model_name(model)
        self._engine: Engine | None = _load(self._options({}))
        self._process = os.getpid()
        self._end = weakref.finalize(self, _close, self._engine.loaded, self._process)  # forgotten, or at the process' end
        self._loaded: LoadedModel | None = None  # of an engine that has to be made anew
        self._call: weakref.ref[Any] | None = None  # the generator of the latest call
        self._calling = threading.Lock()  # one call begins at a time

    def generate(self, rows: Any, **settings: Unpack[RowSettings]) -> Iterator[dict[str, Any]]:
        """As `pagecli.generate`, with this model. Raises UsageError while an earlier call's rows are not all taken.

        A call that is not wanted any more ends with `close()` of what it returned, or when that is forgotten.
        """
        with self._calling:
            return self._begun(rows, checked("generate", settings, RowSettings))

    def _begun(self, rows: Any, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self._check_process()
        running = None if self._call is None else self._call()
        if running is not None and running.gi_frame is not None:
            raise UsageError("an earlier call's rows are not all taken", "take them all, or call close() on what it returned")
        options = self._options(settings)
        is_path = isinstance(rows, str | os.PathLike)
        if is_path:
            options = dataclasses.replace(options, input=os.fsdecode(rows))
        from pagecli.api.rows import source_of
        from pagecli.cli.generate.job import generate_job, open_rows
        from pagecli.cli.generate.model_defaults import with_model_defaults
        from pagecli.cli.terminal.console import Console
        from pagecli.model.registry import resolve_engine_model

        job = generate_job(options)
        job = with_model_defaults(job, resolve_engine_model(job.engine), Console(quiet=True))
        selection = job.selection.parse()
        opened = None if is_path else source_of(rows, selection.limit if selection.takes_all else None)
        call = self._rows(job, open_rows(job, warnings.warn, opened))
        next(call)  # runs to the first row's door, so that what is wrong is raised here
        self._call = weakref.ref(call)
        return call

    def _rows(self, job: "GenerateJob", source: "InputSource") -> Generator[Any, None, None]:
        """First None, then the dicts of the output rows."""
        from pagecli.cli.generate.job import check_chat
        from pagecli.cli.generate.run import job_run

        engine = self._ready()
        check_chat(job, engine.tokenizer)
        if engine.tokenizer.template_time is None:
            engine.tokenizer.template_time = job.prompts.template_time or datetime.now()
        queue = _Queue(job.columns)
        _, run = job_run(job, engine, queue)
        cycles = run.cycles(source)
        started = ended = False
        try:
            yield None
            started = True
            for _ in cycles:
                self._check_process()
                while queue.records:
                    yield queue.records.popleft()
            while queue.records:
                yield queue.records.popleft()
            ended = True
        except GeneratorExit:
            cycles.close()
            ended = True
            raise
        finally:
            if not started:
                source.close()
            if not ended:  # in the middle of a step: the weights are as they were, the engine is made anew
                self._loaded, self._engine = engine.loaded, None

    def _ready(self) -> "Engine":
        if not self._end.alive:
            raise UsageError("the model is closed", "load it anew: pagecli.LLM(...)")
        self._check_process()
        if self._engine is None:
            from pagecli.engine.engine import Engine

            self._engine = Engine(self._options({}).engine_config(), self._loaded)
        return self._engine

    def _check_process(self) -> None:
        """Raises UsageError in a fork(2) of the process that loaded the model, which has no copy of its threads and ranks."""
        if os.getpid() != self._process:
            hint = "load it in each process: pagecli.LLM(...)"
            raise UsageError("the model was loaded by another process, of which this one is a copy", hint)

    def close(self) -> None:
        """Ends the processes that share the model (`tensor_parallel_size`), gives up its memory and the rows not taken yet.

        Raises UsageError while another thread takes them.
        """
        running = None if self._call is None else self._call()
        if running is not None:
            if running.gi_running:
                raise UsageError("another thread is taking rows of the latest call", "let it end first")
            running.close()
        self._end()
        self._engine = self._loaded = None

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def stats(self) -> dict[str, Any]:
        """Counts of all calls so far, by the names that --stats has."""
        return self._ready().stats()

    def _options(self, settings: Any) -> GenerateOptions:
        fixed = {"input": "rows", "output": "-", "model": self.model}
        return options_of(GenerateOptions, {**fixed, **self._settings, **settings})


class _Queue:
    """A writer whose rows the caller takes."""

    def __init__(self, columns: "ResultColumns") -> None:
        self._columns = columns
        self.records: deque[dict[str, Any]] = deque()
        self.num_rows = 0

    def write(self, row: "OutputRow") -> None:
        from pagecli.jobs.rows.row import record_of

        self.records.append(record_of(row, self._columns))
        self.num_rows += 1

    def finish(self) -> None:
        """Nothing is kept."""

    def keep_partial(self) -> None:
        """Nothing is kept."""

    def discard(self) -> None:
        """Nothing is kept."""


def _close(loaded: "LoadedModel", process: int) -> None:
    """Of the process that loaded the model: what a fork(2) of it has is not its own."""
    if os.getpid() == process:
        loaded.close()


def _load(options: GenerateOptions) -> "Engine":
    config = options.engine_config()
    from pagecli.engine.engine import Engine
    from pagecli.engine.loaded_model import check_fits

    check_fits(config)
    engine = Engine(config)
    for note in engine.loaded.model.notes:
        warnings.warn(note, stacklevel=3)
    return engine
