"""The least time of a step: bytes read / bandwidth, or operations / FLOP/s, whichever is longer.

An estimate: its rates are those that large operations reach on the device (measured_rates.py), or a share of the data sheet's,
and there is no time between steps but `overhead_seconds`.
"""

from typing import TypeVar

import numpy as np

from pagecli.core.model_config import ModelConfig
from pagecli.devices import memory
from pagecli.model.build_program import build
from pagecli.model.source import QuantizedPart
from pagecli.profiler.plan.gpus import Device

# Of a data sheet's rates: large copies and matrix products on an H200 reach 4.3 of 4.8 TB/s and 790 of 989 TFLOP/s.
BANDWIDTH_SHARE = 0.9
FLOPS_SHARE = 0.8

Number = TypeVar("Number", float, np.ndarray)


class StepTime:
    """The time of a step of `config` on `num_gpus` devices that each hold an equal part of it (tensor parallel)."""

    def __init__(
        self,
        config: ModelConfig,
        device: Device,
        dtype_bytes: float = 2,
        num_gpus: int = 1,
        kv_bytes_per_token: int | None = None,
        overhead_seconds: float = 0.0,
        kept: QuantizedPart | None = None,
    ) -> None:
        """`dtype_bytes`: of a weight; what is computed and exchanged has 2 bytes, or 4 if weights do.

        `overhead_seconds` is added to every step: scheduling, launches, detokenizing. `kept`: of the weights, those that are
        read quantized, and multiplied as the others.
        """
        element_bytes = 4 if dtype_bytes > 2 else 2
        self.bandwidth = device.bandwidth * num_gpus * (1 if device.is_reached else BANDWIDTH_SHARE)
        self.flops = device.flops(dtype_bytes) * num_gpus * (1 if device.is_reached else FLOPS_SHARE)
        self.overhead_seconds = overhead_seconds
        program = build(config)
        head = program.head_weight.num_elements
        # The input embedding is a table: a step reads a row a token of it, a negligible share.
        embeddings = head * (1 if config.tie_embeddings else 2)
        experts = program.num_expert_parameters
        layers = program.num_parameters - embeddings - experts
        self._share = 0.0 if config.experts is None else config.experts.chosen / config.experts.num  # of experts, for a token
        dense_kept, experts_kept = (0, 0), (0, 0)
        if kept is not None:
            experts_kept = kept.of_experts
            dense_kept = (
                kept.num_elements - kept.of_experts[0] - kept.of_table[0],
                kept.num_bytes - kept.of_experts[1] - kept.of_table[1],
            )
        self._weight_bytes = (layers + head - dense_kept[0]) * dtype_bytes + dense_kept[1]
        self._expert_bytes = (experts - experts_kept[0]) * dtype_bytes + experts_kept[1]
        self._kv_bytes = kv_bytes_per_token or memory.kv_bytes_per_token(config, element_bytes)
        self._layer_flops, self._head_flops = 2 * (layers + experts * self._share), 2 * head
        self._pair_flops = 4 * config.num_layers * config.q_size  # q.k and p.v, 2 q_size each, for a token and one it sees
        # Ring all-reduces of the activations after attention and after the MLP, of every layer.
        exchanged = 2 * config.num_layers * config.hidden_size * element_bytes * 2 * (num_gpus - 1) / num_gpus
        self._link_seconds = exchanged / device.link if num_gpus > 1 else 0.0

    def seconds(
        self, num_tokens: Number, num_sequences: Number, context_tokens: Number, attention_pairs: Number | None = None
    ) -> Number:
        """Seconds of a step, for numbers or numpy arrays of one shape.

        num_tokens: computed in the step, prefill and decode together. num_sequences: those that get a next token.
        context_tokens: slots read, summed over sequences. attention_pairs: (token, token it sees); by default every token
        sees the mean context, which is exact when all decode.
        """
        pairs = context_tokens * num_tokens / np.maximum(num_sequences, 1) if attention_pairs is None else attention_pairs
        num_bytes = self._bytes_of_weights(num_tokens) + (context_tokens + num_tokens) * self._kv_bytes
        num_flops = self._layer_flops * num_tokens + self._head_flops * num_sequences + self._pair_flops * pairs
        at_best = np.maximum(num_bytes / self.bandwidth, num_flops / self.flops)
        return at_best + num_tokens * self._link_seconds + self.overhead_seconds

    def _bytes_of_weights(self, num_tokens: Number) -> Number:
        """What a step reads: of experts those that any token chose, if each chooses by itself and likes all as much."""
        return self._weight_bytes + self._expert_bytes * (1 - (1 - self._share) ** num_tokens)

    def is_memory_bound(self, num_tokens: float, num_sequences: float, context_tokens: float) -> bool:
        """Whether memory bandwidth, not compute, bounds such a step."""
        num_flops = self._layer_flops * num_tokens + self._head_flops * num_sequences
        num_flops += self._pair_flops * context_tokens * num_tokens / max(num_sequences, 1)
        return (self._bytes_of_weights(num_tokens) + context_tokens * self._kv_bytes) / self.bandwidth > num_flops / self.flops
