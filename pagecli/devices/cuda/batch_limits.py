"""How many sequences and tokens a step has where no flag says: by the memory of the GPU. `generate` and `profile` share it."""

from pagecli.core.engine_config import EngineConfig
from pagecli.devices import base
from pagecli.errors import ModelError

HOST_BATCH = (EngineConfig("").max_num_seqs, EngineConfig("").max_batch_tokens)
MOST_SEQS, TOKENS_FOR_EACH_SEQ = 1024, 8


def gpu_bytes(name: str) -> int | None:
    """Memory of the GPU that the device of that name is; None where it is none, or not there."""
    if name == "cpu":
        return None
    try:
        return getattr(base.choose(name), "memory_bytes", None)
    except ModelError:  # of which loading the model says more
        return None


def batch_limits(gpu_bytes: int | None, max_num_seqs: int | None, max_batch_tokens: int | None) -> tuple[int, int]:
    """Sequences and tokens in a step: those given, else by the memory of the GPU (None: of a CPU).

    On a GPU, 18 sequences for a GiB, as a power of two from 128 to 1,024: 256 on 16 to 24 GB, 512 on 32 to 48, 1,024 from 80.
    A step's weights are read once, so that twice the sequences cost little until products take as long as that reading, at
    150 to 400 tokens (peak operations over bandwidth, of T4 to B200); with 8 tokens for each sequence, steps with prompts are
    well beyond that, and their buffers 1 to 2 % of the memory.
    """
    if gpu_bytes is None:
        seqs, tokens = HOST_BATCH
    else:
        seqs = min(MOST_SEQS, max(HOST_BATCH[0], 1 << (18 * gpu_bytes >> 30).bit_length() - 1))
        tokens = TOKENS_FOR_EACH_SEQ * seqs
    if max_num_seqs is None:
        max_num_seqs = seqs if max_batch_tokens is None else min(seqs, max_batch_tokens)
    return max_num_seqs, max(tokens, max_num_seqs) if max_batch_tokens is None else max_batch_tokens
