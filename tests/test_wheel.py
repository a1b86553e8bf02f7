"""The wheel of `make wheel`, as a stranger installs it: another user, an empty home, no compiler, nothing of the clone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WHEELS = list((Path(__file__).resolve().parents[1] / "dist").glob("pagecli-*.whl"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not WHEELS, reason="make wheel makes it")]
NOBODY = 65534
IS_ROOT = os.geteuid() == 0
STRANGER = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if IS_ROOT else {}


def reachable_python() -> str:
    """This Python, or one of the same version that other users may start too."""
    version = f"python3.{sys.version_info.minor}"
    for path in (sys._base_executable, shutil.which(version, path="/usr/local/bin:/usr/bin")):
        try:
            if path is not None and subprocess.run([path, "-c", ""], **STRANGER).returncode == 0:
                return path
        except PermissionError:
            continue
    pytest.skip("no Python that another user may start")


@pytest.fixture(scope="module")
def bare() -> Iterator[Path]:
    """A virtual environment that holds the wheel alone; its dependencies are those of the tests, by their folder."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        subprocess.run([reachable_python(), "-m", "venv", "--without-pip", root / "venv"], check=True)
        install = [sys.executable, "-m", "pip", "--python", root / "venv/bin/python", "install", "--no-deps", "--no-index"]
        subprocess.run([*install, "--quiet", WHEELS[0]], check=True, env={**os.environ, "PYTHONPATH": ""})
        site = next((root / "venv/lib").glob("python3*/site-packages"))
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (root / "home").mkdir()
        if IS_ROOT:
            os.chown(root / "home", NOBODY, NOBODY)
        yield root


@pytest.fixture
def run(bare: Path) -> Callable[..., subprocess.CompletedProcess]:
    """run(*words) -> the finished command, looked up in the environment alone."""

    def command(*words: str, **settings) -> subprocess.CompletedProcess:
        environment = {"PATH": str(bare / "venv/bin"), "HOME": str(bare / "home")}
        words = [str(bare / "venv/bin" / words[0]), *words[1:]]
        where = {"cwd": bare / "home", "env": environment, "capture_output": True, "text": True, "timeout": 120}
        return subprocess.run(words, **where, **STRANGER, **settings)

    return command


def test_it_is_for_any_linux_of_this_age_and_from_python_3_12_on_for_any_python():
    python, abi, platform = WHEELS[0].stem.split("-")[-3:]
    minor = sys.version_info.minor
    assert (python, abi) == (("cp311", "cp311") if minor == 11 else ("cp312", "abi3"))
    assert platform.startswith("manylinux_")


def test_its_program_is_the_installed_one_with_compiled_kernels_and_the_manual(run, bare):
    done = run("pagecli", "--version")
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "pagecli", "")
    modules = "pagecli.devices.cpu._native, pagecli.jobs.run._signal_watchdog"
    found = run("python", "-c", f"import {modules}; print(pagecli.__file__, pagecli.devices.cpu._native.__file__)")
    assert [Path(path).is_relative_to(bare) for path in found.stdout.split()] == [True, True], found.stderr
    assert (bare / "venv/share/man/man1/pagecli.1").read_text().startswith(".TH PAGECLI 1 ")


def test_it_generates_with_the_sample_model_and_leaves_nothing_but_its_cache(run, bare, sample_model):
    rows = "".join(json.dumps({"prompt": text}) + "\n" for text in ("Name three colours.", "Why is the sky blue?"))
    done = run("pagecli", "generate", "-", "out.jsonl", "--model", "smollm2-135m", "--max-tokens", "8", input=rows)
    assert done.returncode == 0, done.stderr
    written = [json.loads(line) for line in (bare / "home/out.jsonl").read_text().splitlines()]
    assert [bool(row["text"]) for row in written] == [True, True]
    assert {path.name for path in (bare / "home").iterdir()} <= {"out.jsonl", ".cache"}
