"""A model that was found: its config, and where its weights, its tokenizer and its sampling defaults are."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pagecli.core.model_config import ModelConfig
from pagecli.model.readers.generation_config import GenerationDefaults

# Names of files beside a .gguf file that transformers may read its tokenizer from.
BESIDE_GGUF = re.compile(r"token|tekken|vocab|merges|template|^config\.json$", re.IGNORECASE)
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")  # of a LoRA adapter, as PEFT saves it


@dataclass(frozen=True, slots=True)
class QuantizedPart:
    """Of a checkpoint's weights those that can stay quantized in memory: how many numbers, and their bytes there."""

    num_elements: int
    num_bytes: int
    head_bits: float | None = None  # of a number of the LM head, if that is one of them
    of_experts: tuple[int, int] = (0, 0)  # of both, what experts' matrices are, of which a token is multiplied by some alone
    of_table: tuple[int, int] = (0, 0)  # and an input embedding that is not the LM head too, of which a token reads a row
    num_uneven: int = 0  # of the numbers, those of formats without even steps (weights/quantized.py)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What model/registry.py makes of --model."""

    name: str
    kind: str  # "safetensors", "pickle", "gguf" or "dummy"
    config: ModelConfig
    weights_path: Path | None  # file, or index of a sharded checkpoint; None for dummy
    tokenizer_path: Path | None  # directory, or .gguf file; None: bytes stand for tokens
    generation: GenerationDefaults = field(default_factory=GenerationDefaults)
    merged_adapter: Path | None = None  # directory of a LoRA adapter that is merged into the weights as they are read
    adapters: tuple[tuple[str, Path], ...] = ()  # LoRA adapters that rows choose among: names and directories
    on_read: Callable[[int, int], None] | None = None  # called with the parameters read so far and those of the model
    quantized: QuantizedPart | None = None
    keep_quantized: bool = False  # weights that are quantized in the checkpoint stay so in memory
    notes: tuple[str, ...] = ()  # for the user
