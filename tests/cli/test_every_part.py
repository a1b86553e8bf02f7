"""Flags of forms, prompts, reasoning, retries, scores and vectors: in help, docs and identity; their columns in the journal."""

import json
import re
from pathlib import Path

import pytest
from input_files import write_rows

from pagecli.cli.app import main
from pagecli.cli.generate.job import identify
from pagecli.engine import loaded_model
from pagecli.errors import ErrorCode
from pagecli.jobs.journal.journal import decode, encode
from pagecli.jobs.rows.row import InputRow, OutputRow

DOCS = Path(__file__).resolve().parents[2] / "docs"
FILES = {
    "schema.json": '{"enum": [1]}',
    "lark.txt": 'start: "a"',
    "text.txt": "{{ prompt }}!",
    "shots.jsonl": '{"prompt": "a", "completion": "b"}\n',
}
FLAGS = {  # (command, flag): a value that is not the default, the page that explains it
    ("generate", "--json-schema"): ("schema.json", "structured-output.md"),
    ("generate", "--choice"): ("yes,no", "structured-output.md"),
    ("generate", "--regex"): ("[a-z]+", "structured-output.md"),
    ("generate", "--grammar"): ("lark.txt", "structured-output.md"),
    ("generate", "--template"): ("{{ prompt }}?", "prompts-from-columns.md"),
    ("generate", "--template-file"): ("text.txt", "prompts-from-columns.md"),
    ("generate", "--system-file"): ("text.txt", "prompts-from-columns.md"),
    ("generate", "--few-shot"): ("shots.jsonl", "prompts-from-columns.md"),
    ("generate", "--chat-template-arg"): ("level=high", "prompts-from-columns.md"),
    ("generate", "--reasoning"): ("none", "reasoning.md"),
    ("generate", "--thinking-budget"): ("7", "reasoning.md"),
    ("generate", "--prompt-logprobs"): ("2", "scoring.md"),
    ("generate", "--retry"): ("2", "retries.md"),
    ("generate", "--retry-on"): ("length", "retries.md"),
    ("generate", "--retry-temperature"): ("1.5", "retries.md"),
    ("generate", "--retry-errors"): (None, "retries.md"),
    ("score", "--normalize"): ("tokens", "scoring.md"),
    ("embed", "--pooling"): ("mean", "embeddings.md"),
    ("embed", "--no-normalize"): (None, "embeddings.md"),
    ("embed", "--prompt-name"): ("query", "embeddings.md"),
}
NEEDS = {"--retry-on": ("--retry", "1"), "--retry-temperature": ("--retry", "1"), "--pooling": ("--pooling", "last")}
NEEDS |= {"--no-normalize": ("--pooling", "last"), "--prompt-name": ("--pooling", "last")}
WITHOUT_SAMPLE = {"reasoning.md", "tools.md"}  # what the sample model cannot do has no example that runs
COLUMNS = {
    "attempts": 3,
    "reasoning": "two and two",
    "reasoning_tokens": 4,
    "tool_calls": [{"name": "f", "arguments": "{}"}],
    "prompt_logprobs": [None, {"token_id": 1, "logprob": -0.5, "top": []}],
    "values": {"logprob": -1.25, "token_logprobs": [-1.0, -0.25], "is_greedy": False, "embedding": [0.5, -0.5]},
    "score": -0.1,
    "error_code": ErrorCode.INVALID_OUTPUT,
}


@pytest.fixture
def parameters(tiny_model, tmp_path, monkeypatch):
    """parameters(command, *flags) -> the parameters in the identity of the job that the command line asks for."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "in.jsonl", [{"prompt": "a"}])
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    (model := tmp_path / "model").mkdir()
    for path in tiny_model("llama").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Normalize")]
    (model / "modules.json").write_text(json.dumps(modules))
    (model / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "Find: "}}))
    jobs = []
    monkeypatch.setattr("pagecli.cli.generate.run.run_generate", lambda job, console: jobs.append(job) or 0)

    def run(command, *flags):
        with pytest.raises(SystemExit) as ended:
            main([command, "in.jsonl", "out.jsonl", "--model", str(model), "--no-config", *flags])
        assert ended.value.code == 0
        return identify(job := jobs.pop(), loaded_model.resolve(job.engine)).identity["parameters"]

    return run


@pytest.mark.parametrize(("command", "flag"), FLAGS)
def test_a_flag_that_changes_results_belongs_to_the_job(parameters, command, flag):
    value, _ = FLAGS[command, flag]
    needs = NEEDS.get(flag, ())
    given = (flag,) if value is None else (flag, value)
    assert parameters(command, *needs, *given) != parameters(command, *needs)


@pytest.mark.parametrize("command", ["generate", "score", "embed"])
def test_the_help_and_the_docs_name_every_flag(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help=all"])
    shown = capsys.readouterr().out
    for (of, flag), (_, page) in FLAGS.items():
        if of == command:
            assert re.search(rf"(?<![\w-]){flag.replace('--no-', '--(no-)?')}(?![\w-])", shown), flag
            assert flag.replace("--no-", "--") in (DOCS / page).read_text().replace("--no-", "--"), (flag, page)


@pytest.mark.parametrize("page", sorted({page for _, page in FLAGS.values()} | {"tools.md", "python.md", "outputs.md"}))
def test_every_part_has_an_example_that_runs(page):
    assert ("\n```bash\n" in (DOCS / page).read_text()) == (page not in WITHOUT_SAMPLE)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_journal_gives_back_what_a_row_brought(name):
    row = InputRow(0, {"id": 1})
    output = OutputRow(
        row, text="a", token_ids=[1], finish_reason="stop", prompt_tokens=2, output_tokens=1, **{name: COLUMNS[name]}
    )
    assert decode(encode([output]), row) == [output]
