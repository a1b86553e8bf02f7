"""Runs a rank's steps on its GPU: what the driver packed goes over at once, and the logits that the rank computes, or the
likeliest of them, come back. Steps that only decode are repeated from CUDA graphs, their sums over the ranks included."""

from collections.abc import Callable

import numpy as np
import torch

from pagecli.core.arrays import Array
from pagecli.core.step_plan import StepPlan, max_scores
from pagecli.devices import base
from pagecli.devices.base import KVCache, StepInputs
from pagecli.devices.cuda import kernels
from pagecli.devices.cuda.model.model import CudaModel
from pagecli.devices.cuda.steps import graphs, step_buffers
from pagecli.devices.cuda.steps.block_mover import CudaBlockMover
from pagecli.devices.cuda.steps.runner import RunnerLimits
from pagecli.devices.cuda.streams import Gpu

_Finish = Callable[[torch.Tensor, torch.Tensor], object]  # of the logits, and the rows of them that are wanted


class RankRunner:
    """A shard with its KV cache. A step has run when its results are returned."""

    def __init__(
        self,
        model: CudaModel,
        device: Gpu,
        cache: KVCache[torch.Tensor],
        limits: RunnerLimits,
        swap: KVCache[torch.Tensor] | None = None,
    ) -> None:
        self.model, self.kv_cache = model, cache
        self._device, self._limits, self._shape = device, limits, model.attention_shape
        self._sizes = graphs.batch_sizes(limits.max_num_seqs)
        model.reserve_positions(limits.max_model_len + 1)
        num_bytes = limits.input_bytes(model)
        vocab = model.config.vocab_size
        most_rows = limits.max_num_seqs + max_scores(vocab)
        self._inputs = device.empty(num_bytes, dtype=torch.uint8)
        self._pinned_inputs = device.pinned(num_bytes, dtype=torch.uint8)
        self._logits = device.empty(most_rows, vocab, dtype=torch.float32)
        self._best = device.pinned(most_rows, dtype=torch.int64), device.pinned(most_rows, dtype=torch.float32)
        self._pinned_logits: torch.Tensor | None = None  # [rows, vocab], once a step wants them
        self.num_blocks = cache.values[0].shape[0]
        self.graphs = graphs.GraphStore(device, limits.max_graphs)
        self.mover = CudaBlockMover(device, cache, swap)

    def run(self, plan: StepPlan) -> None:
        """A step for measurements: what it would choose is left alone."""
        self.logits(base.inputs_of(plan, self._limits.block_size))

    @torch.inference_mode()
    def logits(self, inputs: StepInputs[Array]) -> Array:
        """[R, the rank's part of the vocabulary] float32: a view of a buffer that the next call overwrites."""
        rows = len(inputs.logit_rows)
        if self._pinned_logits is None or len(self._pinned_logits) < rows:
            self._pinned_logits = self._device.pinned(rows, self.model.config.vocab_size, dtype=torch.float32)
        out = self._pinned_logits[:rows]
        self._step(inputs, lambda logits, wanted: out.copy_(logits.index_select(0, wanted), non_blocking=True))
        return out.numpy()

    @torch.inference_mode()
    def best(self, inputs: StepInputs[Array]) -> tuple[Array, Array]:
        """Of each wanted row the likeliest token of the rank's part, the first of equal ones, and its logit: [R] int64, and
        float32.

        Where no token can be chosen the logit says why: it is not finite.
        """
        tokens, values = (buffer[: len(inputs.logit_rows)] for buffer in self._best)

        def finish(logits: torch.Tensor, wanted: torch.Tensor) -> None:
            chosen = logits.index_select(0, wanted)
            likeliest = torch.empty(len(chosen), dtype=torch.int64, device=chosen.device)
            kernels.argmax(likeliest, chosen)
            tokens.copy_(likeliest.clamp_(min=0), non_blocking=True)
            values.copy_(chosen.amax(dim=1), non_blocking=True)

        self._step(inputs, finish)
        return tokens.numpy(), values.numpy()

    def _step(self, inputs: StepInputs[Array], finish: _Finish) -> None:
        of_model = self._limits.block_size, self.model.windows, self._shape
        step = step_buffers.prepare(inputs, *of_model, self._sizes, self._limits.max_blocks, self.model.num_adapters)
        if not self._limits.writes_kv:
            step.arrays["slot_ids"] = np.full_like(step.arrays["slot_ids"], -1)
        padded = step.key is not None  # every row has logits
        rows = inputs.logit_rows if padded else np.arange(len(inputs.logit_rows), dtype=np.int64)
        arrays = {**step.arrays, "host_rows": rows}
        places, num_bytes = step_buffers.pack(arrays, self._pinned_inputs.numpy())
        tensors, device = step_buffers.views(places, self._inputs), self._device
        logits = self._logits[: len(step.arrays["logit_rows"])]
        self.mover.before_use(inputs.block_tables.flat)

        def forward() -> None:
            self.model.compute(
                step_buffers.on_device(tensors, step.num_partials, self._shape, step.prompts), self.kv_cache, logits
            )

        graph = None if step.key is None else self.graphs.find(step.key, forward)

        def work() -> None:
            self._inputs[:num_bytes].copy_(self._pinned_inputs[:num_bytes], non_blocking=True)
            if graph is None:
                forward()
            else:
                graph.replay()
            finish(logits, tensors["host_rows"])

        device.compute.submit(work)
        device.compute.record().wait()
