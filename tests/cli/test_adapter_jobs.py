"""LoRA adapters from flags and columns to the output file: names, refusals, error rows, identity."""

import json

import pytest
from tiny_adapters import save_adapter

from pagecli.cli.app import main
from pagecli.jobs.journal.job_identity import NOT_IDENTITY
from pagecli.jobs.journal.model_files import weights_identity
from pagecli.model.registry import resolve_model, with_adapters


@pytest.fixture
def generate(tmp_path, tiny_model, monkeypatch, capsys):
    """generate(rows, *flags) -> (exit code, rows of the output, stderr)"""
    monkeypatch.setattr("pagecli.cli.generate.run.quieten", lambda *args, **settings: None)

    def run(rows, *flags, output="out.jsonl", overwrite=True):
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = tmp_path / output
        command = [
            "generate",
            str(tmp_path / "in.jsonl"),
            str(out),
            "--model",
            str(tiny_model("llama")),
            "--no-chat",
            "--quiet",
        ]
        command += ["--kv-memory", "4MiB", "--threads", "1", "--dtype", "float32", "--max-tokens", "6", "--ignore-eos"]
        with pytest.raises(SystemExit) as ended:
            main([*command, *(["--overwrite"] if overwrite else []), *map(str, flags)])
        found = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        return ended.value.code, found, capsys.readouterr().err

    return run


@pytest.fixture
def adapters(tiny_model, tmp_path):
    return [save_adapter(tiny_model("llama"), tmp_path / f"adapter{i}", i, r=4, target_modules="all-linear") for i in (1, 2)]


def texts(rows):
    return [row["text"] for row in rows]


def test_rows_choose_adapters_by_name(generate, adapters):
    rows = [{"prompt": "ab", "lora": name} for name in ("one", "two", "", None, "three")]
    code, found, _ = generate(rows, "--lora", f"one={adapters[0]}", "--lora", f"two={adapters[1]}")
    assert code == 5
    plain, merged = (
        generate([{"prompt": "ab"}])[1],
        [generate([{"prompt": "ab"}], "--merge-lora", path)[1] for path in adapters],
    )
    assert texts(found[:4]) == texts([*merged[0], *merged[1], *plain, *plain])
    assert len(set(texts(found[:3]))) == 3
    assert found[4]["error_code"] == "invalid_parameter"
    assert found[4]["error"] == "line 5: lora is 'three', which no --lora names; use one, two"


def test_rows_that_name_none_take_the_only_adapter(generate, adapters):
    found = generate([{"prompt": "ab"}, {"prompt": "ab", "lora": ""}], "--lora", f"one={adapters[0]}")[1]
    assert texts(found) == texts(
        [*generate([{"prompt": "ab"}], "--merge-lora", adapters[0])[1], *generate([{"prompt": "ab"}])[1]]
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora", "one"], "--lora is 'one'"),
        (["--lora", "=x"], "--lora is '=x'"),
        (["--lora", "one=a", "--lora", "one=b"], "--lora names one twice"),
        (["--lora", "one=nowhere"], "nowhere: no adapter_config.json"),
        (["--merge-lora", "nowhere"], "nowhere: no adapter_config.json"),
    ],
)
def test_wrong_flags_are_one_line(generate, flags, message):
    code, found, said = generate([{"prompt": "a"}], *flags)
    assert code in (2, 4)
    assert found == []
    assert said.count("error: ") == 1
    assert message in said


def test_adapters_belong_to_the_job_by_their_files(tiny_model, adapters, tmp_path):
    """As the model's weights do: a job that was stopped is gone on with by the same ones, wherever they lie."""
    source = resolve_model(str(tiny_model("llama")))
    first, second = (weights_identity(with_adapters(source, None, (("one", str(path)),))) for path in adapters)
    assert first != second
    adapters[0].rename(tmp_path / "elsewhere")
    moved = str(tmp_path / "elsewhere")
    assert weights_identity(with_adapters(source, None, (("one", moved),))) == first
    assert weights_identity(with_adapters(source, moved)) == first
    assert not {"params", "params.lora"} & set(NOT_IDENTITY)
