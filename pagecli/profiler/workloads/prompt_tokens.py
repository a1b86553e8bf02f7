"""Token ids for requests of which only lengths and shared prefixes are known: the input of the KV manager and the model."""

from collections.abc import Iterator

import numpy as np

from pagecli.profiler.workloads.workloads import Workload, WorkloadRequest

FIRST_ID = 20  # special tokens, low in most vocabularies, are left out


def prompt_token_ids(workload: Workload, vocab_size: int, seed: int = 1) -> Iterator[list[int]]:
    """A prompt of random token ids for each request, in order; prompts with equal prefix hashes begin with equal ids."""
    rng = np.random.default_rng(seed)
    blocks: dict[int, np.ndarray] = {}
    for request in workload.requests:
        prefix = _prefix_ids(request, workload.prefix_block_size, vocab_size, seed, blocks)
        yield prefix + rng.integers(FIRST_ID, vocab_size, request.prompt_tokens - len(prefix)).tolist()


def _prefix_ids(
    request: WorkloadRequest, block_size: int, vocab_size: int, seed: int, blocks: dict[int, np.ndarray]
) -> list[int]:
    """The ids of each hash, drawn from it when it is first seen; the last block may reach past the prompt's end."""
    if not request.prefix_hashes:
        return []
    for block_hash in request.prefix_hashes:
        if block_hash not in blocks:
            drawn = np.random.default_rng((seed, abs(block_hash), block_hash < 0)).integers(FIRST_ID, vocab_size, block_size)
            blocks[block_hash] = drawn.astype(np.int32)
    return np.concatenate([blocks[block_hash] for block_hash in request.prefix_hashes])[: request.prompt_tokens].tolist()


def uniform_ids(lengths: list[tuple[int, int]], vocab_size: int, seed: int = 1) -> list[list[int]]:
    """A prompt of random token ids for each (prompt tokens, output tokens), none beginning like another."""
    rng = np.random.default_rng(seed)
    return [rng.integers(FIRST_ID, vocab_size, prompt).tolist() for prompt, _ in lengths]
