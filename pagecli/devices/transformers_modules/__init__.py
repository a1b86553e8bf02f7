"""Models that transformers' own modules compute, with the paged attention of the CPU: slower, but of any architecture."""
