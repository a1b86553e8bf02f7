"""`pagecli generate --profile DIR`: what a recorded job leaves behind, however it ends."""

import json

import pyarrow.parquet as pq
import pytest

from pagecli.engine.engine import Engine

ROWS = [{"id": i, "prompt": f"the quick brown fox {i}"} for i in range(6)]


@pytest.mark.slow
def test_the_directory_has_steps_timeline_figures_and_page(generate, tmp_path):
    code, _, err = generate(ROWS, "out.jsonl", "--profile", "figures/of/it", "--stats", "stats.json")
    assert code == 0
    assert "profile: figures/of/it/report.html" in err
    directory, stats = tmp_path / "figures/of/it", json.loads((tmp_path / "stats.json").read_text())
    assert {path.name for path in directory.iterdir()} == {"steps.parquet", "trace.json", "summary.json", "report.html"}
    steps = pq.read_table(directory / "steps.parquet")
    assert steps.num_rows == stats["num_steps"]
    assert json.loads(steps.schema.metadata[b"pagecli"])["kv_block_size"] == stats["kv_block_size"]
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["num_requests"] == len(ROWS)
    assert summary["output_tokens"] == stats["output_tokens"]
    assert summary["kv"]["blocks_used_peak"] == stats["kv_blocks_peak"]
    assert set(summary["latency"]) == {"time_to_first_token", "time_per_output_token", "end_to_end"}
    assert summary["hardware"]["host"]["process_memory_bytes_peak"] > 0
    slices = [e for e in json.loads((directory / "trace.json").read_text())["traceEvents"] if e["ph"] == "X"]
    assert len([e for e in slices if e["cat"] == "step"]) == stats["num_steps"]
    assert "the quick brown fox" not in (directory / "report.html").read_text(), "metrics, no data"


def test_a_job_that_fails_leaves_what_was_seen_until_then(generate, tmp_path, monkeypatch):
    step, steps = Engine.step, []

    def failing(self):
        steps.append(1)
        if len(steps) > 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Engine, "step", failing)
    monkeypatch.setattr("pagecli.profiler.report.html.write_report", lambda *args: None)
    code, _, _ = generate(ROWS, "out.jsonl", "--profile", "figures")
    assert code == 130
    assert pq.read_table(tmp_path / "figures" / "steps.parquet").num_rows == 3
    assert json.loads((tmp_path / "figures" / "summary.json").read_text())["num_steps"] == 3


def test_a_report_that_cannot_be_made_is_a_warning(generate, tmp_path, monkeypatch):
    def broken(*args):
        raise ValueError("no chart today")

    monkeypatch.setattr("pagecli.profiler.report.html.write_report", broken)
    code, _, err = generate(ROWS, "out.jsonl", "--profile", "figures")
    assert code == 0
    assert "warning: the profile is not complete: no chart today" in err
    assert (tmp_path / "figures" / "trace.json").exists()
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == len(ROWS)


def test_a_directory_that_cannot_be_made_is_refused_before_the_model_is_loaded(generate, tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "__init__", lambda *given, **options: pytest.fail("the model was loaded"))
    (tmp_path / "taken").write_text("")
    code, _, err = generate(ROWS, "out.jsonl", "--profile", "taken")
    assert code == 3
    assert "error: --profile taken: File exists" in err
    assert not (tmp_path / "out.jsonl").exists()
