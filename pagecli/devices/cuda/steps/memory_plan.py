"""The plan of a GPU's memory: after the weights, one measured step and the graphs, the KV cache takes what remains.

`profile` plans by another rule (profiler/plan/plan.py), for GPUs that need not be there: what is measured here it assumes.
"""

from dataclasses import dataclass

from pagecli.errors import ModelError

HEADROOM_SHARE = 0.02  # of the memory free after the weights: the allocator's rounding, other programs' small change
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class GpuMemoryPlan:
    """Bytes on the GPU. `free` was free when the weights lay there; of it `step` and `graphs` are kept for the steps."""

    name: str  # of the model
    weights: int
    free: int
    step: int  # buffers and activations of the largest step, as measured
    graphs: int

    @property
    def headroom(self) -> int:
        return int(self.free * HEADROOM_SHARE)

    @property
    def room(self) -> int:
        """What the KV cache may take; negative where not even the steps fit."""
        return self.free - self.step - self.graphs - self.headroom

    def num_kv_blocks(self, kv_memory_bytes: int | None, block_bytes: int, max_useful_blocks: int) -> int:
        """Blocks of `block_bytes` in `kv_memory_bytes` (None: in all the room, but no more than could be used).

        Raises ModelError, with the sum, where that does not fit or is not one block.
        """
        if kv_memory_bytes is not None and kv_memory_bytes < block_bytes:
            raise ModelError(
                f"--kv-memory ({kv_memory_bytes:,} bytes) is less than one KV block of {block_bytes:,} bytes",
                "raise --kv-memory or lower --block-size",
            )
        wanted = block_bytes if kv_memory_bytes is None else kv_memory_bytes // block_bytes * block_bytes
        if wanted > self.room:
            raise self.does_not_fit(wanted)
        return min(self.room // block_bytes, max_useful_blocks) if kv_memory_bytes is None else wanted // block_bytes

    def does_not_fit(self, kv: int, cause: str = "") -> ModelError:
        """The error that explains the sum in one line; `cause`: what else is known."""
        parts = {"weights": self.weights, "the largest step": self.step, "CUDA graphs": self.graphs, "KV cache": kv}
        parts["headroom"] = self.headroom
        total, available = sum(parts.values()), self.weights + self.free
        described = " + ".join(f"{part} {_size(size)}" for part, size in parts.items() if size > 0)
        message = f"{self.name} does not fit: {described} = {_size(total)}; {_size(available)} of GPU memory are available"
        if self.room >= _MIB and kv > self.room:
            hint = f"the largest that fits is --kv-memory {self.room // _MIB}MiB"
        else:
            hint = "lower --max-batch-tokens or --max-num-seqs, or use a smaller model; pagecli profile shows which fits"
        return ModelError(message + (f" ({cause})" if cause else ""), hint)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 10 * _MIB else f"{num_bytes / _MIB:.2f} MiB"
