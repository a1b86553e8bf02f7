"""`pagecli score` on a tiny model: the values of the model, the same in any batch; resumed, in parts, in every format."""

import csv
import json
import math

import pyarrow.parquet as pq
import pytest
import torch
from input_files import write_rows

from pagecli.cli.app import main
from pagecli.jobs.rows.row import carried_name
from pagecli.jobs.rows.row_parameters import SAMPLING_FIELDS

TEXTS = ["the quick brown fox", "What is the capital of France?", "a", "The dog sleeps on, and the keys"]
ROWS = [
    *({"id": f"p{i}", "prompt": f"{text} ", "completion": f"jumps over {i} dogs"} for i, text in enumerate(TEXTS)),
    *(
        {"id": f"c{i}", "prompt": text * 9, "choices": [" Paris", " a fox and a dog", " a fox", "?"]}
        for i, text in enumerate(TEXTS)
    ),
    *({"id": f"t{i}", "text": f"{text} of blocks {i}. " * 12} for i, text in enumerate(TEXTS)),
    {"id": "ids", "prompt_token_ids": [5, 6, 7], "completion": "fox"},
    {"id": "chat", "messages": [{"role": "user", "content": "hi"}], "completion": "The capital"},
]
BAD = [
    ({"id": 1, "prompt": "x"}, "none of completion, choices, text"),
    ({"id": 2, "prompt": "x", "completion": "a", "text": "b"}, "completion and text"),
    ({"id": 3, "prompt": "", "completion": "a"}, "is empty"),
    ({"id": 4, "prompt": "x", "completion": ""}, "no tokens"),
    ({"id": 5, "prompt": "x", "choices": []}, "not a list of texts"),
    ({"id": 6, "prompt": "x", "choices": ["a", 7]}, "not a list of texts"),
    ({"id": 7, "prompt": "x", "choices": ["a"] * 65}, "more than 64"),
    ({"id": 8, "prompt": "x", "completion": 7}, "not text"),
    ({"id": 9, "text": "a"}, "fewer than two tokens"),
    ({"id": 10, "prompt": "fox " * 600, "completion": "a"}, "is 512"),
    ({"id": 11, "completion": "a"}, "has no prompt"),
    ({"id": 12, "prompt": "x", "prompt_token_ids": [5], "completion": "a"}, "prompt and prompt_token_ids"),
    ({"id": 13, "prompt": "x", "messages": [{"role": "user", "content": "hi"}], "choices": ["a"]}, "prompt and messages"),
]
RESULTS = ("logprob", "token_logprobs", "token_is_greedy", "is_greedy", "perplexity", "best_choice", "choice_logprobs")


@pytest.fixture
def score(tiny_model, tmp_path, monkeypatch, capfd):
    """score(rows, output, *flags) -> (exit code, stderr)"""
    monkeypatch.setattr("pagecli.cli.generate.run.quieten", lambda *args, **settings: None)
    monkeypatch.chdir(tmp_path)

    def run(rows, output, *flags):
        args = ["score", write_rows(tmp_path / "in.jsonl", rows), output, "--model", str(tiny_model("llama"))]
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*args, "--dtype", "float32", "--kv-memory", "8MiB", "--quiet", *flags])
        return ended.value.code, capfd.readouterr().err

    return run


def records(path) -> dict:
    return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}


@torch.inference_mode()
def logprobs(model, prompt_ids, token_ids) -> list[float]:
    rows = torch.log_softmax(model(torch.tensor([prompt_ids + token_ids])).logits[0].double(), -1)
    return [rows[len(prompt_ids) - 1 + i, token].item() for i, token in enumerate(token_ids)]


