"""The engine: requests in, finished requests out, one step at a time. `step` is the table of contents of the program."""

import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pagecli.core.engine_config import EngineConfig
from pagecli.core.outputs import RequestOutput
from pagecli.core.sampling_params import SamplingParams
from pagecli.core.step_plan import KVUsage, StepPlan, max_scores
from pagecli.devices import memory
from pagecli.devices.base import Model, Runner, RunSettings
from pagecli.devices.cpu import kernels
from pagecli.engine import loaded_model
from pagecli.engine.generation import decoding, prompt_lookup
from pagecli.engine.generation.decoding import FinishCheck
from pagecli.engine.isolation import FailureSearch, probe  # here: after a failed step there may be no memory to import
from pagecli.engine.listener import BlockSnapshot, EngineListener, Step, StepSnapshot, StepTimes
from pagecli.engine.loaded_model import LoadedModel, ResolvedModel
from pagecli.engine.request import Admission, Request
from pagecli.engine.scheduling.batch import SchedulerLimits
from pagecli.engine.scheduling.scheduler import Scheduler
from pagecli.engine.stats import EngineStats, EngineStatus
from pagecli.errors import EngineLostError
from pagecli.kv.manager import KVManager

if TYPE_CHECKING:
    from pagecli.engine.constraints.compiler import ConstraintCompiler
    from pagecli.engine.generation.reasoning import ReasoningMarkers
    from pagecli.engine.overlapped import OverlappedLoop
    from pagecli.engine.scheduling.reservations import Reservations
    from pagecli.kv.memory import KVMemory


