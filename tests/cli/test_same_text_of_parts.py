"""Same row, same text, with forms, examples, budgets of reasoning, retries and tools in one job: whatever runs beside a row."""

import json
import shutil

import pytest
from tool_templates import HERMES

WAYS = {
    "one batch": (),
    "alone": ("--max-num-seqs", "2"),
    "tiny memory": ("--kv-memory", "450KiB", "--block-size", "4"),
    "swapping": ("--kv-memory", "450KiB", "--block-size", "4", "--preemption", "swap", "--swap-memory", "2MiB"),
    "chunks of 32": ("--max-num-seqs", "32", "--max-batch-tokens", "32"),
    "2 threads": ("--threads", "2"),
    "no prefix caching": ("--no-prefix-caching",),
    "drafts": ("--speculate", "4"),
}
TOOLS = [{"type": "function", "function": {"name": "time"}}]
CALLS = ['<tool_call>{"name": "time", "arguments": {}}</tool_call>', "It is late."]
KINDS = (
    {},
    {"tools": TOOLS, "choice": CALLS, "n": 2, "thinking_budget": 4, "max_tokens": 70},
    {"thinking_budget": 3, "max_tokens": 9},
    {"json_schema": {"enum": [1, 22, "three"]}, "thinking_budget": 2, "max_tokens": 24},
    {"regex": "[a-d ]{12,14}", "max_tokens": 8},  # often cut before it is satisfied
    {"choice": ["yes", "no", "perhaps"], "temperature": 0.0},
    {
        "tools": TOOLS,
        "beam_width": 2,
        "temperature": 0.0,
        "thinking_budget": 1,
        "regex": '<tool_call>[{]"name": "(time|date)"[}]',
        "max_tokens": 60,
    },
)


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    """A tiny model with tokens around its reasoning, which some prompts begin, and a template that shows tools."""
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("all") / "llama"
    shutil.copytree(tiny_model("llama"), directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = HERMES + "{% if messages[-1].content[-1:] == '?' %}<think>{% endif %}"
    tokenizer.save_pretrained(directory)
    return directory


def run(generate, model, tmp_path, rows, way):
    (tmp_path / "shots.jsonl").write_text(
        '{"prompt": "The dog?", "completion": "sleeps"}\n{"prompt": "A fox", "completion": "jumps"}\n'
    )
    flags = (
        "--chat",
        "--few-shot",
        "shots.jsonl",
        "--retry",
        "2",
        "--retry-on",
        "invalid_output,length",
        "--retry-temperature",
        "1.3",
    )
    flags += (
        "--temperature",
        "1",
        "--dtype",
        "float32",
        "--threads",
        "1",
        "--token-ids",
        "--quiet",
        "--overwrite",
        "--model",
        str(model),
    )
    code, _, err = generate(rows, "out.jsonl", *flags, "--stats", "stats.json", *WAYS[way])
    assert code in (0, 5), err
    return (tmp_path / "out.jsonl").read_bytes(), json.loads((tmp_path / "stats.json").read_text())


@pytest.mark.slow
def test_output_files_are_the_same_byte_for_byte(generate, model, tmp_path):
    rows = [{"id": i, "prompt": f"the quick brown fox {i}" + "?" * (i % 2)} | KINDS[i % len(KINDS)] for i in range(21)]
    expected, _ = run(generate, model, tmp_path, rows, "one batch")
    found = [json.loads(line) for line in expected.splitlines()]
    assert {row["attempts"] for row in found} >= {1, 3}
    assert sum(row.get("reasoning") is not None for row in found) > 5
    assert sum(row.get("tool_calls") is not None for row in found) > 3
    assert {row["error_code"] for row in found} == {None, "invalid_output"}
    for way in [way for way in WAYS if way != "one batch"]:
        content, stats = run(generate, model, tmp_path, rows, way)
        assert content == expected, way
        assert (stats["num_preemptions"] > 0) == (way in ("tiny memory", "swapping")), way
