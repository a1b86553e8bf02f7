"""Sums and means over a run; exact where the recording has totals, else of the steps it kept."""

from pagecli.profiler.recording.records import Recording, StepRecord


def total(recording: Recording, name: str) -> float:
    """The sum of a field of StepRecord over all steps of the run."""
    if name in recording.totals:
        return recording.totals[name]
    return float(sum(getattr(step, name) for step in recording.steps))


def num_steps(recording: Recording) -> int:
    return int(recording.totals.get("num_steps", len(recording.steps)))


def num_requests(recording: Recording) -> int:
    """Finished requests."""
    return int(recording.totals.get("num_requests", len(recording.requests)))


def end_seconds(steps: list[StepRecord]) -> float:
    """From the beginning of the recording to the end of its last step."""
    return steps[-1].start_seconds + steps[-1].seconds if steps else 0.0


def block_size_of(recording: Recording) -> int | None:
    """Slots in a block; None if the recording's metadata lacks it."""
    if recording.block_maps:
        return recording.block_maps[0].block_size
    return metadata_int(recording, "block_size") or metadata_int(recording, "kv_block_size")


def metadata_int(recording: Recording, name: str) -> int | None:
    """The metadata entry `name` if it is a positive integer, else None."""
    value = recording.metadata.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
