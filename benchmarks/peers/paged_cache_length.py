"""transformers' continuous batching on models that ask its cache for a length, such as OPT in transformers 5.24.

The paged cache has no single length: every request of a batch has its own, and continuous batching gives the model the position
of each token instead. A model that asks all the same needs some answer, and does not use it beside the positions: 0.
"""


def add_paged_cache_length() -> None:
    """Gives the paged cache `get_seq_length` where the installed transformers has none."""
    from transformers.generation.continuous_batching.cache import PagedAttentionCache

    if not hasattr(PagedAttentionCache, "get_seq_length"):
        PagedAttentionCache.get_seq_length = lambda self, *_: 0
