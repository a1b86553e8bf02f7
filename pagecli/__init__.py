"""pagecli: offline batch text generation with a paged KV cache, and profiling of that cache."""

__version__ = "0.1.0"
