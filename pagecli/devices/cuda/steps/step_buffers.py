"""A step's inputs on their way to the GPU: arrays made from the plan, packed into one piece of pinned memory, copied over at
once and read there as views. Where an array lies depends on the sizes of those before it alone, so that steps of one shape,
which a CUDA graph repeats, find theirs in the same place."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from pagecli.core.step_plan import MAX_SCORES
from pagecli.devices.base import StepInputs
from pagecli.devices.cuda.model.adapters import TILE_ROWS, most_tiles, tiles_of
from pagecli.devices.cuda.model.attention import AttentionShape, AttentionTables, plan_on_device, plan_tables
from pagecli.devices.cuda.model.model import CudaStep
from pagecli.devices.cuda.model.prompt_attention import PromptRows, whole_prompts

ALIGNMENT = 16  # bytes
LEAST_TABLE_WIDTH = 64  # blocks; wider tables by factors of 4: few widths, so few graphs
_DTYPES = {"i4": torch.int32, "i8": torch.int64, "f4": torch.float32}
# Rows of a step that only decodes, padding included; width of its block tables; partial results of its attention; tiles of rows
# with LoRA adapters.
GraphKey = tuple[int, int, tuple[int, ...], int]

Arrays = dict[str, np.ndarray]
Place = tuple[str, int, tuple[int, ...], torch.dtype]  # name, byte offset, shape


@dataclass(frozen=True, slots=True)
class HostStep:
    """A step as the host made it: what the model reads. `key` where all its sequences decode one token."""

    arrays: Arrays
    num_partials: dict[int, int]  # of attention, for each sliding window
    key: GraphKey | None
    prompts: PromptRows | None = None


def prepare(
    inputs: StepInputs[np.ndarray],
    block_size: int,
    windows: tuple[int, ...],
    shape: AttentionShape,
    buckets: list[int],
    max_width: int,
    num_adapters: int = 0,
) -> HostStep:
    """The step of these inputs. One that only decodes is padded to the next of `buckets`: its padding rows are no token
    (id -1), are written to no slot (-1), attend to nothing and have no adapter, of which the model has `num_adapters`."""
    contexts, starts = inputs.context_lens, inputs.query_start
    num_rows = len(contexts) if len(inputs.token_ids) == len(contexts) else None
    bucket = None if num_rows is None else next(size for size in buckets if size >= num_rows)
    width = table_width(-(-int(contexts.max()) // block_size), max_width)
    prompts = whole_prompts(contexts, starts) if shape.leaves_prompts and bucket is None else None
    left_out = slice(0) if prompts is None else prompts.sequences
    tables = {window: plan_tables(contexts, starts, shape, window, bucket, left_out) for window in windows}
    arrays = {name: array for name in StepInputs.__slots__ if (array := getattr(inputs, name)) is not None}
    held = arrays["block_tables"][:, :width]  # longer only where memory was reserved for a longer sequence
    block_tables = held
    if held.shape != (bucket or len(held), width):
        block_tables = np.zeros((bucket or len(held), width), dtype=np.int32)
        block_tables[: len(held), : held.shape[1]] = held
    arrays["block_tables"] = block_tables
    if num_rows is not None and bucket is not None:
        _pad_rows(arrays, bucket - num_rows)
        arrays["logit_rows"] = np.arange(bucket, dtype=np.int64)
    for window, planned in tables.items():
        arrays |= _attention_arrays(window, planned)
    if prompts is not None:
        firsts = starts[prompts.sequences.start : prompts.sequences.stop + 1]
        arrays["prompt_starts"] = firsts - firsts[0]
    adapter_ids, num_tiles = arrays.pop("adapter_ids", None), 0
    if adapter_ids is not None and (adapter_ids >= 0).any():
        tiles = tiles_of(adapter_ids, None if bucket is None else most_tiles(bucket, num_adapters))
        arrays["adapter_tiles"], num_tiles = tiles, len(tiles)
    num_partials = {window: planned.num_partials for window, planned in tables.items()}
    key = None if bucket is None else (bucket, width, tuple(num_partials.values()), num_tiles)
    return HostStep(arrays, num_partials, key, prompts)


def table_width(num_blocks: int, max_width: int) -> int:
    """Columns of a step's block tables: LEAST_TABLE_WIDTH times a power of 4, at most `max_width`."""
    width = LEAST_TABLE_WIDTH
    while width < num_blocks:
        width *= 4
    return min(width, max(num_blocks, max_width))


def _pad_rows(arrays: Arrays, num_rows: int) -> None:
    """Add rows that do nothing; block_tables has them already."""
    if num_rows == 0:
        return
    for name, value in (("token_ids", -1), ("positions", 0), ("slot_ids", -1), ("context_lens", 0)):
        given = arrays[name]
        arrays[name] = np.full(len(given) + num_rows, value, dtype=given.dtype)
        arrays[name][: len(given)] = given
    arrays["query_start"] = np.arange(len(arrays["token_ids"]) + 1, dtype=np.int32)


