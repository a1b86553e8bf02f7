"""LoRA adapters from flags and columns to the output file: names, refusals, error rows, identity."""

import json
import shutil

import pytest
from tiny_adapters import save_adapter

from pagecli.cli.app import main
from pagecli.jobs.journal.job_identity import NOT_IDENTITY, weights_identity
from pagecli.model.registry import resolve_model, with_adapters

OF_KIND = {
    "generate": ["--no-chat", "--kv-memory", "4MiB", "--max-tokens", "6", "--ignore-eos"],
    "score": ["--kv-memory", "4MiB"],
    "embed": ["--pooling", "last"],
}
COLUMNS = {"generate": "text", "score": "token_logprobs", "embed": "embedding"}


@pytest.fixture
def generate(tmp_path, tiny_model, monkeypatch, capsys):
    """generate(rows, *flags) -> (exit code, rows of the output, stderr); `kind`: another command"""
    monkeypatch.setattr("pagecli.cli.generate.run.quieten", lambda *args, **settings: None)

    def run(rows, *flags, output="out.jsonl", overwrite=True, kind="generate"):
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = tmp_path / output
        command = [
            kind,
            str(tmp_path / "in.jsonl"),
            str(out),
            "--model",
            str(tiny_model("llama")),
            "--quiet",
        ]
        command += ["--threads", "1", "--dtype", "float32", *OF_KIND[kind]]
        with pytest.raises(SystemExit) as ended:
            main([*command, *(["--overwrite"] if overwrite else []), *map(str, flags)])
        found = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        return ended.value.code, found, capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def saved_adapters(tiny_model, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return [save_adapter(tiny_model("llama"), root / f"adapter{i}", i, r=4, target_modules="all-linear") for i in (1, 2)]


@pytest.fixture
def adapters(saved_adapters, tmp_path):
    """Two directories that the test may change."""
    return [shutil.copytree(path, tmp_path / path.name) for path in saved_adapters]


def texts(rows):
    return [row["text"] for row in rows]


def row_of(kind, **columns):
    return {"prompt": "ab", **({"completion": " the fox"} if kind == "score" else {}), **columns}


@pytest.mark.parametrize("kind", OF_KIND)
def test_rows_choose_adapters_by_name(generate, adapters, kind):
    rows = [row_of(kind, lora=name) for name in ("one", "two", "", None, "three", 7)]
    code, found, _ = generate(rows, "--lora", f"one={adapters[0]}", "--lora", f"two={adapters[1]}", kind=kind)
    assert code == 5
    plain = generate([row_of(kind)], kind=kind)[1]
    merged = [generate([row_of(kind)], "--merge-lora", path, kind=kind)[1] for path in adapters]
    values = [row[COLUMNS[kind]] for row in found[:4]]
    assert values[2] == values[3] == plain[0][COLUMNS[kind]]
    for value, (other,) in zip(values, merged, strict=False):
        assert value == (other["text"] if kind == "generate" else pytest.approx(other[COLUMNS[kind]], abs=1e-4))
    assert all(values[i] != pytest.approx(values[j], abs=1e-3) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert found[4]["error_code"] == found[5]["error_code"] == "invalid_parameter"
    assert found[4]["error"] == "line 5: lora is 'three', which no --lora names; use one, two"
    assert found[5]["error"].startswith("line 6: column lora is 7, not text")


@pytest.mark.parametrize("kind", OF_KIND)
def test_a_name_without_any_adapter_is_the_rows_error(generate, kind):
    code, found, _ = generate([row_of(kind, lora="one")], kind=kind)
    assert code == 5
    assert "give its directory: --lora NAME=DIR" in found[0]["error"]


def test_a_dry_run_finds_rows_that_name_no_adapter(generate, adapters, tmp_path):
    rows = [{"prompt": "ab", "lora": name} for name in ("one", "", "two")]
    code, found, _ = generate(rows, "--lora", f"one={adapters[0]}", "--dry-run")
    assert (code, found) == (5, [])
    assert generate(rows, "--lora", f"one={adapters[0]}")[0] == 5


def test_score_rows_of_every_form_take_their_adapter(generate, adapters):
    forms = [
        {"text": "the quick brown fox"},
        {"prompt": "ab", "choices": [" c", " d"]},
        {"prompt_token_ids": [5, 6, 7], "completion": "fox"},
        {"messages": [{"role": "user", "content": "hi"}], "completion": "fox"},
    ]
    values = []
    for row in forms:
        rows = [{**row, "lora": name} for name in ("one", "")]
        code, found, _ = generate(rows, "--lora", f"one={adapters[0]}", kind="score")
        assert code == 0, found
        values.append([each["logprob"] for each in found])
        assert found[0]["logprob"] != pytest.approx(found[1]["logprob"], abs=1e-3)
        assert generate([row], "--merge-lora", adapters[0], kind="score")[1][0]["logprob"] == pytest.approx(
            values[-1][0], abs=1e-4
        )


@pytest.mark.slow
def test_workers_take_the_adapters_of_rows_that_they_score(generate, adapters):
    rows = [row_of("score", lora=name) for name in ("one", "two", "") for _ in range(4)]
    flags = ["--lora", f"one={adapters[0]}", "--lora", f"two={adapters[1]}"]
    assert generate(rows, *flags, "--workers", "2", kind="score")[1] == generate(rows, *flags, kind="score")[1]


def test_requests_of_batch_files_name_their_adapter(generate, adapters, tmp_path):
    body = {"model": "tiny", "prompt": "ab", "max_tokens": 6}
    requests = [
        {"custom_id": f"r{name}", "method": "POST", "url": "/v1/completions", "body": {**body, "lora": name}}
        for name in ("one", "", "huge")
    ]
    code, found, _ = generate(requests, "--lora", f"one={adapters[0]}")
    assert code == 5
    answers = [row["response"]["body"]["choices"][0]["text"] for row in found[:2]]
    assert answers == texts([generate([{"prompt": "ab"}], *flags)[1][0] for flags in (["--merge-lora", adapters[0]], [])])
    assert "no --lora names" in found[2]["error"]["message"]


def test_the_library_takes_adapters_as_a_dict(tiny_model, adapters):
    import pagecli

    settings = {"kv_memory": "4MiB", "threads": 1, "dtype": "float32"}
    named = {"one": str(adapters[0]), "two": str(adapters[1])}
    rows = [{"prompt": "ab", "lora": name} for name in ("one", "two", "")]
    llm = pagecli.LLM(str(tiny_model("llama")), lora=named, **settings)
    sampling = {"max_tokens": 6, "ignore_eos": True, "chat": False}
    found = texts(llm.generate(rows, **sampling))
    assert len(set(found)) == 3
    assert texts(llm.generate(rows[::-1], **sampling)) == found[::-1]
    flag = [f"{name}={path}" for name, path in named.items()]
    assert texts(pagecli.generate(rows, str(tiny_model("llama")), lora=flag, **settings, **sampling)) == found
    one = pagecli.generate(["ab"], str(tiny_model("llama")), lora=flag[0], **settings, **sampling)
    assert texts(one) == found[:1]


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize("kind", OF_KIND)
def test_a_stopped_job_is_gone_on_with_by_the_same_adapters_in_any_order(generate, adapters, kind):
    rows = [*(row_of(kind, lora=name) for name in ("one", "two") * 8), row_of(kind, lora="no such name"), row_of(kind)]
    names = ("one1", "one2", "two1", "two2", "six2")  # which of both adapters has that name
    given = {name: ["--lora", f"{name[:3]}={adapters[name.endswith('2')]}"] for name in names}
    begun = [*given["one1"], *given["two2"]]
    assert generate(rows, *begun, "--on-error", "stop", "--max-num-seqs", "1", kind=kind)[0] == 5
    for others, difference in (
        ([*given["one2"], *given["two1"]], f"the model's file {adapters[1]}/adapter_model.safetensors"),
        ([*given["one1"], *given["six2"]], "the names of --lora (one, two, now one, six)"),
    ):
        code, _, said = generate(rows, *others, kind=kind, overwrite=False)
        assert code == 2
        assert difference in said
    code, _, said = generate(rows, *given["two2"], *given["one1"], kind=kind, overwrite=False)
    assert (code, "what differs" in said) == (5, False)
