"""`pagecli profile --run` and `--sweep` on a tiny real model, in this process."""

import json

import pyarrow.parquet as pq
import pytest

from pagecli.cli.app import main
from pagecli.profiler.workloads.workloads import BUILT_IN, built_in


@pytest.fixture
def profile(tiny_model, tmp_path, monkeypatch, capfd):
    """profile(*flags) -> (exit code, stdout, stderr) of the tiny Llama, in a directory of its own."""
    monkeypatch.setattr("pagecli.cli.profile.run.quieten", lambda *args, **settings: None)
    monkeypatch.setenv("COLUMNS", "140")  # the tables' cells on one line each
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lengths.csv").write_text("prompt_tokens,output_tokens\n" + "".join(f"{8 + i},{5 + i}\n" for i in range(8)))

    def run(*flags):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["profile", "--model", str(tiny_model("llama")), "--dtype", "float32", "--kv-memory", "1MiB", *flags])
        return ended.value.code, *capfd.readouterr()

    return run


def test_a_run_compares_policies_and_writes_steps_and_timeline(profile, tmp_path):
    code, out, err = profile(
        *("--run", "--workload", "lengths.csv", "--json", "--steps", "steps.parquet", "--trace", "trace.json")
    )
    assert code == 0
    run = json.loads(out)["run"]
    assert [(row["policy"], row["batching"]) for row in run["policies"]] == [
        ("paged", "continuous"),
        ("reserve-max", "continuous"),
        ("reserve-max", "static"),
        ("reserve-max", "none"),
    ]
    shares = ("token_states", "reservation", "internal_fragmentation", "external_fragmentation", "free")
    for row in run["policies"]:
        assert row["measured"]
        assert row["num_requests"] == row["details"]["num_finished"] == 8
        assert row["output_tokens_per_second"] > 0
        assert sum(row[name] for name in shares) == pytest.approx(100, abs=0.1)
    speeds = [row["output_tokens_per_second"] for row in run["policies"]]
    assert [ratio["paged_is_times"] for ratio in run["ratios"]] == pytest.approx([speeds[0] / speed for speed in speeds[1:]])
    assert [ratio["claim"]["high"] for ratio in run["ratios"]] == [4, 4, 24]
    assert run["kv_memory_bytes"] == 1 << 20
    steps = pq.read_table(tmp_path / "steps.parquet")
    assert steps.num_rows == run["policies"][0]["num_steps"] == run["summaries"][0]["num_steps"]
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert len([event for event in events if event.get("cat") == "step"]) == steps.num_rows
    assert "paged, continuous batching (1 of 4)" in err
    assert "written: steps.parquet" in err


def test_the_table_shows_the_ratios_beside_published_speedups(profile):
    code, out, _ = profile("--run", "--workload", "lengths.csv", "--max-seconds", "0")
    assert code == 0
    for words in (
        "Measured: ",
        "Each policy has 1 MiB of KV memory",
        "2-4x over Orca",
        "FasterTransformer",
        "up to 24x",
        "8 of 8",
    ):
        assert words in " ".join(out.split())
    assert "Time of the paged run: schedule" in out


def test_a_sweep_prints_the_familiar_table_with_or_without_quotes(profile):
    for sizes in (["batch=1,2 prompt=16 output=8"], ["batch=1,2", "prompt=16", "output=8"]):
        code, out, err = profile("--workload", "lengths.csv", "--sweep", *sizes)
        assert code == 0, err
        rows = [line.split("|")[1:5] for line in out.splitlines() if line.startswith("|")]
        assert [[cell.strip() for cell in row] for row in (rows[0], *rows[2:])] == [
            ["PP", "TG", "B", "N_KV"],
            ["16", "8", "1", "24"],
            ["16", "8", "2", "48"],
        ]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--steps", "steps.parquet"], 2, "--steps without --run"),
        (["--trace", "trace.json"], 2, "--trace without --run"),
        (["--run", "--trace", "missing/trace.json"], 3, "--trace missing/trace.json: not a file in a directory that exists"),
        (["batch=1"], 2, "unexpected argument 'batch=1'"),
        (["--sweep", "batch=none"], 2, "--sweep: 'batch=none' is not understood"),
        (["--run", "--kv-dtype", "fp8"], 2, "--run and --sweep have no KV cache of fp8"),
        (["--run", "--kv-memory", "4KiB"], 4, "less than one KV block"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(profile, flags, code, message):
    ended, _, err = profile("--workload", "lengths.csv", *flags)
    assert (ended, message in err) == (code, True), err


def test_a_run_takes_few_requests_unless_it_is_told_how_many():
    from types import SimpleNamespace

    from pagecli.cli.profile.options import ProfileOptions
    from pagecli.cli.profile.run import NUM_REQUESTS, _run_workload

    for name in BUILT_IN:
        job = SimpleNamespace(workload=built_in(name))
        assert len(_run_workload(job, ProfileOptions("m")).requests) == NUM_REQUESTS
        assert _run_workload(job, ProfileOptions("m", num_requests=1000)) is job.workload
