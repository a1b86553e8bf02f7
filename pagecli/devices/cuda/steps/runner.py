"""Runs steps on a GPU without waiting for it: a step's inputs, forward pass and choice of tokens are queued by `launch`, and
`collect` waits for that step alone. The tokens chosen stay on the GPU too, where the next step finds those that it is fed."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch

from pagecli.core.step_plan import StepResult, max_scores
from pagecli.devices import several_logits, step_masks
from pagecli.devices.base import KVCache
from pagecli.devices.cuda.model.attention import spare_runs
from pagecli.devices.cuda.model.model import CudaModel
from pagecli.devices.cuda.model.prompt_attention import PromptRows
from pagecli.devices.cuda.steps import graphs, sampling, step_buffers
from pagecli.devices.cuda.steps.block_mover import CudaBlockMover
from pagecli.devices.cuda.steps.choices import ChoicePlanner, Choices, Sizes
from pagecli.devices.cuda.streams import Event, Gpu, Graph
from pagecli.devices.decode_step import KeptInputs
from pagecli.errors import PagecliError

if TYPE_CHECKING:
    from pagecli.core.step_plan import StepPlan

CHOICE_BYTES = 256  # a sequence, to begin with; more where penalties, masks or many log probabilities are asked for
NUM_SLOTS = 2  # steps that may be under way: one runs while the host makes the next


@dataclass(slots=True)
class PendingStep:
    """A step that was launched; `results` once it was collected."""

    plan: "StepPlan"
    choices: Choices  # of the GPU; none where the plan's logits come to the host
    answer: sampling.Answer
    event: Event
    prepared: float
    results: list[StepResult] | None = None


@dataclass(slots=True)
class _Slot:
    """The buffers of one of the steps under way."""

    inputs: step_buffers.Packed
    sampled: torch.Tensor  # [max_num_seqs] int64, on the device
    pinned_sampled: torch.Tensor  # the same on the host
    choices: step_buffers.Packed  # arrays of Choices
    extra: torch.Tensor  # [bytes] uint8: what comes back beside the tokens, on the device
    pinned_extra: torch.Tensor  # the same on the host
    pinned_logits: torch.Tensor | None = None  # [rows, vocab] float32, once a step needs them
    answer: sampling.Answer | None = None  # of the step before in this slot
    pending: PendingStep | None = None  # whose event says when the buffers are free


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """What the persistent buffers are made for."""

    block_size: int
    max_num_seqs: int
    max_batch_tokens: int
    max_model_len: int
    max_graphs: int = 0  # 0: no CUDA graphs
    writes_kv: bool = True  # False to measure steps on a cache of one block, which all their sequences read

    @property
    def max_blocks(self) -> int:
        """Of a sequence."""
        return -(-self.max_model_len // self.block_size)

    def input_bytes(self, model: CudaModel) -> int:
        """An upper bound of what the packed inputs of a step take."""
        width, shape = step_buffers.table_width(self.max_blocks, self.max_blocks), model.attention_shape
        of_model = len(model.windows), shape, spare_runs(shape), model.num_adapters
        return step_buffers.most_bytes(self.max_batch_tokens, self.max_num_seqs, width, *of_model)


@dataclass(slots=True)
class _Work:
    """What the device does in one step; holds no array of the host, only buffers and where in them things lie."""

    num_partials: dict[int, int]
    prompts: PromptRows | None
    logits: torch.Tensor  # [rows, vocab]
    inputs: step_buffers.OnDevice
    choices: Choices
    choice_inputs: step_buffers.OnDevice
    answer: sampling.Answer
    rows_to_host: int  # of logits, where several of a chunk are wanted
    fed_from: torch.Tensor | None  # the tokens of the step before
    graph: Graph | None = None


class CudaRunner:
    """ModelRunner for a model on a GPU. Raises DeviceMemoryError where its buffers do not fit."""

    is_asynchronous = True  # launch() returns before the step has run

    def __init__(
        self,
        model: CudaModel,
        device: Gpu,
        cache: KVCache[torch.Tensor],
        limits: RunnerLimits,
        swap: KVCache[torch.Tensor] | None = None,
    ) -> None:
        self.model, self.kv_cache, self.block_size = model, cache, limits.block_size
        self.times = (0.0, 0.0, 0.0)  # time.perf_counter() when the last collected step's inputs, logits and tokens were there
        self._device, self._limits = device, limits
        self._shape, vocab = model.attention_shape, model.config.vocab_size
        self._sizes = graphs.batch_sizes(limits.max_num_seqs)
        model.reserve_positions(limits.max_model_len + 1)  # a step too many of a sequence that has ended
        num_bytes = limits.input_bytes(model)
        self._inputs = device.empty(num_bytes, dtype=torch.uint8)
        self._logits = device.empty(limits.max_num_seqs, vocab, dtype=torch.float32)
        self._choices = device.empty(CHOICE_BYTES * limits.max_num_seqs, dtype=torch.uint8)
        self._planner, self._kept_inputs = ChoicePlanner(vocab), KeptInputs(limits.block_size)
        self._feeds: tuple[Sequence[tuple[int, int]], np.ndarray] = (), np.empty((2, 0), np.int64)  # of a step, as arrays
        self._slots = [self._slot(num_bytes) for _ in range(NUM_SLOTS)]
        self._input_views, self._choice_views = step_buffers.KeptViews(), step_buffers.KeptViews()
        self._num_launched = 0
        self.num_blocks = cache.values[0].shape[0]
        self._many_logits: torch.Tensor | None = None
        self._step_logits = self._logits  # of a step's rows
        self.graphs = graphs.GraphStore(device, limits.max_graphs)
        self.mover = CudaBlockMover(device, cache, swap)

    def _slot(self, num_bytes: int) -> _Slot:
        device, rows = self._device, self._limits.max_num_seqs
        byte, token, size = torch.uint8, torch.int64, CHOICE_BYTES * rows
        return _Slot(
            step_buffers.Packed(device.pinned(num_bytes, dtype=byte)),
            device.empty(rows, dtype=token),
            device.pinned(rows, dtype=token),
            step_buffers.Packed(device.pinned(size, dtype=byte)),
            device.empty(size, dtype=byte),
            device.pinned(size, dtype=byte),
        )

    def can_pipeline(self, plan: "StepPlan") -> bool:
        """Whether the step's tokens are chosen on the GPU, so that a later step can be fed them before the host has them."""
        return not plan.has_wanted

    def run(self, plan: "StepPlan") -> list[StepResult]:
        """Move the plan's blocks, compute its tokens, writing their K and V; one result for each chunk with specs, in order."""
        return self.collect(self.launch(plan))

    @torch.inference_mode()
    def launch(self, plan: "StepPlan") -> PendingStep:
        """Queue the step. Raises the errors of devices/cuda/errors.py; then nothing is under way any more."""
        try:
            return self._launch(plan)
        except BaseException:
            self._drop_all()
            raise

    @torch.inference_mode()
    def collect(self, pending: PendingStep) -> list[StepResult]:
        """Wait for the step, and for no later one; its results, as of `run`."""
        try:
            if pending.results is None:
                self._finish(pending)
        except BaseException:
            self._drop_all()
            raise
        assert pending.results is not None
        return pending.results

    def _launch(self, plan: "StepPlan") -> PendingStep:
        slot, before = self._slots[self._num_launched % NUM_SLOTS], self._slots[(self._num_launched - 1) % NUM_SLOTS]
        if slot.pending is not None and slot.pending.results is None:  # its buffers are still in use
            self._finish(slot.pending)
        self.mover.carry_out(plan.moves)
        of_model, limits = (self.model.windows, self._shape), self._limits
        num_adapters = self.model.num_adapters
        inputs = self._kept_inputs.of(plan)
        step = step_buffers.prepare(inputs, self.block_size, *of_model, self._sizes, limits.max_blocks, num_adapters)
        if not self._limits.writes_kv:
            step.arrays["slot_ids"] = np.full_like(step.arrays["slot_ids"], -1)
        work = self._plan_work(plan, step, slot, before)
        self.mover.before_use(chain.from_iterable(plan.block_ids))
        if step.key is not None:
            work.graph = self.graphs.find(step.key, self._forward(work))
        prepared = time.perf_counter()
        self._device.compute.submit(lambda: self._do(work, slot))
        slot.pending = PendingStep(plan, work.choices, work.answer, self._device.compute.record(), prepared)
        self._num_launched += 1
        return slot.pending

    def _plan_work(self, plan: "StepPlan", step: step_buffers.HostStep, slot: _Slot, before: _Slot) -> _Work:
        """Pack the step's inputs into the slot's pinned memory, and apart from them what the GPU is asked to choose."""
        num_rows, arrays = len(step.arrays["logit_rows"]), dict(step.arrays)
        padded = step.key is not None  # each chunk has one row, then come those that do nothing
        rows = list(range(num_rows))
        if padded and len(plan.asked) == len(plan.block_ids):
            rows = rows[: len(plan.asked)]
        elif padded:
            rows = [row for row, chunk in enumerate(plan.chunks) if chunk.specs or chunk.wanted]
        rows_to_host = len(rows) if plan.has_wanted else 0
        if plan.feeds:
            if plan.feeds is not self._feeds[0]:
                self._feeds = plan.feeds, _columns(plan.feeds)
            arrays["fed_rows"], arrays["fed_from"] = self._feeds[1]
        if rows_to_host:
            arrays["host_rows"] = np.array(rows, dtype=np.int64)
            if slot.pinned_logits is None or slot.pinned_logits.shape[0] < rows_to_host:
                slot.pinned_logits = self._device.pinned(rows_to_host, self.model.config.vocab_size, dtype=torch.float32)
        specs = [] if plan.has_wanted else plan.asked
        choices = self._planner.plan(specs, rows, step.arrays["logit_rows"])
        on_device = self._input_views.of(slot.inputs.pack(arrays), self._inputs)
        self._make_room(slot, step_buffers.packed_bytes(choices.arrays), choices.asked.sizes)
        choice_inputs = self._choice_views.of(slot.choices.pack(choices.arrays), self._choices)
        fed_from = before.sampled if plan.feeds else None
        if fed_from is not None and (before.pending is None or before.pending.plan.has_wanted):
            raise ValueError("a step cannot be fed by one whose tokens were chosen on the host")
        assert slot.answer is not None
        computed = step.num_partials, step.prompts, self._logits_of(num_rows), on_device
        return _Work(*computed, choices, choice_inputs, slot.answer, rows_to_host, fed_from)

    def _make_room(self, slot: _Slot, num_choice_bytes: int, sizes: Sizes) -> None:
        """Make the buffers of choices as large as a step needs them; no step uses this slot's."""
        device, byte, num_extra_bytes = self._device, torch.uint8, sizes.num_extra_bytes
        if num_choice_bytes > self._choices.numel():
            device.synchronize()  # the step before may still read them
            self._choices = device.empty(2 * num_choice_bytes, dtype=byte)
        if num_choice_bytes > slot.choices.memory.numel():
            slot.choices = step_buffers.Packed(device.pinned(2 * num_choice_bytes, dtype=byte))
        if slot.answer is not None and slot.answer.sizes == sizes:
            return
        if num_extra_bytes > slot.extra.numel():
            slot.extra = device.empty(2 * num_extra_bytes, dtype=byte)
        if num_extra_bytes > slot.pinned_extra.numel():
            slot.pinned_extra = device.pinned(2 * num_extra_bytes, dtype=byte)
        slot.answer = sampling.Answer(sizes, slot.sampled, slot.extra, (slot.pinned_sampled, slot.pinned_extra))

    def _forward(self, work: _Work) -> Callable[[], None]:
        """The part of a step that a graph can hold: from the inputs on the device to the logits."""
        tensors, out = work.inputs.tensors, work.logits
        planned = work.num_partials, self._shape, work.prompts
        model, cache = self.model, self.kv_cache
        return lambda: model.compute(step_buffers.on_device(tensors, *planned), cache, out)

    def _logits_of(self, num_rows: int) -> torch.Tensor:
        """[num_rows, vocab]; a larger buffer is made for the first step that scores given tokens."""
        if num_rows > self._logits.shape[0] and self._many_logits is None:
            most, vocab = self._logits.shape
            self._many_logits = self._device.empty(most + max_scores(vocab), vocab, dtype=torch.float32)
        if len(self._step_logits) != num_rows:
            logits = self._logits if num_rows <= self._logits.shape[0] else self._many_logits
            assert logits is not None
            self._step_logits = logits[:num_rows]
        return self._step_logits

    def _do(self, work: _Work, slot: _Slot) -> None:
        """One step, on the compute stream."""
        tensors = work.inputs.tensors
        work.inputs.memory.copy_(slot.inputs.used, non_blocking=True)
        if work.fed_from is not None:
            fed = work.fed_from.index_select(0, tensors["fed_from"]).to(torch.int32)
            tensors["token_ids"].index_copy_(0, tensors["fed_rows"], fed)
        if work.graph is not None:
            work.graph.replay()
        else:
            self._forward(work)()
        if work.choices.specs:
            self._choose(work, slot)
        if work.rows_to_host:
            assert slot.pinned_logits is not None
            chosen = work.logits.index_select(0, tensors["host_rows"])
            slot.pinned_logits[: work.rows_to_host].copy_(chosen, non_blocking=True)

    def _choose(self, work: _Work, slot: _Slot) -> None:
        if work.choices.arrays:
            work.choice_inputs.memory.copy_(slot.choices.used, non_blocking=True)
        tensors = {"token_ids": work.inputs.tensors["token_ids"], **work.choice_inputs.tensors}
        sampling.choose(work.answer, work.logits, tensors, work.choices)
        work.answer.fetch()

    def _finish(self, pending: PendingStep) -> None:
        """Wait for the step and read its results out of the slot's buffers."""
        pending.event.wait()
        forwarded = time.perf_counter()
        (slot,) = (slot for slot in self._slots if slot.pending is pending)
        if pending.plan.has_wanted:
            assert slot.pinned_logits is not None
            plan, logits = pending.plan, slot.pinned_logits.numpy()
            masks = step_masks.wait(step_masks.start(several_logits.specs_of_rows(plan), logits.shape[1]))
            pending.results = several_logits.choose(logits, plan, masks)
        else:
            pending.results = pending.answer.results(pending.choices)
        self.times = (pending.prepared, forwarded, time.perf_counter())

    def _drop_all(self) -> None:
        """After a failure: let what is queued end, so that no buffer is in use; earlier steps keep their results."""
        with suppress(PagecliError):
            self._device.synchronize()
        for slot in self._slots:
            if slot.pending is not None and slot.pending.results is None:
                with suppress(PagecliError):
                    self._finish(slot.pending)
            slot.pending = None
        self.mover.forget_swaps()


def _columns(pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """[2, n] int64."""
    return np.fromiter(chain.from_iterable(pairs), dtype=np.int64, count=2 * len(pairs)).reshape(-1, 2).T