@pytest.mark.slow
def test_the_values_are_the_models(score, tmp_path, tiny_model, tiny_tokenizer):
    from transformers import AutoModelForCausalLM

    model, encode = (
        AutoModelForCausalLM.from_pretrained(tiny_model("llama")).eval(),
        lambda text: tiny_tokenizer(text)["input_ids"],
    )
    assert score(ROWS, "out.jsonl")[0] == 0
    found = records(tmp_path / "out.jsonl")
    for row in ROWS[:4]:
        prompt, whole = encode(row["prompt"].rstrip()), encode(row["prompt"] + row["completion"])
        expected = logprobs(model, prompt, whole[len(prompt) :])
        assert found[row["id"]]["token_logprobs"] == pytest.approx(expected, abs=2e-5)
        assert found[row["id"]]["logprob"] == pytest.approx(sum(expected), abs=1e-4)
        assert found[row["id"]]["perplexity"] == pytest.approx(math.exp(-sum(expected) / len(expected)), rel=1e-4)
        assert found[row["id"]]["best_choice"] is None
    for row in ROWS[4:8]:
        prompt = encode(row["prompt"])
        sums = [sum(logprobs(model, prompt, encode(row["prompt"] + text)[len(prompt) :])) for text in row["choices"]]
        assert found[row["id"]]["choice_logprobs"] == pytest.approx(sums, abs=1e-4)
        assert found[row["id"]]["best_choice"] == sums.index(max(sums))
        assert found[row["id"]]["logprob"] == pytest.approx(max(sums), abs=1e-4)
    for row in ROWS[8:12]:
        ids = encode(row["text"])
        assert found[row["id"]]["token_logprobs"] == pytest.approx(logprobs(model, ids[:1], ids[1:]), abs=2e-5)
        assert found[row["id"]]["input_text"] == row["text"]
    assert found["ids"]["token_logprobs"] == pytest.approx(logprobs(model, [5, 6, 7], encode("fox")), abs=2e-5)
    assert found["chat"]["prompt_tokens"] > 5


def test_a_text_that_the_model_finds_all_but_impossible_is_a_row_like_others():
    """exp() of the mean of its tokens' log probabilities is beyond float64."""
    from pagecli.core.outputs import RequestOutput, SequenceOutput, TokenScore
    from pagecli.jobs.rows.row import InputRow
    from pagecli.jobs.rows.score_rows import ScoreOptions, score_rows

    tokens = [TokenScore(token_id, -2000.0, False) for token_id in (5, 6)]
    output = RequestOutput(0, 1, (SequenceOutput(0, [5, 6], "ab", "length", score=-4000.0, token_scores=tokens),))
    (row,) = score_rows(InputRow(0, {"prompt": "x", "completion": "ab"}), output, ScoreOptions())
    assert (row.values["logprob"], row.values["perplexity"]) == (-4000.0, math.inf)


def test_choices_are_compared_by_length_if_asked(score, tmp_path):
    for normalize, length in (("characters", len), ("tokens", None)):
        assert score(ROWS[4:8], f"{normalize}.jsonl", "--normalize", normalize, "--token-ids")[0] == 0
        for row in records(tmp_path / f"{normalize}.jsonl").values():
            if length is not None:
                means = [total / length(text) for total, text in zip(row["choice_logprobs"], row["choices"], strict=True)]
                assert row["best_choice"] == means.index(max(means))
            assert row["logprob"] == row["choice_logprobs"][row["best_choice"]]
            assert len(row["token_ids"]) == row["output_tokens"] == len(row["token_logprobs"])


