"""The engine: requests in, finished requests out, one step at a time. `step` is the table of contents of the program."""

import dataclasses
import time

from pagecli import kernels
from pagecli.engine import threads
from pagecli.engine.config import EngineConfig
from pagecli.engine.outputs import RequestOutput, SequenceOutput
from pagecli.engine.request import Request, Sequence
from pagecli.engine.sampling_params import SamplingParams
from pagecli.engine.scheduler import Scheduler
from pagecli.engine.stats import EngineStats, EngineStatus
from pagecli.engine.step_plan import SampledToken, StepPlan
from pagecli.engine.stopping import FinishCheck, StopSearch
from pagecli.errors import RowError
from pagecli.kv.manager import KVManager
from pagecli.model.registry import Model, load_model, resolve_dtype, resolve_model
from pagecli.model.tokenizer import load_tokenizer
from pagecli.runner import kv_cache, memory_budget
from pagecli.runner.model_runner import ModelRunner


class Engine:
    """A loaded model with its KV cache and scheduler. Raises ModelError if it cannot be loaded or does not fit."""

    def __init__(self, config: EngineConfig) -> None:
        started = time.perf_counter()
        self.config = config
        self.num_threads = threads.configure(config.threads)
        source = resolve_model(config.model, config.load_format)
        self.dtype = resolve_dtype(config.dtype)
        memory_budget.check_weights_fit(source.config.num_parameters, self._element_bytes, source.name)
        self.tokenizer = load_tokenizer(source)
        model = load_model(source, self.dtype, config.max_batch_tokens)
        self.model_config = model.config
        self.max_model_len = min(config.max_model_len or model.config.max_positions, model.config.max_positions)
        self._runner, self._kv = self._build_cache(model)
        eos_ids = self.tokenizer.eos_token_ids
        self._finish_check = FinishCheck(frozenset(eos_ids))
        self._scheduler = Scheduler(self._kv, config.max_num_seqs, config.max_batch_tokens, self._finish_check, eos_ids)
        self._requests: dict[int, Request] = {}
        self._stats = EngineStats()
        self.load_seconds = time.perf_counter() - started

    @property
    def _element_bytes(self) -> int:
        return 4 if self.dtype == "float32" else 2

    def _build_cache(self, model: Model) -> tuple[ModelRunner, KVManager]:
        import torch

        dtype = getattr(torch, self.dtype)
        block_size = self.config.block_size
        most_useful = self.config.max_num_seqs * -(-self.max_model_len // block_size)
        bytes_each = kv_cache.block_bytes(model.config, block_size, dtype)
        num_blocks = memory_budget.num_kv_blocks(self.config.kv_memory_bytes, bytes_each, most_useful)
        cache = kv_cache.allocate(model.config, num_blocks, block_size, dtype)
        return ModelRunner(model, cache, block_size), KVManager(num_blocks, block_size)

    def add_request(
        self, request_id: int, prompt_token_ids: list[int], params: SamplingParams, row_key: int | None = None
    ) -> None:
        """Queue one request. `row_key` (default: request_id) is what its random draws are keyed by, beside the seed.

        Raises RowError if it can never run: an empty or too long prompt, a token id out of range, more KV than there is.
        """
        self._check_prompt(prompt_token_ids)
        room = self.max_model_len - len(prompt_token_ids)
        if params.max_tokens > room:
            params = dataclasses.replace(params, max_tokens=room, min_tokens=min(params.min_tokens, room))
        self._check_fits(len(prompt_token_ids), params.max_tokens)
        request = Request(request_id, prompt_token_ids, params, request_id if row_key is None else row_key)
        if params.stop:
            for sequence in request.sequences:
                sequence.stop_search = StopSearch(params.stop, self.tokenizer.decode)
        self._requests[request_id] = request
        self._scheduler.add(request)
        self._stats.num_requests += 1
        self._stats.prompt_tokens += len(prompt_token_ids)

    def step(self) -> list[RequestOutput]:
        """Run one step of the batch; returns the requests that finished in it."""
        started = time.perf_counter()
        plan = self._scheduler.plan()
        if not plan.chunks:
            return []
        sampled = self._runner.run(plan)
        finished = self._scheduler.commit(plan, sampled)
        self._record(plan, sampled, time.perf_counter() - started)
        return [self._output(self._requests.pop(request.request_id)) for request in finished]

    def has_unfinished(self) -> bool:
        return bool(self._requests)

    def abort(self, request_id: int) -> None:
        """Forget an unfinished request and free its blocks."""
        self._scheduler.abort(self._requests.pop(request_id))

    def status(self) -> EngineStatus:
        stats, scheduler = self._stats, self._scheduler
        return EngineStatus(
            scheduler.num_waiting, scheduler.num_running, self._kv.usage, stats.prompt_tokens, stats.output_tokens
        )

    def stats(self) -> dict[str, object]:
        """Counts of the run so far, by the names that the --stats file documents."""
        stats = self._stats
        return {
            "num_requests": stats.num_requests,
            "prompt_tokens": stats.prompt_tokens,
            "output_tokens": stats.output_tokens,
            "load_seconds": self.load_seconds,
            "num_steps": stats.num_steps,
            "step_seconds": stats.step_seconds,
            "num_computed_tokens": stats.num_computed_tokens,
            "num_preemptions": self._scheduler.num_preemptions,
            "num_recomputed_tokens": self._scheduler.num_recomputed_tokens,
            "kv_block_size": self._kv.block_size,
            "kv_blocks_total": self._kv.pool.num_blocks,
            "kv_blocks_peak": stats.kv_blocks_peak,
            "kv_slot_utilization": stats.kv_slot_utilization,
            "kv_bytes_per_token": self.model_config.kv_bytes_per_token(self._element_bytes),
            "weight_bytes": self._runner.model.weight_bytes,
            "dtype": self.dtype,
            "cpu_isa": kernels.isa_name(),
            "num_threads": self.num_threads,
        }

    def _check_prompt(self, prompt_token_ids: list[int]) -> None:
        if not prompt_token_ids:
            raise RowError("the prompt has no tokens", "give a prompt that is not empty")
        if len(prompt_token_ids) >= self.max_model_len:
            raise RowError(
                f"the prompt has {len(prompt_token_ids)} tokens; the limit, with one output token, is {self.max_model_len}",
                "shorten the prompt, or raise --max-model-len up to what the model allows",
            )
        vocab_size = self.model_config.vocab_size
        if min(prompt_token_ids) < 0 or max(prompt_token_ids) >= vocab_size:
            raise RowError("prompt_token_ids has an id outside the vocabulary", f"ids must be in [0, {vocab_size})")

    def _check_fits(self, num_prompt_tokens: int, max_tokens: int) -> None:
        num_slots = num_prompt_tokens + max_tokens - 1  # the last token's K and V are never needed
        needed, total = self._kv.num_blocks_for(num_slots), self._kv.pool.num_blocks
        if needed > total:
            raise RowError(
                f"{num_prompt_tokens} prompt and up to {max_tokens} output tokens need {needed} KV blocks of "
                f"{self._kv.block_size} slots; the cache has {total}",
                "raise --kv-memory or lower max_tokens",
            )

    def _record(self, plan: StepPlan, sampled: list[SampledToken], seconds: float) -> None:
        if self.config.check_integrity:
            self._kv.check_integrity()
        self._stats.record_step(self._kv, plan.num_tokens, len(sampled), seconds)
        self._scheduler.release_finished()
        if self.config.check_integrity:
            self._kv.check_integrity()

    def _output(self, request: Request) -> RequestOutput:
        sequences = tuple(self._sequence_output(s) for s in request.sequences)
        return RequestOutput(request.request_id, request.num_prompt_tokens, sequences)

    def _sequence_output(self, sequence: Sequence) -> SequenceOutput:
        token_ids = sequence.output_token_ids
        ended_by_token = sequence.finish_reason == "stop" and self._finish_check.ends(token_ids[-1], sequence)
        text = self.tokenizer.decode(token_ids[:-1] if ended_by_token else token_ids)
        if sequence.stop_search is not None and sequence.stop_search.found_at is not None:
            text = sequence.stop_search.text[: sequence.stop_search.found_at]
        wants_logprobs = sequence.request.params.logprobs is not None
        assert sequence.finish_reason is not None
        return SequenceOutput(
            sequence.sample, token_ids, text, sequence.finish_reason, sequence.logprobs if wants_logprobs else None
        )
