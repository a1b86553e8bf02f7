"""Finished rows in the order they are to be written in."""

from pagecli.jobs.rows.output_row import OutputRow


class InputOrder:
    """Holds what finished early until every row before it has been released."""

    def __init__(self) -> None:
        self._held: dict[int, list[OutputRow]] = {}
        self._next_index = 0

    def push(self, index: int, rows: list[OutputRow]) -> list[OutputRow]:
        """Takes the output of input row `index`; returns the rows whose turn it is now."""
        self._held[index] = rows
        ready: list[OutputRow] = []
        while self._next_index in self._held:
            ready.extend(self._held.pop(self._next_index))
            self._next_index += 1
        return ready

    def drain(self) -> list[OutputRow]:
        """What is still held, in order, with gaps where rows have not finished."""
        rows = [row for index in sorted(self._held) for row in self._held[index]]
        self._held.clear()
        return rows

    def __len__(self) -> int:
        return len(self._held)


class CompletionOrder:
    """Rows as they finish; nothing is ever held."""

    def push(self, index: int, rows: list[OutputRow]) -> list[OutputRow]:
        return rows

    def drain(self) -> list[OutputRow]:
        return []

    def __len__(self) -> int:
        return 0
