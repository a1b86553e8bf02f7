"""`pagecli generate` from end to end on a tiny real model, in this process."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pagecli.cli.generate.reporting import SCHEMA_VERSION, summary_lines

PROMPTS = [{"id": f"row {i}", "prompt": f"the quick brown fox {i}", "kind": i % 3} for i in range(20)]
STATS = (
    "schema_version num_requests prompt_tokens output_tokens load_seconds generate_seconds output_tokens_per_second num_steps "
    "num_preemptions kv_block_size kv_blocks_total kv_blocks_peak kv_slot_utilization peak_rss_bytes "
    "time_to_first_row_seconds num_error_rows finish_reasons model dtype versions"
)


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_jsonl_to_parquet_with_all_that_is_documented(generate, tmp_path):
    code, out, err = generate(PROMPTS, "out.parquet", "--token-ids", "--logprobs", "2", "--stats", "stats.json")
    assert (code, out) == (0, "")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == [
        *("id", "prompt", "kind", "sample", "text", "token_ids", "finish_reason"),
        *("prompt_tokens", "output_tokens", "logprobs", "error", "error_code"),
    ]
    assert table["id"].to_pylist() == [row["id"] for row in PROMPTS]
    for row in table.to_pylist():
        assert row["output_tokens"] == len(row["token_ids"]) == len(row["logprobs"])
        assert [position["token_id"] for position in row["logprobs"]] == row["token_ids"]
        assert all(len(position["top"]) == 2 for position in row["logprobs"])

    stats = json.loads((tmp_path / "stats.json").read_text())
    assert set(STATS.split()) <= set(stats)
    assert stats["schema_version"] == SCHEMA_VERSION
    assert stats["num_requests"] == stats["num_rows"] == 20
    assert stats["output_tokens"] == sum(table["output_tokens"].to_pylist())
    assert stats["prompt_tokens"] == sum(table["prompt_tokens"].to_pylist())
    assert 0 < stats["kv_slot_utilization"] <= 1
    for word in ("rows", "output tokens/s", "first row", "of slots used", "preemptions", "error rows"):
        assert word in err


def test_stdout_has_rows_only_whatever_prints(generate, monkeypatch):
    from pagecli.engine.engine import Engine

    step = Engine.step

    def noisy(self):
        print("noise from Python")
        os.write(1, b"noise from C\n")
        return step(self)

    monkeypatch.setattr(Engine, "step", noisy)
    code, out, err = generate(PROMPTS[:3], "-", "--quiet")
    assert code == 0
    assert [record["id"] for record in records(out)] == ["row 0", "row 1", "row 2"]
    assert "noise from Python" in err
    assert "noise from C" in err


def test_quiet_says_nothing_when_all_is_well_and_one_error_when_not(generate):
    assert generate(PROMPTS[:2], "a.jsonl", "--quiet") == (0, "", "")
    code, _, err = generate([*PROMPTS[:2], {"prompt": 1}], "b.jsonl", "--quiet")
    assert code == 5
    assert err.splitlines()[0] == "error: 1 of 3 rows are error rows; the first, line 3: column prompt is int, not text"


def test_bad_rows_are_written_in_place_and_exit_with_5(generate, tmp_path):
    lines = [
        '{"prompt": "a", "max_tokens": 2}',
        "{oops",
        '{"prompt": "b", "temperature": "hot"}',
        '{"prompt_token_ids": [5, 6]}',
    ]
    (tmp_path / "in.jsonl").write_text("\n".join([*lines, json.dumps({"prompt": "too long " * 600})]))
    code, _, err = generate("in.jsonl", "out.jsonl")
    rows = records((tmp_path / "out.jsonl").read_text())
    assert code == 5
    assert [row["id"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["finish_reason"] for row in rows] == ["length", "error", "error", "length", "error"]
    assert rows[0]["output_tokens"] == 2
    assert rows[1]["error"].startswith("line 2: invalid JSON")
    assert rows[2]["error"] == "line 3: column temperature is 'hot', not a number"
    assert "tokens" in rows[4]["error"]
    assert "3 of 5 rows are error rows" in err


def test_same_row_same_text_whatever_the_order_the_format_and_the_other_rows(generate, tmp_path):
    sampled = ["--temperature", "1", "--seed", "7", "--quiet"]
    generate(PROMPTS, "all.jsonl", *sampled, "--max-num-seqs", "3")
    texts = {row["id"]: row["text"] for row in records((tmp_path / "all.jsonl").read_text())}
    assert len(set(texts.values())) > 10
    pq.write_table(pa.Table.from_pylist(PROMPTS[::-1]), tmp_path / "reversed.parquet")
    generate("reversed.parquet", "reversed.jsonl", *sampled, "--order", "completion")
    assert {row["id"]: row["text"] for row in records((tmp_path / "reversed.jsonl").read_text())} == texts
    _, out, _ = generate([PROMPTS[9]], "-", *sampled)
    assert records(out)[0]["text"] == texts["row 9"]
    _, out, _ = generate([PROMPTS[9]], "-", *sampled, "--seed", "8")
    assert records(out)[0]["text"] != texts["row 9"]


def test_samples_and_beams_write_several_rows_with_their_scores(generate, tmp_path):
    rows = [
        {"id": "a", "prompt": "the quick"},
        {"id": "b", "prompt": "the quick", "n": 1},
        {"id": "c", "prompt": "the quick", "best_of": 4},
        {"id": "d", "prompt": "the quick", "temperature": 0, "beam_width": 3, "n": 3, "early_stopping": "never"},
        {"id": "e", "prompt": "the quick", "temperature": 0, "beam_width": 3, "n": 1, "early_stopping": True},
        {"id": "f", "prompt": "the quick", "beam_width": 3},
    ]
    flags = ("--n", "2", "--temperature", "1", "--ignore-eos", "--token-ids", "--stats", "stats.json", "--block-size", "2")
    code, _, err = generate(rows, "out.jsonl", *flags)
    assert code == 5
    assert "copies on write" in generate(rows, "again.jsonl", *flags, "-v")[2]
    found = records((tmp_path / "out.jsonl").read_text())
    assert [(r["id"], r["sample"]) for r in found] == [
        *(("a", 0), ("a", 1), ("b", 0), ("c", 0), ("c", 1), ("d", 0), ("d", 1), ("d", 2), ("e", 0), ("f", 0))
    ]
    a, b, c, d = (([r for r in found if r["id"] == name]) for name in "abcd")
    assert a[0]["token_ids"] != a[1]["token_ids"]
    assert "score" not in a[0]
    assert c[0]["score"] >= c[1]["score"]
    assert d[0]["score"] > d[1]["score"] > d[2]["score"]
    assert found[-1]["error"] == "line 6: temperature is 1.0; temperature must be 0 with beam search"
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert stats["output_tokens"] == sum(r["output_tokens"] for r in found)
    assert stats["num_sampled_tokens"] > stats["output_tokens"]
    assert stats["num_copy_on_write"] > 0
    assert 0 < stats["kv_sharing_saving"] < 1
    assert err.index("output  ") < err.index("rows  ")
    assert "copies on write" not in err  # but with -v
    assert len(b) == 1


@pytest.mark.parametrize("flags", [("--beam-width", "2", "--n", "2"), ("--best-of", "2", "--temperature", "1")])
def test_score_is_a_column_of_every_format_when_the_flags_ask_for_it(generate, tmp_path, flags):
    for name in ("out.jsonl", "out.parquet"):
        assert generate(PROMPTS[:3], name, *flags)[0] == 0
    parquet = pq.read_table(tmp_path / "out.parquet").to_pylist()
    jsonl = records((tmp_path / "out.jsonl").read_text())
    assert [r["score"] for r in parquet] == [r["score"] for r in jsonl]
    assert all(r["score"] < 0 for r in jsonl)


def test_swap_memory_below_one_block_is_exit_code_4(generate):
    code, _, err = generate(PROMPTS[:1], "out.jsonl", "--preemption", "swap", "--swap-memory", "1KiB")
    assert code == 4
    assert "--swap-memory is less than one KV block" in err


@pytest.mark.slow
def test_chat_wraps_plain_prompts_and_system_goes_in_front(generate):
    _, plain, _ = generate([{"prompt": "hello"}], "-", "--quiet")
    _, chat, _ = generate([{"prompt": "hello"}], "-", "--quiet", "--chat")
    _, messages, _ = generate([{"messages": [{"role": "user", "content": "hello"}]}], "-", "--quiet")
    _, system, _ = generate([{"prompt": "hello"}], "-", "--quiet", "--chat", "--system", "be kind")
    plain, chat, messages, system = (records(out)[0] for out in (plain, chat, messages, system))
    assert plain["prompt_tokens"] < chat["prompt_tokens"] < system["prompt_tokens"]
    assert (chat["text"], chat["prompt_tokens"]) == (messages["text"], messages["prompt_tokens"])


def test_columns_that_clash_are_renamed_and_an_output_can_be_an_input(generate):
    generate([{"prompt": "a", "text": "mine"}], "first.jsonl", "--quiet")
    code, out, _ = generate("first.jsonl", "-", "--quiet", "--prompt-column", "input_text")
    (record,) = records(out)
    assert code == 0
    assert record["input_input_text"] == "mine"
    assert record["prompt"] == "a"


def test_limit_overwrite_and_stop(generate, tmp_path):
    assert generate(PROMPTS, "out.jsonl", "--limit", "3")[0] == 0
    first = records((tmp_path / "out.jsonl").read_text())
    assert len(first) == 3
    assert generate(PROMPTS, "out.jsonl")[0] == 2
    stop_id = str(_token_ids(generate, tmp_path)[1])
    assert generate(PROMPTS, "out.jsonl", "--limit", "1", "--overwrite", "--token-ids", "--stop-token-id", stop_id)[0] == 0
    (row,) = records((tmp_path / "out.jsonl").read_text())
    assert (row["finish_reason"], row["token_ids"][-1]) == ("stop", int(stop_id))


def _token_ids(generate, tmp_path) -> list[int]:
    _, out, _ = generate(PROMPTS, "-", "--limit", "1", "--token-ids", "--quiet")
    return records(out)[0]["token_ids"]


def test_model_that_is_not_there_is_exit_code_4_and_leaves_nothing(generate, tmp_path):
    code, out, err = generate(PROMPTS, "out.parquet", "--model", str(tmp_path / "nowhere"))
    assert (code, out) == (4, "")
    assert err.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_unexpected_failure_is_one_line_keeps_rows_and_shows_a_traceback_only_with_v(generate, tmp_path, monkeypatch):
    from pagecli.engine.engine import Engine

    step = Engine.step
    calls = []

    def failing(self):
        calls.append(1)
        if len(calls) > 8:
            raise RuntimeError("kernel on fire")
        return step(self)

    monkeypatch.setattr(Engine, "step", failing)
    code, _, err = generate(PROMPTS, "out.jsonl", "--max-num-seqs", "4", "--no-journal")
    assert code == 1
    assert "error: internal error: RuntimeError: kernel on fire" in err
    assert "Traceback" not in err
    assert "finished rows are in out.partial.jsonl" in err
    assert len(records((tmp_path / "out.partial.jsonl").read_text())) >= 4
    calls.clear()
    err = generate(PROMPTS, "out.jsonl", "-v", "--max-num-seqs", "4")[2]
    assert "Traceback" in err
    assert "the finished rows of this job are kept (4 input rows)" in err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("flag", ["--chat", "--system"])
def test_flags_that_need_a_template_are_refused_without_one(generate, tmp_path, monkeypatch, flag):
    from pagecli.model.tokenizer.tokenizer import TransformersTokenizer

    init = TransformersTokenizer.__init__

    def without_template(self, *args):
        init(self, *args)
        self.has_chat_template = False

    monkeypatch.setattr(TransformersTokenizer, "__init__", without_template)
    flags = [flag, "be kind"] if flag == "--system" else [flag]
    code, _, err = generate(PROMPTS, "out.jsonl", *flags)
    assert code == 4
    assert f"no chat template, which {flag} needs" in err


@pytest.mark.parametrize(
    ("prompt_tokens", "num_sampled_tokens", "speed"),
    [
        (30, 8, "4.0 output tokens/s over 2.0 s"),  # so of a job that was stopped before its first row had finished
        (30, 0, "15.0 input tokens/s over 2.0 s"),  # of texts that are embedded or scored
        (0, 0, "4.0 output tokens/s over 2.0 s"),  # of rows that an earlier run has finished, all of them
    ],
)
def test_speed_is_that_of_what_was_computed(prompt_tokens, num_sampled_tokens, speed):
    none = "num_rows num_error_rows kv_blocks_peak kv_blocks_total kv_block_size kv_sharing_saving num_copy_on_write"
    stats = dict.fromkeys([*none.split(), "num_preemptions"], 0) | {
        "prefix_cache_hit_rate": 0.0,
        "kv_slot_utilization": None,
        "peak_rss_bytes": 0,
    }
    stats |= {"prompt_tokens": prompt_tokens, "num_sampled_tokens": num_sampled_tokens, "output_tokens": 0}
    stats |= {"generate_seconds": 2.0, "output_tokens_per_second": 4.0, "time_to_first_row_seconds": None, "finish_reasons": {}}
    assert dict(summary_lines(stats, "out.jsonl", verbose=False))["speed"] == speed
