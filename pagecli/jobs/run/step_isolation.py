"""An engine whose failures cost the rows that cause them, never the job.

A step that fails has changed nothing but reservations: all requests it may have been about are taken out of the engine and put
back by halves, each half running alone until it is done: the half that fails again is halved in its turn. A single row that
fails twice alone is given up, as an error, if a tiny request runs then; if not even that runs, it is the engine
that is broken, and its error is raised: rows it never had a chance with are not errors of those rows.
Rows are as good alone as in a batch (same row, same text), so the others come out as if nothing had happened.
"""

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from pagecli.core.outputs import RequestOutput
from pagecli.core.sampling_params import SamplingParams

PROBE_ID = -1
PROBE_TOKENS = [0]
MAX_TRIES_ALONE = 2


class EngineStatus(Protocol):
    """Where the engine stands; kv_usage in [0, 1]."""

    @property
    def num_waiting(self) -> int: ...
    @property
    def num_running(self) -> int: ...
    @property
    def kv_usage(self) -> float: ...
    @property
    def num_output_tokens(self) -> int: ...


class Engine(Protocol):
    """What jobs needs of an engine while it runs."""

    def add_request(
        self, request_id: int, prompt_token_ids: list[int], params: SamplingParams, row_key: int | None = None
    ) -> None: ...
    def step(self) -> list[RequestOutput]: ...
    def has_unfinished(self) -> bool: ...
    def abort(self, request_id: int) -> None: ...
    def status(self) -> EngineStatus: ...


@dataclass(slots=True)
class _Given:
    """A request as it was given; `num_failures` counts steps that failed while it ran alone."""

    request_id: int
    prompt_token_ids: list[int]
    params: SamplingParams
    row_key: int | None
    num_failures: int = 0


@dataclass(slots=True)
class IsolatingEngine:
    """An Engine around an engine. While `is_isolating`, no new request should be added."""

    engine: Engine
    num_failed_steps: int = 0
    num_rows_given_up: int = 0
    _running: dict[int, _Given] = field(default_factory=dict)  # in the engine
    _groups: deque[list[_Given]] = field(default_factory=deque)  # taken out, to be run one group after the other
    _in_group: bool = False  # what runs is such a group

    @property
    def is_isolating(self) -> bool:
        return bool(self._groups) or (self._in_group and bool(self._running))

    def add_request(
        self, request_id: int, prompt_token_ids: list[int], params: SamplingParams, row_key: int | None = None
    ) -> None:
        self.engine.add_request(request_id, prompt_token_ids, params, row_key)
        self._running[request_id] = _Given(request_id, prompt_token_ids, params, row_key)
        self._in_group = False

    def has_unfinished(self) -> bool:
        return bool(self._running or self._groups)

    def step(self) -> list[RequestOutput]:
        """A step of the engine; if it fails, the beginning of the search. Raises what broke the whole engine."""
        if not self._running:
            self._start_next_group()
        try:
            outputs = self.engine.step()
        except Exception as error:
            self.num_failed_steps += 1
            return self._take_apart(error)
        for output in outputs:
            self._running.pop(output.request_id, None)
        return outputs

    def abort(self, request_id: int) -> None:
        if self._running.pop(request_id, None) is not None:
            self.engine.abort(request_id)
        self._groups = deque([given for given in group if given.request_id != request_id] for group in self._groups)

    def status(self) -> EngineStatus:
        return self.engine.status()

    def _take_apart(self, error: Exception) -> list[RequestOutput]:
        suspects = list(self._running.values())
        self._withdraw(suspects, error)
        if len(suspects) > 1:
            half = len(suspects) // 2
            self._groups.extendleft((suspects[half:], suspects[:half]))
            return []
        if not suspects:
            raise error
        alone = suspects[0]
        alone.num_failures += 1
        if alone.num_failures < MAX_TRIES_ALONE:
            self._groups.appendleft(suspects)
            return []
        self._check_engine(error)
        self.num_rows_given_up += 1
        text = f"the engine failed on this row: {type(error).__name__}: {error}"
        return [RequestOutput(alone.request_id, len(alone.prompt_token_ids), (), text)]

    def _withdraw(self, suspects: list[_Given], error: Exception) -> None:
        """Takes the requests out of the engine; one that the failed step had finished is no longer in it."""
        self._running.clear()
        for given in suspects:
            try:
                with suppress(KeyError):
                    self.engine.abort(given.request_id)
            except Exception:
                raise error from None

    def _start_next_group(self) -> None:
        while self._groups and not self._running:
            for given in self._groups.popleft():
                self.engine.add_request(given.request_id, given.prompt_token_ids, given.params, given.row_key)
                self._running[given.request_id] = given
        self._in_group = True

    def _check_engine(self, error: Exception) -> None:
        """Runs a request of one token; raises `error` if that fails too."""
        try:
            self.engine.add_request(PROBE_ID, PROBE_TOKENS, SamplingParams(max_tokens=1, ignore_eos=True))
            while self.engine.has_unfinished():
                self.engine.step()
        except Exception:
            raise error from None
