"""The state of a job in automatic parts (--shard auto/N), read from its directory of parts: takes no lock, changes nothing."""

from pathlib import Path

from pagecli.core import file_targets
from pagecli.jobs.monitoring.job_status import JobState, JobStatus, job_status, num_rows_of
from pagecli.jobs.shards.part_directory import JOB, MERGED, PartFiles, PartsJob


def parts_status(output: str) -> JobStatus | None:
    """None if `output` has no parts, or they have been put together. Raises InputError, UsageError.

    Rows are those of complete parts and those in the journals of the others.
    """
    if file_targets.is_remote(output):
        return None
    files = PartFiles(Path(file_targets.local(output)))
    job: PartsJob | None = files.read(JOB, PartsJob)
    if job is None:
        return None
    count = job.count
    if (files.path / MERGED).exists() and files.output.exists():
        return None
    num_rows, num_complete, states = 0, 0, []
    for number in range(1, count + 1):
        part = files.part(number, count)
        if part.exists():
            num_complete += 1
            num_rows += num_rows_of(part) or 0
        else:
            found = job_status(str(part))
            num_rows += found.num_rows or 0
            states.append(found.state)
    num_running = states.count(JobState.running)
    state = JobState.running if num_running else JobState.killed if JobState.killed in states else JobState.stopped
    return JobStatus(
        output, state, num_rows=num_rows, num_parts=count, num_parts_complete=num_complete, num_parts_running=num_running
    )