@pytest.mark.slow
def test_the_same_bits_in_any_batch_and_order(score, tmp_path):
    assert score(ROWS, "out.jsonl")[0] == 0
    small = ("--max-num-seqs", "4", "--max-batch-tokens", "16", "--threads", "2", "--kv-memory", "900KiB", "--block-size", "4")
    assert score(ROWS, "small.jsonl", *small)[0] == 0
    assert (tmp_path / "small.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert score(ROWS[::-1], "reversed.jsonl", "--no-prefix-caching")[0] == 0
    assert records(tmp_path / "reversed.jsonl") == records(tmp_path / "out.jsonl")


@pytest.mark.slow
def test_a_pool_of_engines_writes_the_same(score, tmp_path):
    assert score(ROWS, "out.jsonl")[0] == 0
    assert score(ROWS, "pool.jsonl", "--workers", "2")[0] == 0
    assert (tmp_path / "pool.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.slow
def test_every_format_holds_the_same(score, tmp_path):
    for output in ("out.jsonl", "out.parquet", "out.csv"):
        assert score(ROWS, output)[0] == 0
    expected = records(tmp_path / "out.jsonl")
    table = pq.read_table(tmp_path / "out.parquet")
    assert not {"sample", "text", "finish_reason"} & set(table.column_names)
    for row in table.to_pylist():
        for name in RESULTS:
            assert row[name] == (
                pytest.approx(expected[row["id"]][name]) if name != "best_choice" else expected[row["id"]][name]
            )
    with open(tmp_path / "out.csv", newline="") as file:
        for row in csv.DictReader(file):
            assert float(row["logprob"]) == expected[row["id"]]["logprob"]


def test_rows_that_cannot_be_scored_become_error_rows(score, tmp_path):
    assert score([row for row, _ in BAD] + ROWS[:1], "out.jsonl")[0] == 5
    found = records(tmp_path / "out.jsonl")
    for row, words in BAD:
        assert words in found[row["id"]]["error"]
        assert all(found[row["id"]][name] is None for name in RESULTS)
    assert found["p0"]["error"] is None


@pytest.mark.slow
def test_columns_that_sampling_reads_are_columns_like_others(score, tmp_path):
    own = {name: "no" for name in SAMPLING_FIELDS if name != "lora"}
    rows = [row for row in ROWS if row["id"] in ("p0", "c0", "t0", "ids", "chat")]
    assert score(rows, "without.jsonl") == (0, "")
    assert score([row | own for row in rows], "out.jsonl") == (0, "")
    carried = {carried_name(name): value for name, value in own.items()}
    expected = {name: row | carried for name, row in records(tmp_path / "without.jsonl").items()}
    assert records(tmp_path / "out.jsonl") == expected


def test_a_job_that_resumes_writes_the_same_and_knows_what_it_does(score, tmp_path, generate):
    rows = [*ROWS[:8], {"id": "bad", "prompt": "a"}, *ROWS[8:]]
    assert score(rows, "whole.jsonl")[0] == 5
    assert score(rows, "out.jsonl", "--on-error", "stop", "--max-num-seqs", "4")[0] == 5
    assert not (tmp_path / "out.jsonl").exists()
    code, err = score(rows, "out.jsonl", "--normalize", "tokens")
    assert (code, "normalize" in err) == (2, True), err
    assert score(rows, "out.jsonl")[0] == 5
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.slow
def test_parts_are_merged_into_the_same(score, tmp_path):
    assert score(ROWS, "whole.jsonl")[0] == 0
    for part in ("1/2", "2/2"):
        assert score(ROWS, f"part{part[0]}.jsonl", "--shard", part)[0] == 0
    with pytest.raises(SystemExit) as ended:
        main(["merge", "part1.jsonl", "part2.jsonl", "merged.jsonl", "--quiet"])
    assert ended.value.code == 0
    assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_generate_writes_the_prompts_log_probabilities_beside_the_text(generate, tmp_path):
    rows = [{"id": i, "prompt": text, "prompt_logprobs": 1 if i == 0 else None} for i, text in enumerate(TEXTS)]
    assert generate(rows, "some.jsonl")[0] == 0
    assert generate(rows, "all.jsonl", "--prompt-logprobs", "2")[0] == 0
    assert generate(rows, "all.parquet", "--prompt-logprobs", "2")[0] == 0
    some, every = records(tmp_path / "some.jsonl"), records(tmp_path / "all.jsonl")
    assert "prompt_logprobs" not in some[1]
    assert [token and token["logprob"] for token in some[0]["prompt_logprobs"]] == [
        token and token["logprob"] for token in every[0]["prompt_logprobs"]
    ]
    table = {row["id"]: row for row in pq.read_table(tmp_path / "all.parquet").to_pylist()}
    for i, row in every.items():
        assert row["text"] == some[i]["text"] == table[i]["text"]
        assert row["prompt_logprobs"][0] is None is table[i]["prompt_logprobs"][0]
        assert len(row["prompt_logprobs"]) == row["prompt_tokens"] == len(table[i]["prompt_logprobs"])
        assert all(len(token["top"]) == (1 if i == 0 else 2) for token in row["prompt_logprobs"][1:])
