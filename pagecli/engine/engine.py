"""The engine: requests in, finished requests out, one step at a time. `step` is the table of contents of the program."""

import time
from typing import TYPE_CHECKING, cast

from pagecli.core.engine_config import EngineConfig
from pagecli.core.outputs import RequestOutput
from pagecli.core.sampling_params import SamplingParams
from pagecli.core.step_plan import StepPlan
from pagecli.devices.base import HostModel, Model
from pagecli.devices.cpu import kernels, kv_cache, memory_budget
from pagecli.devices.cpu.runner import ModelRunner
from pagecli.engine import loaded_model, threads
from pagecli.engine.generation import decoding, request_output
from pagecli.engine.generation.stopping import FinishCheck, StopSearch
from pagecli.engine.loaded_model import LoadedModel
from pagecli.engine.observer import EngineObserver
from pagecli.engine.pipeline import Pipeline, StepHooks
from pagecli.engine.request import Request
from pagecli.engine.scheduling.admission import Admission
from pagecli.engine.scheduling.pipelined_scheduler import PipelinedScheduler
from pagecli.engine.scheduling.reservations import Reservations
from pagecli.engine.scheduling.scheduler import SchedulerLimits
from pagecli.engine.stats import EngineStats, EngineStatus
from pagecli.errors import ModelError
from pagecli.kv.baselines.reserved_manager import ReservedManager
from pagecli.kv.manager import KVManager
from pagecli.kv.memory import KVMemory

if TYPE_CHECKING:
    from pagecli.devices.cuda.runner import CudaRunner
    from pagecli.devices.cuda.startup import GpuSettings


