"""`pagecli embed` from end to end: vectors beside the rows' columns, the model's own configuration, resuming, parts."""

import csv
import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pagecli.cli.app import main
from pagecli.jobs.rows.row import carried_name
from pagecli.jobs.rows.row_parameters import SAMPLING_FIELDS

ROWS = [{"id": f"r{i}", "prompt": "the quick brown fox " * (1 + i % 4) + str(i), "kind": i % 3} for i in range(13)]
FLAGS = ("--dtype", "float32", "--threads", "1", "--quiet")


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    """A tiny Qwen3 as sentence-transformers saves embedding models: without LM head, with its pooling beside it."""
    from transformers import AutoModel

    folder = tmp_path_factory.mktemp("embedder")
    AutoModel.from_pretrained(tiny_model("qwen3"), dtype=torch.float32).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model("qwen3") / file, folder)
    kinds = ("Transformer", "Pooling", "Normalize")
    kind_of = "sentence_transformers.models."
    modules = [{"idx": i, "path": f"{i}_{kind}" if i else "", "type": kind_of + kind} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_lasttoken": True, "include_prompt": True}))
    prompts = {"prompts": {"query": "Find: ", "document": ""}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


@pytest.fixture
def embed(model, tmp_path, monkeypatch, capfd):
    """embed(rows or path, output, *flags) -> (exit code, stderr)."""
    monkeypatch.setattr("pagecli.cli.generate.run.quieten", lambda *args, **settings: None)
    monkeypatch.chdir(tmp_path)

    def run(rows, output, *flags, model=model):
        if not isinstance(rows, str):
            (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            rows = "in.jsonl"
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["embed", rows, output, "--model", str(model), *FLAGS, *flags])
        return ended.value.code, capfd.readouterr().err

    return run


def expected(model, texts: list[str]) -> np.ndarray:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, states = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        last = [states(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1] for text in texts]
    return torch.nn.functional.normalize(torch.stack(last), dim=1).numpy()


def vectors(path) -> np.ndarray:
    if path.suffix == ".parquet":
        return np.array(pq.read_table(path)["embedding"].to_pylist(), dtype=np.float32)
    if path.suffix == ".csv":
        return np.array([json.loads(row["embedding"]) for row in csv.DictReader(path.open(newline=""))], dtype=np.float32)
    return np.array([json.loads(line)["embedding"] for line in path.read_text().splitlines()], dtype=np.float32)


@pytest.mark.slow
def test_every_format_has_the_vectors_of_transformers_beside_the_rows_columns(embed, model, tmp_path):
    texts = expected(model, [row["prompt"] for row in ROWS])
    for name in ("out.parquet", "out.jsonl", "out.csv"):
        assert embed(ROWS, name)[0] == 0
        assert np.abs(vectors(tmp_path / name) - texts).max() < 1e-5
    assert np.array_equal(vectors(tmp_path / "out.parquet"), vectors(tmp_path / "out.jsonl"))
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "prompt", "kind", "prompt_tokens", "output_tokens", "embedding", "error", "error_code"]
    assert str(table.schema.field("embedding").type) == "list<element: float>"
    assert table["id"].to_pylist() == [row["id"] for row in ROWS]


def test_a_rows_vector_is_the_same_in_any_batch_and_order(embed, tmp_path):
    assert embed(ROWS, "out.jsonl")[0] == 0
    assert embed(ROWS, "small.jsonl", "--max-batch-tokens", "16", "--max-num-seqs", "3", "--threads", "2")[0] == 0
    assert (tmp_path / "small.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert embed(ROWS[::-1], "reversed.jsonl")[0] == 0
    assert np.array_equal(vectors(tmp_path / "reversed.jsonl")[::-1], vectors(tmp_path / "out.jsonl"))


@pytest.mark.slow
def test_prompts_templates_and_pooling_change_the_vector_as_they_say(embed, model, tmp_path):
    texts = [row["prompt"] for row in ROWS[:3]]
    assert embed(ROWS[:3], "query.jsonl", "--prompt-name", "query")[0] == 0
    assert np.abs(vectors(tmp_path / "query.jsonl") - expected(model, [f"Find: {text}" for text in texts])).max() < 1e-5
    assert embed(ROWS[:3], "made.jsonl", "--template", "{{ kind }}: {{ prompt }}")[0] == 0
    made = [f"{row['kind']}: {row['prompt']}" for row in ROWS[:3]]
    assert np.abs(vectors(tmp_path / "made.jsonl") - expected(model, made)).max() < 1e-5
    assert embed(ROWS[:3], "mean.jsonl", "--pooling", "mean", "--no-normalize")[0] == 0
    assert np.abs(vectors(tmp_path / "mean.jsonl") - expected(model, texts)).max() > 0.01


def test_bad_rows_are_error_rows_without_a_vector(embed, tmp_path):
    rows = [ROWS[0], {"prompt": 5}, {"prompt": ""}, {"prompt": "long " * 600}, ROWS[1]]
    assert embed(rows, "out.jsonl")[0] == 5
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["error_code"] for row in found] == [None, "invalid_type", "empty_prompt", "prompt_too_long", None]
    assert [row["embedding"] is None for row in found] == [False, True, True, True, False]


def test_columns_that_sampling_reads_are_columns_like_others(embed, tmp_path):
    own = {name: value for name, value in zip(SAMPLING_FIELDS, ["", "no", -1, [], {}] * 9, strict=False) if name != "lora"}
    assert embed([{**ROWS[0], **own}, ROWS[0]], "out.jsonl")[0] == 0
    with_columns, without = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert with_columns == without | {carried_name(name): value for name, value in own.items()}


@pytest.mark.slow
def test_a_job_that_ended_resumes_to_the_same_bytes_and_only_as_the_same_job(embed, tmp_path):
    rows = [*ROWS[:7], {"id": "bad", "prompt": 5}, *ROWS[7:]]
    assert embed(rows, "whole.jsonl")[0] == 5
    stop = ("--on-error", "stop", "--max-num-seqs", "1")
    assert embed(rows, "out.jsonl", *stop)[0] == 5
    assert os.path.isdir(tmp_path / ".out.jsonl.pagecli-journal")
    others = {"--pooling": ("--pooling", "mean"), "--normalize": ("--no-normalize",), "--prefix": ("--prompt-name", "query")}
    for says, flags in others.items():
        code, err = embed(rows, "out.jsonl", *flags)
        assert (code, says in err) == (2, True), err
    assert embed(rows, "out.jsonl", "--stats", "stats.json")[0] == 5
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert json.loads((tmp_path / "stats.json").read_text())["num_requests"] < len(ROWS)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_parts_merge_into_what_one_run_writes(embed, tmp_path, suffix):
    from pagecli.jobs.shards.merge import merge_outputs

    assert embed(ROWS, f"whole.{suffix}")[0] == 0
    for number in (1, 2):
        assert embed(ROWS, f"part-{number}.{suffix}", "--shard", f"{number}/2")[0] == 0
    merge_outputs([str(tmp_path / f"part-{number}.{suffix}") for number in (1, 2)], str(tmp_path / f"all.{suffix}"), False)
    assert np.array_equal(vectors(tmp_path / f"all.{suffix}"), vectors(tmp_path / f"whole.{suffix}"))


def test_what_the_model_does_not_have_is_said(embed, tiny_model):
    code, err = embed(ROWS, "out.jsonl", "--prompt-name", "passage")
    assert (code, "--prompt-name is 'passage'" in err, "document, query" in err) == (2, True, True)
    code, err = embed(ROWS, "out.jsonl", model=tiny_model("llama"))
    assert (code, "has no modules.json" in err, "--pooling last or mean" in err) == (4, True, True)
    assert embed(ROWS, "out.jsonl", "--pooling", "last", model=tiny_model("llama"))[0] == 0
