"""The metrics file is what Prometheus' own parser takes, is replaced in one step, and remembers the last success."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pagecli.errors import ExitCode, InputError
from pagecli.jobs.monitoring.events import JobEnd, JobFacts, Look
from pagecli.jobs.monitoring.prometheus import LAST_SUCCESS, METRICS, MetricsFile, last_values, metrics_text
from pagecli.jobs.rows.input_row import RowEstimate
from pagecli.jobs.run.job_loop import Progress

STATS = {"load_seconds": 1.5, "kv_blocks_total": 100, "num_input_rows": 10, "num_error_rows": 1, "prompt_tokens": 40}
STATS |= {"output_tokens": 60, "num_preemptions": 2}
LOOK = Look(Progress(5, 1, 3, 2, 0.25, 30, RowEstimate(10, True)), 12.0, 2.0, 2.5)


def samples(text: str) -> dict[str, float]:
    families = [*text_string_to_metric_families(text)]
    assert len({family.name for family in families}) == len(families)
    return {sample.name: sample.value for family in families for sample in family.samples}


def run(path, *ends, output="out.parquet"):
    metrics = MetricsFile(path)
    metrics.started(JobFacts("in.jsonl", output, "m"))
    metrics.begun()
    for end in ends:
        metrics.ended(end)
    return metrics


def test_figures_of_a_run_from_start_to_end(tmp_path):
    path = tmp_path / "job.prom"
    metrics = run(path)
    assert samples(path.read_text())["pagecli_job_running"] == 1
    metrics.loaded(STATS)
    metrics.progress(LOOK)
    metrics.checkpoint(4)
    metrics.progress(LOOK)
    found = samples(path.read_text())
    assert found["pagecli_rows_total"] == 5
    assert found["pagecli_kv_usage_ratio"] == 0.25
    assert found["pagecli_input_rows"] == 10
    assert found["pagecli_job_eta_seconds"] == 2.5
    assert found["pagecli_checkpoint_rows"] == 4
    assert found["pagecli_process_resident_memory_bytes"] > 10**6
    assert LAST_SUCCESS not in found
    metrics.ended(JobEnd(ExitCode.OK, stats=STATS))
    found = samples(path.read_text())
    assert found["pagecli_rows_total"] == 10
    assert (found["pagecli_job_running"], found["pagecli_job_exit_code"]) == (0, 0)
    assert found[LAST_SUCCESS] >= found["pagecli_job_start_timestamp_seconds"]
    assert "pagecli_job_eta_seconds" not in found
    assert os.listdir(tmp_path) == ["job.prom"]


def test_types_and_units_are_declared_for_every_metric():
    families = {
        family.name: family for family in text_string_to_metric_families(metrics_text(dict.fromkeys(METRICS, 1), {}, {}))
    }
    assert len(families) == len(METRICS)
    for name, (kind, text) in METRICS.items():
        family = families[name.removesuffix("_total")]
        assert (family.type, family.documentation) == (kind, text)
        assert name.endswith("_total") == (kind == "counter")


def test_the_last_success_outlives_a_failed_run_and_one_with_error_rows(tmp_path):
    path = tmp_path / "job.prom"
    run(path, JobEnd(0, stats=STATS))
    success = samples(path.read_text())[LAST_SUCCESS]
    run(path, JobEnd(4, "no such model"))
    found = samples(path.read_text())
    assert (found[LAST_SUCCESS], found["pagecli_job_exit_code"]) == (success, 4)
    run(path, JobEnd(5, stats=STATS))
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


def test_a_run_that_is_refused_leaves_the_figures_of_the_one_at_work(tmp_path):
    path = tmp_path / "job.prom"
    run(path)
    before = path.read_text()
    second = MetricsFile(path)
    second.started(JobFacts("in.jsonl", "out.parquet", "m"))
    second.ended(JobEnd(2, "another run is writing out.parquet"))
    assert path.read_text() == before
    third = MetricsFile(path)
    third.started(JobFacts("in.jsonl", "out.parquet", "m"))
    third.ended(JobEnd(3, "no such file"))
    assert samples(path.read_text())["pagecli_job_exit_code"] == 3


def test_a_file_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        MetricsFile(tmp_path / "none" / "job.prom")


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_labels_survive_any_text(text):
    labels = {"output": text, "other": "x"}
    families = [*text_string_to_metric_families(metrics_text({"pagecli_rows_total": 3}, labels, {"model": text}))]
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
    metrics = MetricsFile(path)
    metrics.started(JobFacts("https://u:sesame99@host/in", "out.parquet", "https://host/m?token=sesame99"))
    metrics.begun()
    assert "sesame99" not in path.read_text()
