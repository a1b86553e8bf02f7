"""The model's own sampling defaults from end to end: taken, overridden, left out, said, and part of what the job is."""

import json
import shutil

import pytest

ROWS = [{"id": i, "prompt": f"the quick brown fox {i} " * 3} for i in range(3)]
REPEATS_NOT = {"no_repeat_ngram_size": 1, "repetition_penalty": 1.3}


@pytest.fixture
def model(tiny_model, tmp_path, monkeypatch):
    """The tiny Llama with a generation_config.json of the test's; `generate` is given it by --model once more."""

    def make(config: dict) -> list[str]:
        directory = tmp_path / "model"
        if not directory.exists():
            shutil.copytree(tiny_model("llama"), directory)
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 2} | config))
        return ["--model", str(directory)]

    return make


def texts(out: str) -> list[str]:
    return [json.loads(line)["text"] for line in out.splitlines()]


def test_the_models_defaults_are_the_flags_it_would_take_and_are_said(generate, model):
    plain = texts(generate(ROWS, "-", *model({}))[1])
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in REPEATS_NOT.items()]
    by_flags = texts(generate(ROWS, "-", *model({}), *flags)[1])
    code, out, err = generate(ROWS, "-", *model(REPEATS_NOT))
    assert code == 0
    assert texts(out) == by_flags != plain
    assert "no_repeat_ngram_size 1, repetition_penalty 1.3 (the model's generation_config.json)" in " ".join(err.split())
    neutral = ["--no-repeat-ngram-size", "0", "--repetition-penalty", "1"]
    assert texts(generate(ROWS, "-", *model(REPEATS_NOT), *neutral)[1]) == plain
    columns = [row | {"no_repeat_ngram_size": 0, "repetition_penalty": 1} for row in ROWS]
    assert texts(generate(columns, "-", *model(REPEATS_NOT))[1]) == plain
    code, out, err = generate(ROWS, "-", *model(REPEATS_NOT), "--generation-config", "none")
    assert texts(out) == plain
    assert "generation_config.json" not in err


def test_beams_are_searched_whatever_the_model_samples_at(generate, model):
    sampling = {"do_sample": True, "temperature": 0.9}
    assert generate(ROWS, "-", *model(sampling), "--beam-width", "2")[0] == 0
    assert generate([row | {"beam_width": 2} for row in ROWS], "-", *model(sampling))[0] == 0


def test_what_is_not_computed_and_what_is_out_of_range_is_said(generate, model):
    code, _, err = generate(ROWS, "-", *model({"typical_p": 0.5}))
    assert code == 0
    assert "generation_config.json sets typical_p: left out" in err
    code, _, err = generate(ROWS, "-", *model({"top_p": 7}))
    assert code == 4
    assert "top_p must be in [0, 1]" in err
    assert "--generation-config none" in err


def test_other_defaults_are_another_job(generate, model, monkeypatch):
    from pagecli.cli.generate.job import identify
    from pagecli.jobs.journal.job_identity import NOT_IDENTITY

    assert {"open_to_model", "of_model"} <= set(NOT_IDENTITY)
    seen = []
    monkeypatch.setattr("pagecli.cli.generate.run.identify", lambda job, source: seen.append(job) or identify(job, source))
    generate(ROWS, "a.jsonl", *model(REPEATS_NOT))
    generate(ROWS, "b.jsonl", *model({}))
    assert seen[0].params != seen[1].params
