"""`pagecli profile`: the plan on a terminal and as JSON, on machines with and without room, and what is said of bad input."""

import dataclasses
import json
import subprocess
import sys

import pytest
from tiny_adapters import save_adapter

from pagecli.cli.app import main
from pagecli.core.dtypes import CPU_DTYPES, DTYPES, GPU_DTYPES
from pagecli.core.engine_config import EngineConfig
from pagecli.devices import memory
from pagecli.engine import loaded_model
from pagecli.errors import ModelError
from pagecli.model.registry import resolve_model
from pagecli.profiler.plan import local_device, measured_rates
from pagecli.profiler.plan.local_device import LocalGpus

GIB = 2**30


@pytest.fixture
def profile(tmp_path, monkeypatch, capsys):
    """profile(*flags, ram=bytes) -> (exit code, stdout, stderr), on a machine of two avx2 cores without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAGECLI_CPU_ISA", "avx2")
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setattr(local_device, "usable_cores", lambda: 2)
    monkeypatch.setattr(measured_rates, "_measure_host", lambda: None)
    monkeypatch.setattr("pagecli.cli.profile.plan.find_gpus", lambda: LocalGpus(None, 0, "no NVIDIA GPU: none here"))

    def run(*flags: str, ram: int = 20 * GIB) -> tuple[int, str, str]:
        monkeypatch.setattr(local_device, "available_bytes", lambda: ram)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["profile", *flags])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def report(profile, *flags: str, **machine) -> dict:
    """The plan alone, as JSON."""
    code, out, err = profile(*flags, "--json", "--no-replay", **machine)
    assert (code, err) == (0, "")
    return json.loads(out)


def test_the_plan_of_the_paper_is_shown_with_the_flags_for_generate(profile):
    code, out, err = profile("--model", "opt-13b", "--gpu", "a100-40gb", "--no-replay", "--all")
    assert (code, err) == (0, "")
    for text in (
        "opt-13b on NVIDIA A100 40GB",
        "weights",
        "KV cache",
        "12.01 GiB",
        "983 blocks of 16",
        "819,200 bytes a token",
    ):
        assert text in out
    for text in ("15,728 slots", "Largest batch before memory: 35 sequences", "an estimate, not measured", "p95"):
        assert text in out
    flags = "--device cuda --dtype bfloat16 --block-size 16 --kv-memory 12293MiB --max-num-seqs 35 --max-batch-tokens 4096"
    _, answer, *rest = out.replace(" \\\n    ", " ").splitlines()
    assert answer.startswith("Fits: 35 requests at a time, 1,196 output tokens/s at best, 2 min for the 500 requests.")
    assert f"pagecli generate INPUT OUTPUT --model opt-13b {flags}" in rest[:4]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        "-m smollm2-135m",
        "-m opt-13b",  # for a GPU of the catalogue, with advice
        pytest.param("-m llama-3.1-405b", marks=pytest.mark.slow),
        pytest.param("-m opt-175b --gpu t4", marks=pytest.mark.slow),
        "-m qwen2.5-0.5b --dtype int8 --kv-dtype int8 --kv-memory 64MiB --max-num-seqs 4",
        "-m opt-125m --workload long.csv",  # some are too long
    ],
)
def test_the_first_page_is_a_screen_of_24_rows(profile, monkeypatch, tmp_path, flags):
    (tmp_path / "long.csv").write_text("prompt_tokens,output_tokens\n4000,9\n40,9\n")
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = profile(*flags.split())
    assert (code, err) == (4 if "t4" in flags else 0, "")
    lines = out.splitlines()
    assert len(lines) <= 22, "the prompts before and after it take one each"
    assert max(map(len, lines)) <= 80
    if code == 0:
        assert any(line.startswith("Fits: ") for line in lines[:4])
        assert any(line.startswith("pagecli generate INPUT OUTPUT") for line in lines[:7])
    assert "p95" not in out
    assert "--all" in lines[-1] or "Advice" in out


# The fields that the README documents.
PLAN_FIELDS = (
    "device dtype kv_dtype block_size fits missing_bytes memory_bytes memory weights_bytes weights_are_exact step_bytes "
    "kv_bytes_per_token kv_memory_bytes kv_blocks kv_slots concurrency largest_batch estimate generate_flags"
)
DEVICE_FIELDS = "name title kind count memory_bytes bandwidth_bytes_per_second flops_per_second source note"
WORKLOAD_FIELDS = (
    "name note num_requests num_too_long requests_per_second prefix_block_size prompt_tokens output_tokens total_tokens"
)
ESTIMATE_FIELDS = "batch mean_context_tokens step_seconds output_tokens_per_second seconds bound"


def test_json_is_one_object_with_the_documented_fields(profile):
    found = report(profile, "-m", "opt-13b", "--gpu", "a100-40gb", "--kv-memory", "12GiB")
    assert found["schema_version"] == 2
    assert set(found["plan"]) == set(PLAN_FIELDS.split())
    assert set(found["plan"]["device"]) == set(DEVICE_FIELDS.split())
    assert set(found["workload"]) == set(WORKLOAD_FIELDS.split())
    assert set(found["plan"]["estimate"]) == set(ESTIMATE_FIELDS.split())
    plan = found["plan"]
    assert (plan["weights_bytes"], plan["kv_bytes_per_token"], plan["kv_slots"]) == (25_706_946_560, 819_200, 15_728)
    assert [one["name"] for one in plan["concurrency"]] == ["p50", "mean", "p95", "max"]
    assert sum(part["num_bytes"] for part in plan["memory"]) == plan["memory_bytes"]
    assert found["model"]["num_parameters"] == 12_853_473_280
    assert found["workload"]["num_requests"] == 500


def test_without_a_gpu_the_machines_ram_is_planned_by_the_engines_rule(profile):
    plan = report(profile, "-m", "opt-125m", ram=4 * GIB)["plan"]
    assert (plan["device"]["kind"], plan["dtype"]) == ("host", "float32")
    assert plan["kv_memory_bytes"] == int((4 * GIB - plan["weights_bytes"]) * 0.6)


def test_a_model_that_fits_the_machine_only_in_bfloat16_is_planned_so(profile):
    plan = report(profile, "-m", "opt-6.7b", ram=20 * GIB)["plan"]
    assert (plan["device"]["kind"], plan["dtype"], plan["fits"]) == ("host", "bfloat16", True)
    assert "float32 does not fit" in plan["device"]["note"]


@pytest.mark.slow
def test_a_model_too_large_for_the_machine_is_planned_for_the_smallest_gpu_that_holds_it(profile):
    plan = report(profile, "-m", "opt-13b", ram=20 * GIB)["plan"]
    assert (plan["device"]["name"], plan["kv_slots"]) == ("a100-40gb", 15_728)
    assert "does not fit this machine (20.0 GiB available)" in plan["device"]["note"]
    code, out, _ = profile("-m", "llama-3.1-405b", "--no-replay")
    assert code == 0
    assert "8 x NVIDIA" in out


def test_this_machines_gpu_comes_first_and_as_many_as_are_needed(profile, monkeypatch):
    from pagecli.profiler.plan.gpus import find_gpu

    monkeypatch.setattr("pagecli.cli.profile.plan.find_gpus", lambda: LocalGpus(find_gpu("a100-40gb"), 4, ""))
    assert report(profile, "-m", "opt-13b")["plan"]["device"]["count"] == 1
    assert report(profile, "-m", "opt-66b")["plan"]["device"]["count"] == 4
    code, out, _ = profile("-m", "opt-66b", "--num-gpus", "2", "--no-replay")
    assert code == 4
    assert "Does not fit" in out


def test_what_does_not_fit_the_gpu_that_was_named_is_shown_and_exits_with_4(profile):
    code, out, err = profile("-m", "opt-13b", "--gpu", "t4")
    assert (code, err) == (4, "")
    assert "Does not fit: weights 23.94 GiB + a step 1.66 GiB = 25.60 GiB of 14.75 GiB, 11.59 GiB too much" in out
    assert "Estimate" not in out
    code, out, _ = profile("-m", "opt-13b", "--gpu", "t4", "--json")
    assert (code, json.loads(out)["plan"]["estimate"], json.loads(out)["plan"]["kv_slots"]) == (4, None, 0)


def test_the_largest_cache_that_fits_is_named_and_fits(profile):
    code, out, _ = profile("-m", "opt-125m", "--kv-memory", "40GiB", ram=8 * GIB)
    assert code == 4
    largest = out.split("The largest KV cache that fits is --kv-memory ")[1].split(".")[0]
    assert report(profile, "-m", "opt-125m", "--kv-memory", largest, ram=8 * GIB)["plan"]["fits"]


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["-m", "opt-13"], 4, "no model 'opt-13'|did you mean opt-13b"),
        (["-m", "opt-13b", "--gpu", "a100"], 2, "no GPU 'a100'|a100-40gb or a100-80gb"),
        (["-m", "opt-13b", "--num-gpus", "2"], 2, "--num-gpus 2 without a GPU|name one with --gpu"),
        (["-m", "opt-13b", "--num-gpus", "0"], 2, "--num-gpus|--help"),
        (["-m", "opt-13b", "--workload", "alpca"], 2, "no workload 'alpca'|did you mean alpaca"),
        (["-m", "opt-13b", "--workload", "none.csv"], 3, "none.csv: no such file|check the path"),
        (["-m", "opt-13b", "--workload", "none.parquet"], 3, "none.parquet|"),
        (["-m", "opt-13b", "--workload", "bad.csv"], 3, "bad.csv: line 2: output_tokens is 'x', not a whole number|"),
        (["-m", "opt-13b", "--workload", "sharegpt", "--request-rate", "0"], 2, "the request rate is 0|per second from"),
        (["-m", "opt-13b", "--num-requests", "9" * 20], 2, "equal to 10000000|see pagecli"),
        (["-m", "opt-13b", "--gpu", "l4", "--num-gpus", "9" * 20], 2, "equal to 65536|see pagecli"),
        (["-m", "opt-13b", "--policies", "reserve-mx"], 2, "no policy 'reserve-mx'|did you mean reserve-max"),
        (["-m", "opt-13b", "--policies", "paged/often"], 2, "no batching 'often'|continuous, static, none"),
        (["-m", "opt-13b", "--kv-memory", "lots"], 2, "--kv-memory is 'lots', not a size|4GiB"),
        (["-m", "opt-13b", "--dtype", "int3"], 2, "--dtype|--help"),
        (["-m", "opt-13b", "--block-size", "0"], 2, "--block-size|--help"),
    ],
)
def test_bad_input_is_one_line_with_a_hint(profile, tmp_path, flags, code, says):
    (tmp_path / "bad.csv").write_text("prompt_tokens,output_tokens\n1,x\n")
    found, out, err = profile(*flags)
    assert (found, out) == (code, "")
    message, hint = says.split("|")
    lines = err.splitlines()
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    if hint:
        assert lines[1].startswith("hint: ")
        assert hint in lines[1]
    assert len(lines) <= 2


@pytest.mark.slow
def test_plan_and_replay_together_keep_what_the_json_promises(profile):
    code, out, err = profile("-m", "opt-13b", "--gpu", "a100-40gb", "--num-requests", "100", "--compare", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)["replay"]
    assert {(row["policy"], row["batching"]) for row in rows} >= {("paged", "continuous"), ("reserve-max", "static")}
    for row in rows:
        shares = [
            row[name] for name in ("token_states", "reservation", "internal_fragmentation", "external_fragmentation", "free")
        ]
        assert sum(shares) == pytest.approx(100, abs=0.1)
        assert row["mean_batch"] > 0


def test_policies_are_those_named(profile):
    flags = (
        "-m",
        "opt-13b",
        "--gpu",
        "a100-40gb",
        "--num-requests",
        "50",
        "--policies",
        "reserve-max/static,paged-prefix,paged",
    )
    _, out, _ = profile(*flags, "--json")
    rows = json.loads(out)["replay"]
    assert [(row["policy"], row["batching"], row["prefix_caching"]) for row in rows] == [
        ("reserve-max", "static", False),
        ("paged", "continuous", True),
        ("paged", "continuous", False),
    ]
    assert rows[2]["relative_throughput"] == 1
    _, out, _ = profile(*flags[:-1], "reserve-oracle", "--json")
    assert [row["relative_throughput"] for row in json.loads(out)["replay"]] == [None]


def test_a_trace_and_its_lengths_are_planned_for(profile, tmp_path):
    rows = [{"input_length": 40 + i, "output_length": 10, "hash_ids": [0, 1, i + 2], "timestamp": i * 100} for i in range(8)]
    (tmp_path / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = report(profile, "-m", "opt-125m", "--workload", "trace.jsonl", "--num-requests", "5")["workload"]
    assert (found["num_requests"], found["prefix_block_size"], found["total_tokens"]["max"]) == (5, 16, 54)


def test_a_jobs_input_is_counted_row_by_row(profile, tmp_path, tiny_model):
    rows = [{"prompt": "the quick brown fox " * 8, "n": 2}, {"prompt": "jumps", "max_tokens": 9}, {"no": "prompt"}]
    (tmp_path / "job.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    by_tokenizer = report(profile, "-m", str(tiny_model("llama")), "-w", "job.jsonl", "--max-tokens", "7")["workload"]
    assert by_tokenizer["num_requests"] == 3
    assert (by_tokenizer["output_tokens"]["p50"], by_tokenizer["output_tokens"]["max"]) == (7, 9)
    assert "counted by the tokenizer of" in by_tokenizer["note"]
    assert "1 rows that generate would refuse" in by_tokenizer["note"]


def test_where_there_is_no_tokenizer_prompts_are_counted_by_their_bytes(profile, tmp_path, monkeypatch):
    monkeypatch.setattr("pagecli.cli.profile.workload._tokenizer", lambda model: None)
    rows = [{"prompt": "x" * 100}, {"messages": [{"role": "user", "content": "y" * 39}]}]
    (tmp_path / "job.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = report(profile, "-m", "opt-175b", "-w", "job.jsonl", "--gpu", "b200", "--num-gpus", "8")["workload"]
    assert (found["prompt_tokens"]["p50"], found["prompt_tokens"]["max"]) == (10, 25)
    assert "4 bytes a token" in found["note"]


def test_rows_that_begin_alike_share_block_hashes():
    from pagecli.cli.profile.workload import _block_hashes

    first, second = [*range(40)], [*range(20), *range(90, 110)]
    assert len(_block_hashes(first)) == 2
    assert _block_hashes(first)[0] == _block_hashes(second)[0]
    assert _block_hashes(first)[1] != _block_hashes(second)[1]


@pytest.mark.slow
def test_plan_and_replay_take_no_torch():
    code = (
        "import sys\n"
        "from pagecli.cli.app import main\n"
        "try: main(['profile', '--model', 'opt-13b', '--json'])\n"
        "finally: print({'torch', 'transformers'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (0, "set()")
    assert json.loads(done.stdout)["plan"]["kv_slots"] > 0


@pytest.mark.parametrize(
    ("gib", "sequences", "dtype", "kept"),
    [(1.1, 128, "bfloat16", True), (20, 128, "bfloat16", False), (20, 6, "bfloat16", False), (20, 128, "float32", True)],
)
def test_quantized_weights_are_planned_as_generate_keeps_them(profile, gib, sequences, dtype, kept):
    """On a machine that does not multiply bfloat16."""
    sample = str(resolve_model("smollm2-135m").weights_path)
    flags = "--model", sample, "--dtype", dtype, "--max-num-seqs", str(sequences)
    planned = report(profile, *flags, ram=int(gib * GIB))["plan"]
    weights = planned["memory"][0]
    assert ("of them quantized" in weights["note"]) == kept
    assert (weights["num_bytes"] < 100e6) == kept
    assert (flags_of(planned).get("--quantization") == ["keep"]) == kept
    dequantized = report(profile, *flags, "--quantization", "dequantize", ram=20 * GIB)["plan"]
    assert flags_of(dequantized)["--quantization"] == ["dequantize"]


def flags_of(planned: dict) -> dict[str, list[str]]:
    """generate's flags of a plan, each with its values."""
    found: dict[str, list[str]] = {}
    for flag, value in zip(*[iter(planned["generate_flags"])] * 2, strict=True):
        found.setdefault(flag, []).append(value)
    return found


