"""The docs: they build without a warning, their examples run, and their flags, columns and codes are the program's."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import reference_pages
import report
from typer.main import get_command

from pagecli.cli.commands import app
from pagecli.errors import ErrorCode, ExitCode
from pagecli.jobs.rows.row import RESULT_COLUMNS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
README = (ROOT / "README.md").read_text()
BLOCKS = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """Broken links, anchors and pages that the navigation lacks are warnings, and warnings are errors."""
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert (tmp_path / "reference/commands/index.html").exists()


def pages_with_examples() -> list[Path]:
    return [page for page in PAGES if BLOCKS.search(page.read_text())]


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with_examples(), ids=lambda page: str(page.relative_to(DOCS)))
def test_the_examples_of_a_page_run_one_after_the_other(page, tmp_path):
    shutil.copytree(ROOT / "sample_data", tmp_path / "sample_data")
    python = shlex.quote(sys.executable)
    functions = f'pagecli() {{ {python} -m pagecli "$@"; }}\npython() {{ {python} "$@"; }}\n'
    script = "set -euo pipefail\n" + functions + "\n".join(BLOCKS.findall(page.read_text()))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PAGECLI_MAX_TOKENS": "32"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_reference_names_every_command_and_flag_with_its_help():
    text = reference_pages.pages()["commands"]
    for name, command in get_command(app).commands.items():
        assert f"## pagecli {name}\n" in text
        section = text.split(f"## pagecli {name}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and not getattr(parameter, "hidden", False):
                assert parameter.help, (name, parameter.name)
                for flag in (*parameter.opts, *parameter.secondary_opts):
                    assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", section), (name, flag)


def test_the_reference_explains_every_exit_code_error_code_and_column():
    pages = reference_pages.pages()
    for page, names in (("exit-codes", ExitCode), ("error-codes", ErrorCode), ("columns", RESULT_COLUMNS)):
        for name in names:
            value = getattr(name, "value", name)
            assert re.search(rf"^\| `{value}` \| \S.+ \|$", pages[page], re.MULTILINE), (page, value)


def test_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 150
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_readmes_speeds_are_those_of_the_kept_results():
    between = README.split(report.MARKERS[0])[1].split(report.MARKERS[1])[0]
    assert between.strip() == report.readme_table(), "python benchmarks/report.py --write puts the newest there"


def test_of_each_case_and_machine_one_result_is_kept():
    import json

    from results_file import RESULTS, case_of, cpu_of

    cases = [(case_of(path), cpu_of(json.loads(path.read_text()))) for path in RESULTS.glob("*.json")]
    assert sorted(set(cases)) == sorted(cases)
