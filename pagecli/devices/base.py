"""What every device's loaded model offers."""

from typing import TYPE_CHECKING, Protocol

from pagecli.core.model_config import ModelConfig

if TYPE_CHECKING:
    from pagecli.core.arrays import Array
    from pagecli.devices.step_inputs import KVCache, StepInputs


class Model(Protocol):
    """A loaded model."""

    config: ModelConfig
    weight_bytes: int


class HostModel(Model, Protocol):
    """A model that the CPU computes."""

    def forward(self, inputs: "StepInputs[Array]", kv: "KVCache[Array]") -> "Array":
        """logits[R, vocab], float32: a view of a buffer that the next call overwrites."""
        ...

    def most_likely(self, inputs: "StepInputs[Array]", kv: "KVCache[Array]") -> "Array":
        """token_ids[R], int64: the argmax of what `forward` gives, without the logits."""
        ...
