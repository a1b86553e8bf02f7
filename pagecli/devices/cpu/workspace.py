"""Buffers of a forward pass on the CPU, float32, allocated once for the largest step."""

from pagecli.core import arrays
from pagecli.core.arrays import Array


class Workspace:
    """A buffer of `max_tokens` rows for each value of a program; logits grow to the most rows ever asked for."""

    def __init__(self, max_tokens: int, widths: dict[str, int]) -> None:
        self.max_tokens = max_tokens
        self.num_bytes = sum(max_tokens * width * 4 for width in widths.values())
        self._buffers = {name: arrays.empty((max_tokens, width)) for name, width in widths.items()}
        self._logits: Array | None = None

    def rows(self, name: str, num_rows: int) -> Array:
        """The first `num_rows` rows of buffer `name`."""
        return self._buffers[name][:num_rows]

    def logits(self, num_rows: int, vocab_size: int) -> Array:
        """[num_rows, vocab_size], allocated when first needed, and again when more rows are."""
        if self._logits is None or self._logits.shape[0] < num_rows:
            self._logits = arrays.empty((num_rows, vocab_size))
        return self._logits[:num_rows]


class Values(dict[str, Array]):
    """The values of a program for a step of `num_rows` rows, cut from the workspace when they are first used."""

    def __init__(self, workspace: Workspace, num_rows: int) -> None:
        super().__init__()
        self.workspace, self.num_rows = workspace, num_rows

    def __missing__(self, name: str) -> Array:
        rows = self[name] = self.workspace.rows(name, self.num_rows)
        return rows
