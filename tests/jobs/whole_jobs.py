"""Whole jobs from file to file with the fake engine, as generate puts them together."""

from pathlib import Path

from fake_engine import FakeEngine, FakeTokenizer

from pagecli.core.sampling_params import SamplingParams
from pagecli.jobs.readers.open_input import open_input
from pagecli.jobs.rows.row import ResultColumns
from pagecli.jobs.rows.row_preparer import PromptOptions, RowPreparer
from pagecli.jobs.rows.row_selection import RowChoice, SelectedRows
from pagecli.jobs.run.job_loop import JobRun, LoopLimits
from pagecli.jobs.writers.open_output import OutputOptions, open_output


def run_job(
    source: Path | str, output: Path | str, seed: int = 0, chat: bool = False, options=None, job: str = "a-b-c-d-e", **choice
) -> None:
    """Runs `source` to `output`; `choice` are fields of RowChoice. What finishes when depends on `seed`, no text does."""
    selection = RowChoice(**choice).parse()
    rows = SelectedRows(open_input(str(source)), selection)
    options = options or OutputOptions(shard=selection.shard, job_key=job, num_selected=lambda: rows.num_selected)
    writer = open_output(str(output), False, ResultColumns(), rows.schema, lambda text: None, options=options)
    preparer = RowPreparer(FakeTokenizer(chat), 256, PromptOptions(), SamplingParams(max_tokens=20))
    JobRun(FakeEngine(4, seed), preparer.prepare, writer, LoopLimits(8, 16, 8)).run(rows)
    writer.finish()