def sizes_of(planned: dict) -> dict[str, int]:
    return {part["name"]: part["num_bytes"] for part in planned["plan"]["memory"]}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("gpu", "computed"), [("h100", GPU_DTYPES), ("auto", CPU_DTYPES)])
def test_every_dtype_of_generate_is_planned_and_where_it_is_not_computed_is_said(profile, gpu, computed, dtype):
    config = resolve_model("opt-125m", "dummy").config
    flags = "--model", "opt-125m", "--load-format", "dummy", "--gpu", gpu, "--dtype", dtype
    planned = report(profile, *flags)["plan"]
    assert planned["weights_bytes"] == memory.weight_bytes(config, memory.bytes_each(config, dtype))
    assert planned["generate_flags"][planned["generate_flags"].index("--dtype") + 1] == dtype
    code, out, _ = profile(*flags, "--no-replay")
    assert code == 0
    assert (f"takes no {dtype} weights" in out) == (dtype not in computed)


def test_8_bit_floats_are_planned_beside_embeddings_that_have_16():
    config = resolve_model("opt-125m", "dummy").config
    embeddings = (50272 + 2050) * 768  # tokens and positions; the head is tied
    assert embeddings * 2 < memory.weight_bytes(config, memory.bytes_each(config, "fp8")) - 12 * 12 * 768**2 < embeddings * 2.02
    large = resolve_model("llama-3.1-70b", "dummy").config
    assert memory.bytes_each(large, "fp8") == pytest.approx(1 + 2 * 128256 * 8192 / 70.55e9, abs=0.002)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["keep", "dequantize"])
