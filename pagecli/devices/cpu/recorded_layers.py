"""A model's layers without Python between their operations: what a thin model's step would mostly be."""

import weakref
from collections.abc import Callable

import numpy as np

from pagecli.core.arrays import Array
from pagecli.devices.cpu import kernels
from pagecli.devices.step_inputs import KVCache, StepInputs

Layers = Callable[[StepInputs[Array], Array | None, KVCache[Array]], None]  # inputs, cos_sin, kv


class RecordedLayers:
    """Runs layers written in Python by recording their operations, once for a KV cache, and running the record at each step.

    The layers must do nothing but call `kernels`, the same operations at every step, on buffers that stay where they are.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._program = kernels.LayerProgram()
        self._recorded_for: weakref.ref[KVCache[Array]] | None = None  # whose memory ends with its engine
        self.enabled = True  # False: every operation is called from Python, where something watches them

    def run(self, layers: Layers, inputs: StepInputs[Array], cos_sin: Array | None, kv: KVCache[Array]) -> None:
        """What layers(inputs, cos_sin, kv) does."""
        if not self.enabled:
            return layers(inputs, cos_sin, kv)
        if self._recorded_for is None or self._recorded_for() is not kv:
            self._recorded_for = None
            with self._program.recording(self._max_tokens):
                layers(_any_inputs(self._max_tokens), cos_sin, kv)
            self._recorded_for = weakref.ref(kv)
        self._program.run(
            inputs.positions, cos_sin, inputs.slot_ids, inputs.block_tables, inputs.context_lens, inputs.query_start
        )


def _any_inputs(num_tokens: int) -> StepInputs[Array]:
    """Inputs of the right shapes, of one sequence without tokens: a recording only checks them."""
    ids = np.zeros(num_tokens, np.int32)
    slots = np.zeros(num_tokens, np.int64)
    none = np.zeros(1, np.int32)
    return StepInputs(
        token_ids=ids,
        positions=ids,
        slot_ids=slots,
        block_tables=none.reshape(1, 1),
        context_lens=none,
        query_start=np.zeros(2, np.int32),
        logit_rows=slots[:0],
    )
