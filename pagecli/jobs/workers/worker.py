"""A worker of a pool: one engine, which gets rows as messages and sends back what is finished.

    driver -> worker    EngineConfig; then ("rows", [PoolRow, ...]), ("abort", [request ids]); ("record", a function of the
                        engine that returns what has `finish`), and at the end of the job ("recorded", None)
    worker -> driver    ("ready", (stats, Facts)), ("refused", PagecliError); then ("done", ([RequestOutput, ...], stats)),
                        ("beat", stats), ("crashed", what the engine raised), ("recording", what `finish` returned);
                        before it is ready ("loading", (parameters read so far, those of the model))

A thread sends a beat each second, so that a driver tells a slow step from a process that is stopped.
"""

import contextlib
import os
import threading
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pagecli.core.child_process import connect_to_parent
from pagecli.core.message_socket import MessageSocket
from pagecli.core.outputs import RequestOutput
from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import PagecliError, RowError

if TYPE_CHECKING:
    from pagecli.engine.engine import Engine

MODULE = "pagecli.jobs.workers.worker"  # that a worker's process runs
BEAT_SECONDS = 1.0
SEND_SECONDS = 0.05  # finished rows are sent together, at most so late


@dataclass(frozen=True, slots=True)
class PoolRow:
    """One request, as Engine.add_request or add_score_request takes it."""

    request_id: int
    prompt_token_ids: list[int]
    params: SamplingParams
    row_key: int
    choices: tuple[list[int], ...] = ()  # of a request that scores them


class Worker:
    """Serves one driver until it hangs up."""

    def __init__(self, messages: MessageSocket) -> None:
        self._messages = messages
        self._engine: Engine | None = None
        self._finished: list[RequestOutput] = []
        self._unfinished: set[int] = set()
        self._next_send = 0.0
        self._recording: Any = None
        self._loading = (0, 0)
        threading.Thread(target=self._beat, name="pagecli-beat", daemon=True).start()

    def serve(self) -> None:
        received = self._messages.wait(None)
        if not received:
            return
        config, *more = received
        from pagecli.engine.engine import Engine  # slow: the driver's end must be seen before
        from pagecli.engine.loaded_model import resolve

        try:
            found = resolve(config)
            engine = self._engine = Engine(config, on_loading=self._note_loading, found=found)
        except PagecliError as error:
            self._messages.send(("refused", error))
            self._messages.flush_all(10.0)
            return
        from pagecli.jobs.workers.same_job import facts_here

        self._messages.send(("ready", (self._stats(), facts_here(config, found.source, os.uname().nodename))))
        self._take(engine, more)
        while not self._messages.is_closed:
            idle = not engine.has_unfinished()
            if idle:
                self._send_finished()
            self._take(engine, self._messages.wait(None) if idle else self._messages.receive())
            if engine.has_unfinished():
                self._finish(engine.step())
            if time.monotonic() >= self._next_send:
                self._send_finished()

    def _take(self, engine: "Engine", messages: list[Any]) -> None:
        for kind, content in messages:
            if kind == "rows":
                for row in content:
                    self._add(engine, row)
            elif kind == "record":
                self._recording = content(engine)
            elif kind == "recorded":
                self._messages.send(("recording", self._recording.finish()))
            else:
                for request_id in self._unfinished.intersection(content):
                    self._unfinished.discard(request_id)
                    engine.abort(request_id)

    def _add(self, engine: "Engine", row: PoolRow) -> None:
        try:
            if row.choices:
                choices, lora = list(row.choices), row.params.lora
                engine.add_score_request(row.request_id, row.prompt_token_ids, choices, lora=lora)
            else:
                engine.add_request(row.request_id, row.prompt_token_ids, row.params, row.row_key)
            self._unfinished.add(row.request_id)
        except RowError as error:
            failed = RequestOutput(row.request_id, len(row.prompt_token_ids), (), error.one_line, error.code)
            self._finished.append(failed)

    def _finish(self, outputs: list[RequestOutput]) -> None:
        self._unfinished.difference_update(output.request_id for output in outputs)
        self._finished += outputs

    def _send_finished(self) -> None:
        self._next_send = time.monotonic() + SEND_SECONDS
        if self._finished:
            finished, self._finished = self._finished, []
            self._messages.send(("done", (finished, self._stats())))
        self._messages.flush()

    def _stats(self) -> dict[str, Any]:
        assert self._engine is not None
        status = self._engine.status()
        running = {"num_running": status.num_running, "num_waiting": status.num_waiting, "kv_usage": status.kv_usage}
        process = {"pid": os.getpid(), "host": os.uname().nodename, "cpus": sorted(os.sched_getaffinity(0))}
        return {**self._engine.stats(), **running, **process, "num_failed_steps": self._engine.num_failed_steps}

    def _note_loading(self, num_read: int, num_parameters: int) -> None:
        self._loading = num_read, num_parameters

    def _beat(self) -> None:
        while not self._messages.is_closed:
            with contextlib.suppress(RuntimeError):  # a table grew while it was counted: the next beat has it
                self._messages.send(("loading", self._loading) if self._engine is None else ("beat", self._stats()))
            time.sleep(BEAT_SECONDS)
        os._exit(0)  # the driver is gone; the engine may be in a long step


def serve(messages: MessageSocket) -> None:
    """Runs a worker on a connection to its driver until either is gone."""
    try:
        Worker(messages).serve()
    except Exception as error:
        traceback.print_exc()
        messages.send(("crashed", f"{type(error).__name__}: {error}"))
        messages.flush_all(10.0)
        os._exit(1)


def main() -> None:
    serve(connect_to_parent())


if __name__ == "__main__":
    main()