def test_quantization_is_planned_as_its_flag_says(profile, quantization, dtype):
    sample = str(resolve_model("smollm2-135m").weights_path)
    flags = "--model", sample, "--dtype", dtype, "--quantization", quantization
    assert ("of them quantized" in report(profile, *flags)["plan"]["memory"][0]["note"]) == (quantization == "keep")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--dtype", "int8"], "--quantization keep with --dtype int8; use --device cpu and --dtype float32 or bfloat16"),
        (["--gpu", "h100"], "--quantization keep with --gpu h100; leave one out"),
    ],
)
def test_weights_that_cannot_stay_quantized_are_refused_as_generate_refuses_them(profile, flags, says):
    code, out, err = profile("--model", str(resolve_model("smollm2-135m").weights_path), "--quantization", "keep", *flags)
    assert (code, out) == (2, "")
    assert says in err.replace("\nhint: ", "; ")


def test_adapters_take_memory_in_the_plan_and_are_refused_where_generate_refuses_them(profile, tmp_path, tiny_model):
    paths = [
        save_adapter(tiny_model("llama"), tmp_path / name, r=r, target_modules=["q_proj"]) for name, r in (("a", 4), ("b", 8))
    ]
    model = "--model", str(tiny_model("llama")), "--dtype", "bfloat16"
    plain = report(profile, *model)
    planned = report(profile, *model, "--lora", f"a={paths[0]}", "--lora", f"b={paths[1]}")
    expected = 4 * 3 * (4 + 8) * (96 + 128)
    assert sizes_of(planned)["LoRA adapters"] == expected
    assert "LoRA adapters" not in sizes_of(plain)
    assert flags_of(planned["plan"])["--lora"] == [f"a={paths[0]}", f"b={paths[1]}"]
    assert planned["plan"]["weights_bytes"] - plain["plan"]["weights_bytes"] == expected
    merged = report(profile, *model, "--merge-lora", str(paths[0]))
    assert sizes_of(merged) == sizes_of(plain)
    assert flags_of(merged["plan"])["--merge-lora"] == [str(paths[0])]
    assert profile(*model, "--lora", f"a={tmp_path}")[0] == 4
    assert profile(*model, "--lora", "a")[0] == 2


def test_adapters_count_where_generate_looks_for_room(tiny_model, tmp_path, monkeypatch):
    path = save_adapter(tiny_model("llama"), tmp_path / "a", r=64, target_modules="all-linear")
    plain = EngineConfig(str(tiny_model("llama")), dtype="float32", kv_memory_bytes=1 << 20)
    config = dataclasses.replace(plain, loras=(("a", str(path)),))
    source = loaded_model.resolve(config).source
    room = memory.needs_of(source, "float32", plain.max_num_seqs, plain.max_batch_tokens, 1 << 20).total
    monkeypatch.setattr(memory, "available_bytes", lambda: room - 1)
    loaded_model.check_fits(plain)
    with pytest.raises(ModelError, match="does not fit"):
        loaded_model.check_fits(config)
