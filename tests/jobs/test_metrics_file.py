"""The metrics file is what Prometheus' own parser takes, is replaced in one step, and remembers the last success."""

import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pagecli.errors import ExitCode, InputError
from pagecli.jobs.monitoring.monitor import JobMonitor, JobSnapshot
from pagecli.jobs.monitoring.prometheus import LAST_SUCCESS, METRICS, MetricsFile, last_values, metrics_text
from pagecli.jobs.rows.row import RowEstimate

STATS = {"load_seconds": 1.5, "kv_blocks_total": 100, "num_input_rows": 10, "num_error_rows": 1, "prompt_tokens": 40}
STATS |= {"output_tokens": 60, "num_sampled_tokens": 60, "num_preemptions": 2}


def samples(text: str) -> dict[str, float]:
    families = [*text_string_to_metric_families(text)]
    assert len({family.name for family in families}) == len(families)
    return {sample.name: sample.value for family in families for sample in family.samples}


def started(path, input="in.jsonl", output="out.parquet", model="m") -> JobMonitor:
    monitor = JobMonitor(JobSnapshot(input, output, model), [MetricsFile(path)], pytest.fail)
    monitor.start()
    return monitor


def run(path, *end, output="out.parquet", **stats) -> JobMonitor:
    """A job that has begun, and that has ended if it is said how."""
    monitor = started(path, output=output)
    monitor.begin()
    if end:
        monitor.end(*end, **stats)
    return monitor


def test_figures_of_a_run_from_start_to_end(tmp_path):
    path = tmp_path / "job.prom"
    monitor = run(path)
    assert samples(path.read_text())["pagecli_job_running"] == 1
    monitor.loaded(STATS)
    monitor.checkpoint(4)
    monitor.progress(RowEstimate(10, True), num_rows=5, num_error_rows=1, kv_usage=0.25, output_tokens=30)
    found = samples(path.read_text())
    assert found["pagecli_rows_total"] == 5
    assert found["pagecli_kv_usage_ratio"] == 0.25
    assert found["pagecli_input_rows"] == 10
    assert "pagecli_job_eta_seconds" not in found, "not known after the first rows"
    assert found["pagecli_checkpoint_rows"] == 4
    assert found["pagecli_process_resident_memory_bytes"] > 10**6
    assert LAST_SUCCESS not in found
    monitor.end(ExitCode.OK, stats=STATS)
    found = samples(path.read_text())
    assert found["pagecli_rows_total"] == 10
    assert (found["pagecli_job_running"], found["pagecli_job_exit_code"]) == (0, 0)
    assert found[LAST_SUCCESS] >= found["pagecli_job_start_timestamp_seconds"]
    assert "pagecli_job_eta_seconds" not in found
    assert os.listdir(tmp_path) == ["job.prom"]


def test_types_and_units_are_declared_for_every_metric():
    text = metrics_text(dict.fromkeys(METRICS, 1), {}, {}).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) == len(METRICS)
    for name, (text, _) in METRICS.items():
        family = families[name.removesuffix("_total")]
        assert (family.type, family.documentation) == ("counter" if name.endswith("_total") else "gauge", text)


def test_the_last_success_outlives_a_failed_run_and_one_with_error_rows(tmp_path):
    path = tmp_path / "job.prom"
    run(path, 0, stats=STATS)
    success = samples(path.read_text())[LAST_SUCCESS]
    run(path, 4, "no such model")
    found = samples(path.read_text())
    assert (found[LAST_SUCCESS], found["pagecli_job_exit_code"]) == (success, 4)
    run(path, 5, stats=STATS)
    found = samples(path.read_text())
    assert found[LAST_SUCCESS] == success
    assert found["pagecli_job_last_completion_timestamp_seconds"] > success


@pytest.mark.parametrize(
    "old", ["", "garbage", f"{LAST_SUCCESS}{{}} many\n", f"{LAST_SUCCESS}\n", f'{LAST_SUCCESS}{{a="b"}} NaN\n']
)
def test_an_old_file_that_makes_no_sense_is_replaced(tmp_path, old):
    path = tmp_path / "job.prom"
    path.write_text(old)
    assert last_values(path, (LAST_SUCCESS,)) == {}
    run(path)
    assert samples(path.read_text())["pagecli_job_running"] == 1


def test_a_write_that_fails_names_the_file_once_and_says_why(tmp_path):
    said = []
    folder = tmp_path / "metrics"
    folder.mkdir()
    monitor = JobMonitor(JobSnapshot("in", "out", "m"), [MetricsFile(folder / "job.prom")], said.append)
    monitor.start()
    shutil.rmtree(folder)
    monitor.begin()
    monitor.end(ExitCode.OK)
    why = "cannot be written: its directory is not there any more"
    assert said == [f"--metrics-file: {folder / 'job.prom'} {why}; the job continues"]


def test_a_run_that_is_refused_leaves_the_figures_of_the_one_at_work(tmp_path):
    path = tmp_path / "job.prom"
    run(path)
    before = path.read_text()
    started(path).end(2, "another run is writing out.parquet")
    assert path.read_text() == before
    started(path).end(3, "no such file")
    assert samples(path.read_text())["pagecli_job_exit_code"] == 3


def test_a_file_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        MetricsFile(tmp_path / "none" / "job.prom")


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_labels_survive_any_text(text):
    labels = {"output": text, "other": "x"}
    values = {"pagecli_rows_total": 3, "pagecli_job_info": 1}
    families = [*text_string_to_metric_families(metrics_text(values, labels, {"model": text}).decode())]
    found = {family.name: family.samples[0] for family in families}
    assert found["pagecli_rows"].labels == labels
    assert found["pagecli_job_info"].labels == {**labels, "model": text}


@pytest.mark.parametrize(("output", "label"), [("-", "-"), ("s3://b/out.parquet", "s3://b/out.parquet"), ("o.jsonl", None)])
def test_series_are_told_apart_by_their_output(tmp_path, output, label):
    path = tmp_path / "job.prom"
    run(path, output=output)
    [family] = [f for f in text_string_to_metric_families(path.read_text()) if f.name == "pagecli_rows"]
    assert family.samples[0].labels["output"] == (label or os.path.abspath(output))


def test_passwords_in_names_do_not_reach_it(tmp_path):
    path = tmp_path / "job.prom"
    started(path, "https://u:sesame99@host/in", "out.parquet", "https://host/m?token=sesame99").begin()
    assert "sesame99" not in path.read_text()