def _attention_arrays(window: int, planned: AttentionTables) -> Arrays:
    return {f"{name}/{window}": getattr(planned, name) for name in ("runs", "merges", "tiles")}


def pack(arrays: Arrays, buffer: np.ndarray) -> tuple[list[Place], int]:
    """Write the arrays into `buffer` (bytes) one after the other; where each lies, and how many bytes they take."""
    places, offset = [], 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        if end > len(buffer):
            raise ValueError(f"a step's inputs take more than the {len(buffer):,} bytes there are for them")
        buffer[offset:end] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        places.append((name, offset, array.shape, _DTYPES[array.dtype.str[1:]]))
        offset = -(-end // ALIGNMENT) * ALIGNMENT
    return places, offset


class Packed:
    """Pinned memory that steps are packed into one after the other: where arrays have the shapes of the step before's, they are
    written to the same places."""

    def __init__(self, memory: torch.Tensor) -> None:
        self.memory = memory  # [bytes] uint8
        self._shapes: list[tuple[str, tuple[int, ...], np.dtype]] = []
        self.places: list[Place] = []  # where each array lies
        self.used = memory[:0]  # what the last step takes of it
        self._written: list[np.ndarray] = []

    def pack(self, arrays: Arrays) -> "Packed":
        """As `pack`; itself."""
        shapes = [(name, array.shape, array.dtype) for name, array in arrays.items()]
        if shapes == self._shapes:
            for written, array in zip(self._written, arrays.values(), strict=True):
                written[...] = array
            return self
        self._shapes = []  # until all are written
        self.places, num_bytes = pack(arrays, self.memory.numpy())
        self._written = [view.numpy() for view in views(self.places, self.memory).values()]
        self._shapes, self.used = shapes, self.memory[:num_bytes]
        return self


def packed_bytes(arrays: Arrays) -> int:
    """What `pack` takes for them, at most."""
    return sum(array.nbytes + ALIGNMENT for array in arrays.values())


def views(places: list[Place], buffer: torch.Tensor) -> dict[str, torch.Tensor]:
    """The packed arrays as views of `buffer` (bytes)."""
    found = {}
    for name, offset, shape, dtype in places:
        found[name] = buffer[offset : offset + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
    return found


@dataclass(frozen=True, slots=True)
class OnDevice:
    """Where packed arrays lie on the device."""

    memory: torch.Tensor  # [bytes] uint8, all of them
    tensors: dict[str, torch.Tensor]  # views of it; not to be changed


class KeptViews:
    """The views of the step before, which are used again where all lies in the same places."""

    def __init__(self) -> None:
        self._places: list[Place] = []
        self._buffer: torch.Tensor | None = None
        self._kept: OnDevice | None = None

    def of(self, packed: Packed, buffer: torch.Tensor) -> OnDevice:
        """What was packed last, copied to the beginning of `buffer`."""
        if self._kept is None or buffer is not self._buffer or packed.places != self._places:
            self._places, self._buffer = packed.places, buffer
            self._kept = OnDevice(buffer[: packed.used.numel()], views(packed.places, buffer))
        return self._kept


def on_device(
    tensors: dict[str, torch.Tensor], num_partials: dict[int, int], shape: AttentionShape, prompts: PromptRows | None = None
) -> CudaStep:
    """What the model takes, of views on the device; allocates what attention needs to merge its runs."""
    inputs = StepInputs(**{name: tensors[name] for name in StepInputs.__slots__ if name in tensors})
    plans = {}
    for window, partials in num_partials.items():
        tables = (tensors[f"runs/{window}"], tensors[f"merges/{window}"], tensors[f"tiles/{window}"])
        plans[window] = plan_on_device(tables, partials, inputs.context_lens, inputs.query_start, shape, window)
    return CudaStep(inputs, plans, prompts, tensors.get("prompt_starts"), tensors.get("adapter_tiles"))


def most_bytes(
    max_tokens: int,
    max_seqs: int,
    max_width: int,
    num_windows: int,
    shape: AttentionShape,
    spare_runs: int,
    num_adapters: int = 0,
) -> int:
    """An upper bound of what `pack` needs for a step of so many tokens and sequences, with feeds and rows for the host."""
    rows = max_tokens if shape.dtype == torch.float32 else max_seqs  # that are decoded one by one
    model = max_tokens * (4 + 4 + 8) + max_seqs * (4 * max_width + 4 + 4 + 8) + 4
    attention = (rows + spare_runs) * 20 + rows * 12 + (max_tokens * shape.group // 64 + max_seqs + 1) * 8
    feeding = max_seqs * (8 + 8 + 8) + (4 * (max_seqs + 1) if shape.leaves_prompts else 0)
    adapters = 4 * (1 + TILE_ROWS) * most_tiles(max_tokens, num_adapters) if num_adapters else 0
    return model + adapters + num_windows * attention + feeding + 16 * MAX_SCORES + 32 * ALIGNMENT
