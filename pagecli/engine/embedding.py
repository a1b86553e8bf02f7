"""Embeddings: prompts computed once, in batches, their last layer's states pooled into one vector each.

Nothing is decoded, so there is nothing to schedule: a step takes prompts in order as far as max_batch_tokens goes, and a longer
one alone, in chunks. K and V live for the step (a long prompt's for its chunks). A token's states do not depend on its batch or
chunk, and states are summed token by token in float64, so a text's embedding is the same to the bit in any batch.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pagecli.core.arrays import Array
from pagecli.core.engine_config import EngineConfig
from pagecli.core.outputs import RequestOutput, SequenceOutput
from pagecli.core.sampling_params import SamplingParams
from pagecli.core.step_plan import Chunk, KVUsage, StepPlan
from pagecli.devices import base, memory
from pagecli.devices.base import RunSettings
from pagecli.engine import loaded_model
from pagecli.engine.adapters import adapter_of
from pagecli.engine.loaded_model import LoadedModel, ResolvedModel
from pagecli.engine.stats import EngineStats, EngineStatus
from pagecli.errors import ErrorCode, RowError, UsageError
from pagecli.model.pooling import Pooling
from pagecli.model.tokenizer.loading import load_tokenizer

Prompt = tuple[int, list[int]]  # request id, token ids


class EmbeddingEngine:
    """A loaded model that embeds. Raises ModelError if it cannot be loaded or does not fit, UsageError."""

    num_failed_steps = 0
    num_replicas = 1

    def __init__(
        self,
        config: EngineConfig,
        pooling: Pooling,
        on_loading: Callable[[int, int], None] | None = None,
        found: ResolvedModel | None = None,
    ) -> None:
        """`on_loading`, `found`: see Engine."""
        started = time.perf_counter()
        self.config, self.pooling = config, pooling
        self.num_threads = loaded_model.configure(config.threads)
        self.loaded = _load(config, on_loading, found or loaded_model.resolve(config))
        model, self.tokenizer = self.loaded.model, self.loaded.tokenizer
        self.model_config = model.config
        longest = model.config.max_positions
        self.max_model_len = min(config.max_model_len or longest, longest)
        block_size = config.block_size
        num_blocks = max(-(-config.max_batch_tokens // block_size) + config.max_num_seqs, -(-self.max_model_len // block_size))
        kv_dtype, kv_bytes = self.loaded.kv_dtype(config), num_blocks * block_size * self.loaded.kv_bytes_per_token(config)
        settings = RunSettings.of(config, kv_dtype=kv_dtype, max_model_len=self.max_model_len, kv_memory_bytes=kv_bytes)
        self._runner: Any = base.find(self.loaded.device).start(model, settings)
        self._waiting: dict[int, list[int]] = {}
        self._adapters: dict[int, int] = {}  # of waiting texts that have one
        self._stats = EngineStats()
        self.load_seconds = time.perf_counter() - started

    def add_request(
        self, request_id: int, prompt_token_ids: list[int], params: SamplingParams, row_key: int | None = None
    ) -> None:
        """Queue one text. Raises RowError if it is empty, longer than the model takes or names an adapter that there is not."""
        if not prompt_token_ids:
            raise RowError("the text has no tokens", "give a text that is not empty", ErrorCode.EMPTY_PROMPT)
        if len(prompt_token_ids) > self.max_model_len:
            message = f"the text has {len(prompt_token_ids):,} tokens; the limit is {self.max_model_len:,}"
            raise RowError(message, "shorten it", ErrorCode.PROMPT_TOO_LONG)
        adapter = adapter_of(self.config.loras, params.lora)
        if adapter >= 0:
            self._adapters[request_id] = adapter
        self._waiting[request_id] = prompt_token_ids
        self._stats.num_requests += 1
        self._stats.prompt_tokens += len(prompt_token_ids)

    def step(self) -> list[RequestOutput]:
        """Compute the next prompts; returns their embeddings."""
        batch = self._next_batch()
        outputs = self._outputs(batch) if len(batch) > 1 or len(batch[0][1]) <= self.config.max_batch_tokens else None
        if outputs is None:
            outputs = [self._output(*batch[0], self._in_chunks(*batch[0]))]
        for request_id, _ in batch:
            self.abort(request_id)
        return outputs

    def _next_batch(self) -> list[Prompt]:
        batch: list[Prompt] = []
        num_tokens = 0
        for request_id, token_ids in self._waiting.items():
            num_tokens += len(token_ids)
            if batch and (num_tokens > self.config.max_batch_tokens or len(batch) >= self.config.max_num_seqs):
                break
            batch.append((request_id, token_ids))
        return batch

    def _outputs(self, batch: list[Prompt]) -> list[RequestOutput]:
        """All prompts of the batch in one step."""
        chunks, first_block = [], 0
        for request_id, token_ids in batch:
            num_blocks = -(-len(token_ids) // self.config.block_size)
            chunks.append(Chunk(request_id, token_ids, 0, range(first_block, first_block + num_blocks), ()))
            first_block += num_blocks
        states = self._states(chunks)
        if self.pooling.mode == "last":
            return [self._output(*prompt, row) for prompt, row in zip(batch, states, strict=True)]
        outputs, first = [], 0
        for request_id, token_ids in batch:
            total = _added(None, states[first : first + len(token_ids)])
            outputs.append(self._output(request_id, token_ids, total / len(token_ids)))
            first += len(token_ids)
        return outputs

    def _in_chunks(self, request_id: int, token_ids: list[int]) -> Array:
        """The pooled states of a prompt longer than a step."""
        size, block_ids = self.config.max_batch_tokens, range(-(-len(token_ids) // self.config.block_size))
        total: Array | None = None
        for start in range(0, len(token_ids), size):
            states = self._states([Chunk(request_id, token_ids[start : start + size], start, block_ids, ())])
            total = states[-1].copy() if self.pooling.mode == "last" else _added(total, states)
        assert total is not None
        return total if self.pooling.mode == "last" else total / len(token_ids)

    def _states(self, chunks: Sequence[Chunk]) -> Array:
        """[R, hidden]: the final norm's output of each chunk's last token, or of all tokens."""
        started = time.perf_counter()
        adapters = [self._adapters.get(chunk.seq_id, -1) for chunk in chunks] if self._adapters else ()
        plan = StepPlan(list(chunks), [], adapters=adapters)
        inputs = base.inputs_of(plan, self.config.block_size)
        rows = np.arange(plan.num_tokens) if self.pooling.mode == "mean" else inputs.query_start[1:] - 1
        inputs = dataclasses.replace(inputs, logit_rows=rows.astype(np.int64))
        states: Array = self._runner.model.last_hidden(inputs, self._runner.kv_cache)
        total, used = self._runner.num_blocks, sum(len(chunk.block_ids) for chunk in chunks)
        filled = sum(chunk.context_len for chunk in chunks)
        self._stats.record_step(plan, KVUsage(total, used, used, 0, total - used, 0, used, filled), self.config.block_size)
        self._stats.record_seconds(plan, time.perf_counter() - started)
        return states

    def _output(self, request_id: int, token_ids: list[int], pooled: Array) -> RequestOutput:
        vector = pooled.astype(np.float64)
        if self.pooling.normalize:
            vector = vector / max(float(np.sqrt(np.sum(vector * vector))), 1e-12)
        if not np.isfinite(vector).all():
            text = "the model computed NaN or infinity for it; are the weights damaged, or too large for this --dtype?"
            return RequestOutput(request_id, len(token_ids), (), text, ErrorCode.LOGITS_NOT_FINITE)
        embedding = vector.astype(np.float32).tolist()
        return RequestOutput(request_id, len(token_ids), (SequenceOutput(0, [], "", "stop", embedding=embedding),))

    def has_unfinished(self) -> bool:
        return bool(self._waiting)

    def abort(self, request_id: int) -> None:
        del self._waiting[request_id]
        self._adapters.pop(request_id, None)

    def close(self) -> None:
        """Ends what the model holds beside its memory."""
        self.loaded.close()

    def status(self) -> EngineStatus:
        return EngineStatus(len(self._waiting), 0, 0.0, self._stats.prompt_tokens, 0)

    def stats(self) -> dict[str, object]:
        """Counts by the names of Engine.stats; what there is not is 0."""
        loaded, config = self.loaded, self.config
        none = ("num_preemptions", "preemption_seconds", "num_swapped_blocks", "num_copy_on_write", "prefix_cache_hit_rate")
        return {
            **self._stats.as_dict(),
            **dict.fromkeys(none, 0),
            "preempted_requests": {},
            "load_seconds": self.load_seconds,
            "kv_block_size": config.block_size,
            "kv_blocks_total": self._runner.num_blocks,
            "kv_bytes_per_token": loaded.kv_bytes_per_token(config),
            "weight_bytes": loaded.model.weight_bytes,
            "device": loaded.device,
            "dtype": loaded.dtype,
            "kv_dtype": loaded.kv_dtype(config),
            "cpu_isa": base.find("cpu").isa,
            "num_threads": self.num_threads,
        }


def _added(total: Array | None, states: Array) -> Array:
    """[hidden] float64: the sum so far and the states, one after the other, so that chunks do not show."""
    rows = states.astype(np.float64)
    if total is not None:
        rows = np.concatenate([total[None], rows])
    return np.cumsum(rows, axis=0)[-1]


def _load(config: EngineConfig, on_loading: Callable[[int, int], None] | None, found: ResolvedModel) -> LoadedModel:
    """The model without an LM head of its own, which embedding models often lack and none needs here."""
    if found.device != "cpu":
        raise UsageError(f"embeddings are not computed on --device {found.device}", "leave out --device")
    memory.check_fits(config, found.source, found.dtype)
    tied = dataclasses.replace(found.source.config, tie_embeddings=True)
    source = dataclasses.replace(found.source, config=tied, on_read=on_loading)
    tokenizer = load_tokenizer(source)
    model = base.find(found.device).load(source, found.dtype, config.max_batch_tokens)
    name, most, dtype = config.model, config.max_batch_tokens, found.dtype
    return LoadedModel(name, config.load_format, model, tokenizer, dtype, most, found.device, config.merge_lora, config.loras)