class Engine:
    """A loaded model with its KV cache and scheduler. Raises ModelError if it cannot be loaded or does not fit."""

    num_replicas = 1  # of the model

    def __init__(
        self,
        config: EngineConfig,
        loaded: LoadedModel | None = None,
        on_loading: Callable[[int, int], None] | None = None,
        found: ResolvedModel | None = None,
    ) -> None:
        """`loaded`: the model of an engine that is not run any more; UsageError if it does not serve these settings.
        `on_loading`: called with the parameters read so far and those of the model. `found`: what the settings resolve to."""
        started = time.perf_counter()
        self.config = config
        self.num_threads = loaded_model.configure(config.threads)
        if loaded is not None:
            loaded.check_serves(config)
        self.loaded = loaded_model.load(config, on_loading, found) if loaded is None else loaded
        model, self.tokenizer, self.dtype = self.loaded.model, self.loaded.tokenizer, self.loaded.dtype
        self.model_config = model.config
        self.max_model_len = min(config.max_model_len or model.config.max_positions, model.config.max_positions)
        try:
            self._runner, self._kv = self._build_cache(model)
        except BaseException:
            if loaded is None:
                self.close()
            raise
        reservations = None
        if not isinstance(self._kv, KVManager):
            from pagecli.engine.scheduling.reservations import Reservations

            reservations = Reservations(self._kv, config.kv_policy, self.max_model_len)
        vocab_size, most = model.config.vocab_size, config.max_num_seqs
        self._admission = Admission(self._kv, vocab_size, self.max_model_len, most, reservations, config.loras)
        end_ids = frozenset(i for i in self.tokenizer.eos_token_ids if i < model.config.vocab_size)
        self._finish_check = FinishCheck(end_ids)
        self._markers: ReasoningMarkers | None = None
        if config.reasoning != "auto" or "think" in (self.tokenizer.chat_template or "").lower():  # as in every known marker
            from pagecli.engine.generation.reasoning import find_markers

            self._markers = find_markers(self.tokenizer, config.reasoning)
        self._requests: dict[int, Request] = {}
        self._search: FailureSearch | None = None  # after a step that failed
        self._stats = EngineStats()
        self.isolates_failures = True  # False: step() raises the error, and its requests start again; for measurements
        self.listener: EngineListener | None = None
        self.scheduler, self._overlapped = self._make_scheduler(reservations)
        self.load_seconds = time.perf_counter() - started

    @cached_property
    def constraints(self) -> "ConstraintCompiler":
        from pagecli.engine.constraints.compiler import ConstraintCompiler

        return ConstraintCompiler(self.tokenizer, self.model_config.vocab_size, self._finish_check.eos_token_ids, self._markers)

    def _build_cache(self, model: Model) -> "tuple[Runner, KVMemory]":
        config, found = self.config, {"kv_dtype": self.loaded.kv_dtype(self.config), "max_model_len": self.max_model_len}
        bytes_each = self.loaded.kv_bytes_per_token(config) * config.block_size
        num_swap_blocks = memory.num_swap_blocks(config.swap_memory_bytes, config.preemption, bytes_each)
        runner = self.loaded.start(RunSettings.of(config, num_swap_blocks=num_swap_blocks, **found))
        if config.kv_policy != "paged":
            from pagecli.kv.baselines.reserved_manager import ReservedManager

            return runner, ReservedManager(runner.num_blocks, config.block_size)
        salt = f"{config.model} {self.dtype}".encode()
        return runner, KVManager(runner.num_blocks, config.block_size, config.prefix_caching, num_swap_blocks, salt)

    def _make_scheduler(self, reservations: "Reservations | None") -> "tuple[Scheduler, OverlappedLoop | None]":
        config = self.config
        limits = SchedulerLimits(
            config.max_num_seqs,
            config.max_batch_tokens,
            config.preemption,
            config.batching,
            config.check_integrity,
            max_scores(self.model_config.vocab_size),
        )
        if not self._runner.is_asynchronous:
            scheduler = Scheduler(self._kv, limits, self._finish_check, reservations)
            scheduler.drafter = prompt_lookup.drafter(config.speculate)
            return scheduler, None
        from pagecli.engine.overlapped import OverlappedLoop, OverlappedScheduler

        overlapped = OverlappedScheduler(self._kv, limits, self._finish_check, reservations)
        overlapped.gathers = config.cuda_graphs
        return overlapped, OverlappedLoop(overlapped, self._runner, self._count)

    def add_request(
        self, request_id: int, prompt_token_ids: list[int], params: SamplingParams, row_key: int | None = None
    ) -> None:
        """Queue one request. `row_key` (default: request_id) is what its random draws are keyed by, beside the seed.

        Raises RowError if it can never run: an empty or too long prompt, a token id out of range, more KV than there is, a
        constraint that the vocabulary cannot satisfy, an adapter that the engine does not have.
        """
        params = self._admission.check(prompt_token_ids, params)
        key, adapter = request_id if row_key is None else row_key, self._admission.adapter(params.lora)
        self._add(Request(request_id, prompt_token_ids, params, key, adapter=adapter))

    def add_score_request(
        self,
        request_id: int,
        prompt_token_ids: list[int],
        choices: list[list[int]],
        num_top: int | None = None,
        lora: str | None = None,
    ) -> None:
        """Queue a request for the log probabilities of each of these continuations of the prompt, which is computed once.

        `num_top`: the most likely tokens wanted beside each; `lora`: as SamplingParams has it. Raises RowError as add_request,
        and for a continuation that is empty, too long or has an id out of range.
        """
        params = self._admission.check_choices(prompt_token_ids, choices, num_top)
        adapter = self._admission.adapter(lora)
        self._add(Request(request_id, prompt_token_ids, params, request_id, adapter=adapter, choices=tuple(choices)))

    def _add(self, request: Request) -> None:
        self._enter(request)
        (self._search or self.scheduler).add(request)
        self._stats.num_requests += 1
        self._stats.prompt_tokens += request.num_prompt_tokens

    def _enter(self, request: Request) -> None:
        """Register the request under its id; the scheduler does not have it yet."""
        if request.params.stop:
            from pagecli.engine.generation.stopping import StopSearch

            request.live[0].stop_search = StopSearch(request.params.stop, self.tokenizer.decode)
        if request.params.is_constrained:
            request.live[0].constraint = self.constraints.start(request.params, request.prompt_token_ids)
        if request.params.beam_width > 1:
            decoding.start_beam_search(request, self._finish_check)
        if request.choices or request.params.prompt_logprobs is not None:
            from pagecli.engine.generation import scoring

            scoring.start(request)
        self._requests[request.request_id] = request
        if self.listener is not None:
            self.listener.request_added(request.request_id, request.num_prompt_tokens, request.live[0].seq_id)

    def step(self) -> list[RequestOutput]:
        """Run one step of the batch; returns the requests that finished in it.

        A step that fails changes nothing: its requests start again, apart, until the one that causes it is found, which comes
        back with `error` set. Raises what broke the engine itself.
        """
        if self._search is not None:
            self._go_on_searching(self._search)
        try:
            step = self._take_step()
            outputs = [] if step is None else [self._output(request) for request in step.finished]
        except BaseException as error:
            return self._isolate(error)
        if step is not None:
            self._record(step, outputs)
        return outputs

    def _take_step(self) -> Step | None:
        """Plan, launch, collect, commit; None if there was nothing to run. Steps of an asynchronous device overlap."""
        if self._overlapped is not None:
            return self._overlapped.step()
        started = time.perf_counter()
        plan = self.scheduler.plan()
        planned = time.perf_counter()
        pending: Any = self._runner.launch(plan)
        results = self._runner.collect(pending)
        committed = self.scheduler.commit(plan, results)
        ended = time.perf_counter()
        if not plan.num_tokens:
            return None
        self._count(committed.plan, committed.memory)
        self.scheduler.release_finished()
        return Step(committed.plan, committed.finished, StepTimes(started, planned, *self._runner.times, ended))

    def _count(self, plan: StepPlan, memory: KVUsage) -> None:
        """Add a computed step to the statistics and notify the listener; its finished sequences still hold their blocks."""
        self._stats.record_step(plan, memory, self._kv.block_size)
        listener, scheduler = self.listener, self.scheduler
        if listener is not None:
            blocks = BlockSnapshot(self._kv.filled_slots(), *self._kv.pool.snapshot()) if listener.wants_blocks else None
            waiting, preemptions = scheduler.num_waiting, scheduler.preemptions.count
            listener.step_computed(StepSnapshot(plan, memory, self._kv.block_size, waiting, preemptions, blocks))

    def _record(self, step: Step, outputs: list[RequestOutput]) -> None:
        """Notify the listener that the step is over and its finished requests have left."""
        self._stats.record_seconds(step.plan, step.times.committed - step.times.started)
        self._stats.output_tokens += sum(len(s.token_ids) for output in outputs for s in output.sequences)
        for output in outputs:
            del self._requests[output.request_id]
        if self.listener is not None:
            self.listener.step_ended(step.times, time.perf_counter(), outputs)

    def _isolate(self, error: BaseException) -> list[RequestOutput]:
        """After a step that failed: start the search for the request that causes it, or take the next step in it."""
        self._stats.num_failed_steps += 1
        suspects: list[Request] = []
        others: list[Request] = []
        for request in self._requests.values():
            if self._search is None or not self._search.holds(request):
                (suspects if request.running or request.finished else others).append(request)
        self._reset(error)
        is_of_a_row = isinstance(error, Exception) and not isinstance(error, EngineLostError)
        if not (suspects and self.isolates_failures and is_of_a_row):
            raise error
        for request in suspects + others:
            self.scheduler.abort(request)
        self._search = self._search or FailureSearch()
        alone = self._search.suspect([self._again(r) for r in suspects], [self._again(r) for r in others])
        if alone is None:
            return []
        self._probe(error)
        del self._requests[alone.request_id]
        text = f"the engine failed on this row: {type(error).__name__}: {error}"
        return [RequestOutput(alone.request_id, alone.num_prompt_tokens, (), text)]

    def _go_on_searching(self, search: FailureSearch) -> None:
        """Let the next group in when the one before is done; the search ends with the requests that are not suspected."""
        if self.scheduler.is_idle:
            for request in search.next_group():
                self.scheduler.add(request)
            if search.is_over:
                self._search = None

    def _reset(self, error: BaseException) -> None:
        """Release all requests' memory and forget the pending step. Raises `error` if that fails."""
        try:
            if self._overlapped is not None:
                self._overlapped.reset()
            self.scheduler.reset()
        except Exception:
            raise error from None

    def _again(self, request: Request) -> Request:
        """A copy of the request, to run from its prompt again."""
        if self.listener is not None:
            self.listener.request_aborted(request.request_id)
        key, adapter, choices = request.row_key, request.adapter, request.choices
        again = Request(request.request_id, request.prompt_token_ids, request.params, key, adapter=adapter, choices=choices)
        again.num_failures = request.num_failures
        self._enter(again)
        return again

    def _probe(self, error: BaseException) -> None:
        """Run a request of one token; raises `error` if that fails too."""
        try:
            self.scheduler.add(probe())
            while not self.scheduler.is_idle:
                self._take_step()
        except Exception:
            raise error from None

    def close(self) -> None:
        """End the processes that share the model, if there are any."""
        self.loaded.close()

    def has_unfinished(self) -> bool:
        return bool(self._requests)

    def abort(self, request_id: int) -> None:
        """Forget an unfinished request and free its blocks."""
        request = self._requests.pop(request_id)
        if self._search is not None and self._search.holds(request):
            self._search.abort(request)
        else:
            self.scheduler.abort(request)
            if self._overlapped is not None:
                self._overlapped.drop_unwanted()
        if self.listener is not None:
            self.listener.request_aborted(request_id)

    @property
    def num_failed_steps(self) -> int:
        return self._stats.num_failed_steps

    def status(self) -> EngineStatus:
        stats, scheduler = self._stats, self.scheduler
        sizes = scheduler.num_waiting, scheduler.num_running, self._kv.usage, stats.prompt_tokens, stats.num_sampled_tokens
        return EngineStatus(*sizes, self.loaded.ranks())

    def stats(self) -> dict[str, object]:
        """Counts of the run so far, by the names that the --stats file documents."""
        preemptions = self.scheduler.preemptions
        preempted = {str(i): {"times": times, "tokens_lost": lost} for i, (times, lost) in preemptions.by_request.items()}
        return {
            **self._stats.as_dict(),
            "load_seconds": self.load_seconds,
            "num_preemptions": preemptions.count,
            "preempted_requests": preempted,
            "preemption_seconds": self._runner.mover.swap_seconds + self._stats.recompute_seconds,
            "num_swapped_blocks": self._kv.num_swapped_blocks,
            "num_copy_on_write": self._kv.num_copy_on_write,
            "prefix_cache_hit_rate": self.scheduler.num_cached_prompt_tokens / max(1, self._stats.prompt_tokens),
            **(drafter.stats() if (drafter := self.scheduler.drafter) is not None else {}),
            "kv_block_size": self._kv.block_size,
            "kv_blocks_total": self._kv.pool.num_blocks,
            "kv_bytes_per_token": self.loaded.kv_bytes_per_token(self.config),
            "weight_bytes": self.loaded.model.weight_bytes,
            "device": self.loaded.device,
            "dtype": self.dtype,
            "kv_dtype": self.loaded.kv_dtype(self.config),
            "cpu_isa": kernels.isa_name(),
            "num_threads": self.num_threads,
            **({"ranks": ranks} if (ranks := self.loaded.ranks()) else {}),
        }

    def _output(self, request: Request) -> RequestOutput:
        if request.choices and request.failure is None:
            from pagecli.engine.generation import scoring

            return scoring.output_of(request, self.tokenizer.decode)
        output = decoding.output_of(request, self.tokenizer.decode, self._finish_check)
        if self._markers is None and request.params.constraint is None:
            return output
        from pagecli.engine.generation.answers import judged

        constraint = self.constraints.compile(request.params)
        return judged(output, request, self.tokenizer, self._markers, None if constraint is None else constraint.allows)
