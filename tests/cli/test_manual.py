"""The manual page: every command and flag is in it, and the programs that print it find nothing wrong."""

import re
import shutil
import subprocess

import pytest
from typer.main import get_command

from pagecli.cli.commands import app
from pagecli.cli.terminal.manual import manual_page


@pytest.fixture(scope="module")
def page() -> str:
    return manual_page()


def printed(page: str) -> str:
    """As a terminal shows it, without bold and italics."""
    done = subprocess.run(
        ["groff", "-ww", "-man", "-Tascii", "-P-cbou"], input=page, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")
def test_it_shows_every_command_with_every_flag_its_words_whole(page):
    text = printed(page)
    commands = get_command(app).commands
    sections = dict(re.findall(r"(?ms)^   pagecli (\w+)\n(.*?)(?=^   pagecli|\Z)", text))
    assert list(sections) == list(commands)
    for name, section in sections.items():
        for parameter in commands[name].params:
            for flag in (*parameter.opts, *parameter.secondary_opts):
                assert not flag.startswith("-") or re.search(rf"(?<![\w-]){flag}(?![\w-])", section), (name, flag)
    assert "pagecli generate in.jsonl out.parquet --model smollm2-135m\n" in text  # an example, on a line of its own
    assert "{{ review }}" in text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mandoc") is None, reason="no mandoc")
def test_mandoc_finds_nothing_to_complain_of(page):
    done = subprocess.run(["mandoc", "-Tlint"], input=page, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_build_that_sets_the_date_gets_the_same_page_every_time(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert manual_page() == manual_page()
    assert ".TH PAGECLI 1 2023-11-14 " in manual_page()
