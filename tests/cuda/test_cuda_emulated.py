"""The CUDA kernels' own code run on the CPU: the emulator finds planted faults, and the kernel tests pass on it, under
AddressSanitizer and UndefinedBehaviorSanitizer, and again with the race detector. What launches the kernels is tested with
neither: it adds no kernel, and computes whole models over and over."""

from pathlib import Path
from xml.etree import ElementTree

import emulated
import pytest

pytestmark = pytest.mark.slow

# Tests of models, the engine and the runner.
NAMES = ("adapter_engine", "engine", "families", "runner", "failures", "jobs", "launches", "mixtures", "models", "parameters")
NAMES += ("prompt_attention", "quantized", "ranks")
LAUNCHERS = tuple(f"tests/cuda/test_cuda_{name}.py" for name in NAMES)

PLANTED = """
import torch
from pagecli.devices.cuda import kernels
module = kernels.extension()
x = torch.arange(64, dtype=torch.float32) + 1
for order in ("forward", "backward", "shuffled"):
    for name in {names}:
        out = torch.zeros(64) if "count" in name else torch.full((64,), float("nan"))
        module.set_thread_order(order, 1)
        try:
            module.run_planted(name, out, x)
            written = out[:32] if "async" in name else out
            wrong = "unwritten" if written.isnan().any() else ""
        except RuntimeError as error:
            wrong = str(error)
        print(order, name, wrong, sep=": ", flush=True)
"""


@pytest.fixture(scope="module")
def build() -> Path:
    return emulated.build()


def planted(build: Path, variant: str, *names: str) -> list[tuple[str, str]]:
    """(order and name, what was wrong) for each planted kernel in each order of the threads."""
    done = emulated.python(build, variant, "-c", PLANTED.format(names=list(names)))
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split(": ", 2) for line in done.stdout.splitlines()]
    assert len(lines) == 3 * len(names)
    return [(f"{order} {name}", wrong) for order, name, wrong in lines]


@pytest.mark.parametrize("variant", ["sanitized", "race"])
def test_faults_are_found_and_only_faults(build, variant):
    expected = {
        "unwritten output": "unwritten",
        "barrier for half": "threads of a block part: thread",
        "async without wait": "race: " if variant == "race" else "unwritten",
        "missing barrier": "race: " if variant == "race" else "unwritten",
    }
    if variant == "race":
        expected |= {"async without sync": "race: ", "racing count": "race: "}
    for case, wrong in planted(build, variant, "reverse", "copy", "async", "atomic count", *expected):
        name = case.split(" ", 1)[1]
        assert wrong.startswith(expected[name]) if name in expected else wrong == "", f"{case}: {wrong}"


def test_a_write_past_the_end_of_shared_memory_is_found(build):
    done = emulated.python(build, "sanitized", "-c", PLANTED.format(names=["write past the end"]))
    assert done.returncode != 0
    assert done.stdout == ""
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert "reverse_kernel" in done.stderr


def files_of_kernels() -> list[str]:
    """The files with tests marked `cuda`, but for the launchers'."""
    found = [path for path in Path(__file__).parent.glob("test_*.py") if "mark.cuda" in path.read_text()]
    return sorted({f"tests/cuda/{path.name}" for path in found} - {*LAUNCHERS, f"tests/cuda/{Path(__file__).name}"})


def assert_all_pass(build: Path, variant: str, record: Path, paths: list[str]) -> None:
    """The tests marked `cuda` in `paths`, with the kernels of `variant`: none fails, every file has some that pass, and those
    alone are skipped that a card runs."""
    options = ["-q", "-m", "cuda", "-p", "no:cacheprovider", f"--junitxml={record}"]
    done = emulated.python(build, variant, "-m", "pytest", *options, *paths)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    passed, reasons = set(), set()
    for case in ElementTree.parse(record).iter("testcase"):
        skipped = case.find("skipped")
        if skipped is None:
            passed.add(case.get("classname").replace(".", "/") + ".py")
        else:
            reasons.add(skipped.get("message"))
    assert passed == {*paths}
    assert reasons <= {"torch's call needs a GPU"}


@pytest.mark.parametrize("variant", ["sanitized", "race"])
def test_kernel_tests_pass(build, variant, tmp_path):
    assert_all_pass(build, variant, tmp_path / "cases.xml", files_of_kernels())


def test_what_launches_the_kernels_passes(build, tmp_path):
    assert_all_pass(build, "plain", tmp_path / "cases.xml", [*LAUNCHERS])
