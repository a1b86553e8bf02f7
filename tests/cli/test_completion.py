"""What a shell's Tab offers, asked as the shell asks it: by variables in the environment of the program."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pagecli.cli.app import main


@pytest.fixture
def offered(tmp_path, monkeypatch, capsys):
    """offered(words) -> what bash would show behind the last of them, which is unfinished."""
    cache = tmp_path / "hub"
    (cache / "models--some-org--tiny-model" / "snapshots").mkdir(parents=True)
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "price": 1, "review": "b"}\n')
    (tmp_path / "in.csv").write_text("question,answer\na,b\n")
    (tmp_path / "broken.jsonl").write_text("[1, 2]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("_PAGECLI_COMPLETE", "complete_bash")

    def ask(words: str) -> list[str]:
        given = ["pagecli", *words.split(" ")]
        monkeypatch.setenv("COMP_WORDS", "\n".join(given))
        monkeypatch.setenv("COMP_CWORD", str(len(given) - 1))
        with pytest.raises(SystemExit) as ended:
            main([])
        out, err = capsys.readouterr()
        assert (ended.value.code, err) == (0, "")
        return [line for line in out.splitlines() if line]

    return ask


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        ("gen", ["generate"]),
        ("help pro", ["profile"]),
        ("config me", ["merge"]),
        ("generate in.jsonl out.jsonl --prompt-c", ["--prompt-column"]),
        ("generate in.jsonl out.jsonl --order ", ["input", "completion"]),
        ("generate in.jsonl out.jsonl --model smollm2-1", ["smollm2-135m", "smollm2-1.7b"]),
        ("generate in.jsonl out.jsonl -m some", ["some-org/tiny-model"]),
        ("models show some", ["some-org/tiny-model"]),
        ("generate in.jsonl out.jsonl --prompt-column pr", ["prompt", "price"]),
        ("score in.csv out.jsonl --prompt-column ", ["question", "answer"]),
        ("profile --gpu h1", ["h100", "h100-pcie"]),
        ("profile --workload al", ["alpaca"]),
        ("profile --policies paged,reserve-m", ["paged,reserve-max"]),
        ("profile --policies reserve-max/s", ["reserve-max/static"]),
    ],
)
def test_a_value_is_completed_from_what_there_is(offered, words, offers):
    assert sorted(offered(words)) == sorted(offers)


@pytest.mark.parametrize("source", ["missing.jsonl", "broken.jsonl", "-", "s3://bucket/in.jsonl"])
def test_an_input_that_cannot_be_looked_at_offers_no_columns(offered, source):
    assert offered(f"generate {source} out.jsonl --prompt-column ") == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_takes_the_script_and_calls_the_program_by_it(tmp_path):
    """The script that --show-completion prints, in a bash whose `pagecli` is this one."""
    (tmp_path / "pagecli").write_text(f'#!/bin/sh\nexec {sys.executable} -m pagecli "$@"\n')
    (tmp_path / "pagecli").chmod(0o755)
    script = """
    eval "$(pagecli --show-completion bash)"
    COMP_WORDS=(pagecli profile --gpu l4) COMP_CWORD=3 COMP_LINE="pagecli profile --gpu l4"
    _pagecli_completion pagecli
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == (["l4", "l40s"], "")