class Engine:
    """A loaded model with its KV cache and scheduler. Raises ModelError if it cannot be loaded or does not fit."""

    def __init__(self, config: EngineConfig, loaded: LoadedModel | None = None) -> None:
        """`loaded`: the model of an engine that is not run any more; UsageError if it does not serve these settings."""
        started = time.perf_counter()
        self.config = config
        self.num_threads = threads.configure(config.threads)
        self.loaded = loaded_model.load(config) if loaded is None else loaded
        self.loaded.check_serves(config)
        model, self.tokenizer, self.dtype = self.loaded.model, self.loaded.tokenizer, self.loaded.dtype
        self.model_config = model.config
        self.max_model_len = min(config.max_model_len or model.config.max_positions, model.config.max_positions)
        self._runner, self._kv = self._build_cache(model)
        reservations = None
        if isinstance(self._kv, ReservedManager):
            reservations = Reservations(self._kv, config.kv_policy, self.max_model_len)
        self._admission = Admission(self._kv, model.config.vocab_size, self.max_model_len, config.max_num_seqs, reservations)
        self._finish_check = FinishCheck(frozenset(self.tokenizer.eos_token_ids))
        limits = SchedulerLimits(config.max_num_seqs, config.max_batch_tokens, config.preemption, config.batching)
        self._scheduler = PipelinedScheduler(self._kv, limits, self._finish_check, reservations)
        self._requests: dict[int, Request] = {}
        self._stats = EngineStats()
        self._pipeline = Pipeline(self._scheduler, self._runner)
        self.observer: EngineObserver | None = None
        self.load_seconds = time.perf_counter() - started

    def _build_cache(self, model: Model) -> "tuple[ModelRunner | CudaRunner, KVMemory]":
        kv_dtype, block_size = self.loaded.kv_dtype(self.config), self.config.block_size
        most_useful = self.config.max_num_seqs * -(-self.max_model_len // block_size)
        bytes_each = kv_cache.block_bytes(model.config, block_size, kv_dtype)
        num_swap_blocks = self.config.swap_memory_bytes // bytes_each
        if self.config.preemption == "swap" and num_swap_blocks == 0:
            raise ModelError(f"--swap-memory is less than one KV block of {bytes_each:,} bytes", "raise --swap-memory")
        runner: ModelRunner | CudaRunner
        if self.loaded.device == "cuda":
            from pagecli.devices.cuda import startup

            runner, num_blocks = startup.start(model, self._gpu_settings(kv_dtype, num_swap_blocks))
        else:
            num_blocks = memory_budget.num_kv_blocks(self.config.kv_memory_bytes, bytes_each, most_useful)
            cache, swap = (kv_cache.allocate(model.config, n, block_size, kv_dtype) for n in (num_blocks, num_swap_blocks))
            runner = ModelRunner(cast(HostModel, model), cache, block_size, swap)
        if self.config.kv_policy != "paged":
            return runner, ReservedManager(num_blocks, block_size)
        salt = f"{self.config.model} {self.dtype}".encode()
        return runner, KVManager(num_blocks, block_size, self.config.prefix_caching, num_swap_blocks, salt)

    def _gpu_settings(self, kv_dtype: str, num_swap_blocks: int) -> "GpuSettings":
        from pagecli.devices.cuda.startup import GpuSettings

        config = self.config
        return GpuSettings(
            config.model,
            config.block_size,
            kv_dtype,
            config.max_num_seqs,
            config.max_batch_tokens,
            self.max_model_len,
            config.kv_memory_bytes,
            num_swap_blocks,
            config.cuda_graphs,
        )

    def add_request(
        self, request_id: int, prompt_token_ids: list[int], params: SamplingParams, row_key: int | None = None
    ) -> None:
        """Queue one request. `row_key` (default: request_id) is what its random draws are keyed by, beside the seed.

        Raises RowError if it can never run: an empty or too long prompt, a token id out of range, more KV than there is.
        """
        params = self._admission.check(prompt_token_ids, params)
        request = Request(request_id, prompt_token_ids, params, request_id if row_key is None else row_key)
        if params.stop:
            request.live[0].stop_search = StopSearch(params.stop, self.tokenizer.decode)
        decoding.start_beam_search(request, self._finish_check)
        self._requests[request_id] = request
        self._scheduler.add(request)
        self._stats.num_requests += 1
        self._stats.prompt_tokens += len(prompt_token_ids)
        if self.observer is not None:
            self.observer.request_added(request)

    def step(self) -> list[RequestOutput]:
        """Run one step of the batch; returns the requests that finished in it."""
        step = self._pipeline.step(StepHooks(self._record_plan, self._record))
        if step is None:
            return []
        outputs = [self._output(request) for request in step.finished]
        times = self._pipeline.ended(step)
        self._stats.record_seconds(step.plan, times.committed - times.started)
        if self.observer is not None:
            self.observer.step_ended(times, outputs)
        return outputs

    def has_unfinished(self) -> bool:
        return bool(self._requests)

    def abort(self, request_id: int) -> None:
        """Forget an unfinished request and free its blocks."""
        self._pipeline.abort(self._requests.pop(request_id))
        if self.observer is not None:
            self.observer.request_aborted(request_id)

    def status(self) -> EngineStatus:
        stats, scheduler = self._stats, self._scheduler
        return EngineStatus(
            scheduler.num_waiting, scheduler.num_running, self._kv.usage, stats.prompt_tokens, stats.num_sampled_tokens
        )

    def stats(self) -> dict[str, object]:
        """Counts of the run so far, by the names that the --stats file documents."""
        preemptions = self._scheduler.preemptions
        preempted = {str(i): {"times": times, "tokens_lost": lost} for i, (times, lost) in preemptions.by_request.items()}
        return {
            **self._stats.as_dict(),
            "load_seconds": self.load_seconds,
            "num_preemptions": preemptions.count,
            "preempted_requests": preempted,
            "preemption_seconds": self._runner.mover.swap_seconds + self._stats.recompute_seconds,
            "num_swapped_blocks": self._kv.num_swapped_blocks,
            "num_copy_on_write": self._kv.num_copy_on_write,
            "prefix_cache_hit_rate": self._scheduler.num_cached_prompt_tokens / max(1, self._stats.prompt_tokens),
            "kv_block_size": self._kv.block_size,
            "kv_blocks_total": self._kv.pool.num_blocks,
            "kv_bytes_per_token": self.loaded.kv_bytes_per_token(self.config),
            "weight_bytes": self._runner.model.weight_bytes,
            "device": self.loaded.device,
            "dtype": self.dtype,
            "kv_dtype": self.loaded.kv_dtype(self.config),
            "cpu_isa": kernels.isa_name(),
            "num_threads": self.num_threads,
        }

    def _record_plan(self) -> None:
        if self.config.check_integrity:
            self._kv.check_integrity()
        self._stats.record_plan(self._kv)

    def _record(self, plan: StepPlan) -> None:
        if self.config.check_integrity:
            self._kv.check_integrity()
        self._stats.record_step(self._kv, plan)
        if self.observer is not None:
            self.observer.step_computed(plan, self._scheduler)

    def _output(self, request: Request) -> RequestOutput:
        del self._requests[request.request_id]
        output = request_output.build(request, self.tokenizer.decode, self._finish_check)
        self._stats.output_tokens += sum(len(s.token_ids) for s in output.sequences)
        return output
