"""Constrained output from flags and columns to the output file: refusals before the model, error rows, identity, reasoning."""

import json
import shutil

import pytest

from pagecli.cli.app import main
from pagecli.jobs.journal.job_identity import NOT_IDENTITY

SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}


@pytest.fixture
def generate(tmp_path, tiny_model, monkeypatch, capsys):
    """generate(rows, *flags) -> (exit code, rows of the output, stderr)"""
    monkeypatch.setattr("pagecli.cli.generate.run.quieten", lambda *args, **settings: None)

    def run(rows, *flags, model=None):
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = tmp_path / "out.jsonl"
        command = ["generate", str(tmp_path / "in.jsonl"), str(out), "--model", model or str(tiny_model("llama")), "--no-chat"]
        command += ["--overwrite", "--quiet", "--kv-memory", "4MiB", "--threads", "1", "--dtype", "float32"]
        with pytest.raises(SystemExit) as ended:
            main([*command, *map(str, flags)])
        rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        return ended.value.code, rows, capsys.readouterr().err

    return run


def test_every_row_may_ask_for_another_form(generate, tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    rows = [
        {"prompt": "a"},
        {"prompt": "b", "choice": ["left", "right"]},
        {"prompt": "c", "regex": "[0-9]{3}"},
        {"prompt": "d", "json_schema": {"enum": ["x", "y"]}},
        {"prompt": "e", "json_schema": json.dumps({"enum": [7]})},
        {"prompt": "f", "choice": "left"},
        {"prompt": "g", "regex": "("},
        {"prompt": "h", "json_schema": {"type": "odd"}},
        {"prompt": "i", "json_schema": json.dumps(SCHEMA), "max_tokens": 2},
    ]
    code, found, _ = generate(rows, "--json-schema", tmp_path / "schema.json")
    assert code == 5
    assert json.loads(found[0]["text"])["ok"] in (True, False)
    assert found[1]["text"] in ("left", "right")
    assert found[2]["text"].isdigit()
    assert found[3]["text"] in ('"x"', '"y"')
    assert found[4]["text"] == "7"
    assert [row["error_code"] for row in found] == [None] * 5 + ["invalid_parameter"] * 3 + ["invalid_output"]
    assert "not a list of texts" in found[5]["error"]
    assert found[8]["text"].startswith("{")
    assert found[8]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--regex", "("), "--regex '(' cannot be compiled"),
        (("--choice", "a,,b"), "--choice"),
        (("--choice", '["a", 1]'), "--choice has an item that is no text"),
        (("--json-schema", "none.json"), "--json-schema none.json cannot be read"),
        (("--regex", "a", "--choice", "b,c"), "left out beside regex"),
        (("--regex", "a", "--ignore-eos"), "ignore"),
    ],
)
def test_flags_that_cannot_be_satisfied_are_refused_before_the_model(generate, flags, message):
    code, found, said = generate([{"prompt": "a"}], *flags, model="no/such-model")
    assert code in (2, 3)
    assert message in said
    assert found == []


def test_a_budget_without_reasoning_is_refused_when_the_model_is_known(generate):
    code, _, said = generate([{"prompt": "a"}], "--thinking-budget", 3)
    assert code == 2
    assert "--thinking-budget is given, and the model has no reasoning markers" in said


def test_what_changes_a_text_belongs_to_the_job():
    of_texts = ("params", "params.json_schema", "params.choice", "params.thinking_budget", "engine.reasoning", "reasoning")
    assert not set(of_texts) & set(NOT_IDENTITY)


def test_a_model_without_an_end_token_refuses_the_flag_by_its_name(generate, tiny_model, tmp_path):
    shutil.copytree(tiny_model("llama"), tmp_path / "endless")
    for name in ("config.json", "generation_config.json"):
        path = tmp_path / "endless" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 10**9}))
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    for flags in (["--regex", "a+"], ["--json-schema", tmp_path / "schema.json"]):
        code, rows, said = generate([{"prompt": "a"}], *flags, model=str(tmp_path / "endless"))
        assert (code, rows) == (2, [])
        assert f"error: {flags[0]}: the model has no end token" in said
