"""The reference as a device: a program line by line in torch, float32, for comparisons; the host's memory, K laid out as V."""

from pagecli.core.arrays import Array, empty
from pagecli.core.dtypes import check_known
from pagecli.core.model_config import ModelConfig
from pagecli.devices.base import KVCache, RunSettings
from pagecli.devices.cpu.device import ModelRunner, start
from pagecli.devices.memory import available_bytes
from pagecli.devices.reference.model import ReferenceModel
from pagecli.errors import UsageError
from pagecli.model.adapters.adapted_program import adapted
from pagecli.model.registry import open_weights
from pagecli.model.source import ModelSource
from pagecli.model.weights.reader import WeightReader


class ReferenceDevice:
    """See devices/base.Device."""

    name = isa = "reference"

    def check_available(self) -> None:
        pass

    def available_bytes(self) -> int:
        return available_bytes()

    def resolve_dtype(self, dtype: str) -> str:
        check_known(dtype)
        if dtype not in ("auto", "float32"):
            raise UsageError(f"--dtype {dtype} is not that of the reference", "use --dtype float32")
        return "float32"

    def check_cache(self, kv_dtype: str, block_size: int, dtype: str, head_dim: int) -> None:
        if kv_dtype not in ("auto", "float32"):
            raise UsageError(f"--kv-dtype {kv_dtype} is not that of the reference", "leave out --kv-dtype")

    def load(self, source: ModelSource, dtype: str, max_batch_tokens: int) -> ReferenceModel:
        reader = WeightReader(open_weights(source))
        program = reader.program(source.config)
        model = ReferenceModel(adapted(program, source.adapters), reader)
        reader.check_nothing_left(program)
        return model

    def start(self, model: ReferenceModel, settings: RunSettings) -> ModelRunner:
        return start(model, settings, _allocate)


def _allocate(config: ModelConfig, num_blocks: int, block_size: int, dtype: str) -> KVCache[Array]:
    """A cache of float32; K is laid out as V."""
    shape = (num_blocks, config.num_kv_heads, block_size, config.head_dim)
    keys, values = ([empty(shape) for _ in range(config.num_layers)] for _ in range(2))
    return KVCache(keys, values)
