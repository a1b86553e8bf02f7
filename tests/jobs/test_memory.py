"""Memory must not grow with the number of rows: the whole way from file to file, journal included, a fake engine in between."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

JOB = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from fake_engine import FakeEngine, FakeTokenizer
from pagecli.core.sampling_params import SamplingParams
from pagecli.jobs.rows.row import ResultColumns
from pagecli.jobs.readers.open_input import open_input
from pagecli.jobs.rows.row_preparer import PromptOptions, RowPreparer
from pagecli.jobs.journal.locked_output import lock_output
from pagecli.jobs.run.job_loop import JobRun, LoopLimits
from pagecli.cli.generate.reporting import peak_rss_bytes
from pagecli.jobs.writers.open_output import open_output
locked = lock_output(Path({output!r}))
journal = locked.open_journal({{"weights": [], "uses_time": False}}, [], restart=False)
source = open_input({source!r})
writer = open_output({output!r}, True, ResultColumns(), source.schema, print)
preparer = RowPreparer(FakeTokenizer(), 256, PromptOptions(), SamplingParams())
result = JobRun(FakeEngine(128), preparer.prepare, writer, LoopLimits.for_engine(128), journal=journal).run(source)
writer.finish()
locked.complete()
locked.close()
print(result.num_rows, peak_rss_bytes() // 2**20)
"""


def peak_mib(source: Path, output: Path, num_rows: int) -> int:
    script = JOB.format(here=str(Path(__file__).parent), source=str(source), output=str(output))
    words = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert int(words[0]) == num_rows
    return int(words[1])


@pytest.mark.slow
@pytest.mark.parametrize(("source_name", "output_name"), [("in.jsonl", "out.parquet"), ("in.parquet", "out.jsonl")])
def test_six_times_the_rows_take_no_more_memory(tmp_path, source_name, output_name):
    """Measured: 85 MiB at 10,000 rows and at 100,000, most of it the code of Arrow."""
    peaks = []
    for num_rows in (10_000, 60_000):
        rows = ({"id": i, "prompt": f"row {i} " + "word " * 20} for i in range(num_rows))
        if source_name.endswith("parquet"):
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(list(rows)), tmp_path / source_name, row_group_size=5000)
        else:
            (tmp_path / source_name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        peaks.append(peak_mib(tmp_path / source_name, tmp_path / output_name, num_rows))
    assert peaks[1] < peaks[0] + 12  # 50,000 more rows in memory would be above 28
