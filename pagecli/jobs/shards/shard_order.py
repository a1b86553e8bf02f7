"""Whether parts of a job are all there, and their rows in order without a gap."""

from pagecli.errors import InputError


class ShardOrder:
    """Takes the places of rows as they are written; several rows may have one place (samples)."""

    def __init__(self) -> None:
        self.last = -1

    def next(self, row: int) -> None:
        """Raises InputError if rows are missing before `row`."""
        if row > self.last + 1:
            raise missing_row(self.last + 1)
        self.last = row

    @staticmethod
    def check_step(path: str, before: tuple[int, int, int], now: tuple[int, int, int]) -> None:
        """That (number, count, place) of a part's row follow those of the row before. Raises InputError."""
        if before[:2] != now[:2]:
            raise InputError(f"{path} has rows of parts {before[0]}/{before[1]} and {now[0]}/{now[1]}", "merge one run's parts")
        if now[2] not in (before[2], before[2] + now[1]):
            raise InputError(
                f"{path} has row {now[2]} of the whole after row {before[2]}", "it is not as it was written, or not complete"
            )


def missing_row(row: int) -> InputError:
    return InputError(f"row {row} of the whole is missing", "a part is not complete: run it again, then merge")


def check_parts(parts: list[tuple[str, tuple[int, int] | None]]) -> None:
    """That all parts of one job are there, each once: (path, (number, count)), None of one without rows. Raises InputError."""
    paths: dict[int, str] = {}
    counts = {found[1]: path for path, found in parts if found is not None}
    if len(counts) > 1:
        (one, first), (other, second) = list(counts.items())[:2]
        raise InputError(f"{first} is one of {one} parts, {second} one of {other}", "merge the parts of one job")
    for path, found in parts:
        if found is None:
            continue
        number, count = found
        if not 1 <= number <= count:
            raise InputError(f"{path} is part {number}/{count}", "give outputs of pagecli generate --shard I/N")
        if number in paths:
            raise InputError(f"{paths[number]} and {path} are both part {number}/{count}", "leave one of them out")
        paths[number] = path
    num_empty = sum(found is None for _, found in parts)
    for count in counts:
        missing = [number for number in range(1, count + 1) if number not in paths]
        if len(missing) > num_empty:
            shown = ", ".join(f"{number}/{count}" for number in missing[:8]) + (", ..." if len(missing) > 8 else "")
            raise InputError(f"parts are missing: {shown}", "name all of them")
        if len(parts) > count:
            raise InputError(f"{len(parts)} files are given, but there are {count} parts", "leave out what is none")
