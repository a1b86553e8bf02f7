"""The walls of the house: who may import whom, how long a file may be, and which names say nothing."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pagecli"
MAX_LINES = 400
GRAB_BAGS = {"utils", "util", "common", "helpers", "helper", "misc"}

# A layer may import those it names here, itself, and errors. Nothing imports to its left.
LAYERS = {
    "cli": {"jobs", "profiler", "engine", "devices", "model", "kv", "core"},
    "integrations": {"engine", "core"},
    "library": {"cli", "jobs", "profiler", "engine", "devices", "model", "kv", "core"},
    "profiler": {"engine", "devices", "model", "kv", "core"},
    "jobs": {"engine", "model", "core"},
    "engine": {"kv", "distributed", "devices", "model", "core"},
    "distributed": {"devices", "model", "core"},
    "devices": {"model", "core"},
    "model": {"core"},
    "kv": {"core"},
    "core": set(),
    "errors": set(),
}
# These load in milliseconds, without torch: a replay without a model and the tests use them.
TORCH_FREE = [
    "pagecli.kv.manager",
    "pagecli.engine.scheduling.scheduler",
    "pagecli.engine.engine",
    "pagecli.devices.registry",
    "pagecli.model.weights.safetensors_file",
    "pagecli.core.engine_config",
    "pagecli.cli.app",
    "pagecli.core.model_config",
    "pagecli.profiler.plan.estimate",
    "pagecli.profiler.plan.local_device",
    "pagecli.cli.profile.plan_tables",
    "pagecli.devices.memory",
]

MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [
    path
    for folder in ("pagecli", "csrc", "tests", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".cpp", ".h", ".cu", ".cuh"}
]


def layer_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "package"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported_modules(path: Path) -> set[str]:
    """Every pagecli module the file names in an import, at its top, inside a function or for types alone."""
    return modules_named(ast.parse(path.read_text()))


def modules_named(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{alias.name}" if is_package(node.module, alias.name) else node.module for alias in node.names
            }
    return {name for name in found if name.startswith("pagecli.")}


def is_package(module: str, name: str) -> bool:
    """Whether `from module import name` names a module rather than something in one."""
    folder = ROOT.joinpath(*module.split("."))
    return module.startswith("pagecli") and any(
        path.exists() for path in (folder / f"{name}.py", folder / name / "__init__.py")
    )


def test_no_module_imports_itself_through_others():
    """Nor by imports inside functions or for types alone: two files that name each other are one subject, or cut wrong."""
    imports = {module_name(path).removesuffix(".__init__"): imported_modules(path) for path in MODULES}
    sorter = graphlib.TopologicalSorter({name: found & imports.keys() for name, found in imports.items()})
    sorter.prepare()  # raises CycleError with the circle


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_in_one_direction(path):
    layer = layer_of(module_name(path))
    if layer in {"__init__", "__main__"}:
        return
    allowed = LAYERS[layer] | {layer, "errors"}
    wrong = {name for name in imported_modules(path) if layer_of(name) not in allowed}
    assert not wrong, f"{module_name(path)} must not import {sorted(wrong)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short_and_are_named_for_their_subject(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert path.stem not in GRAB_BAGS


def test_no_two_benchmarks_have_one_name():
    """Tests import them from several folders on the path: of two, which one they get would depend on the order of the tests."""
    names = [path.stem for path in SOURCES if path.suffix == ".py" and "benchmarks" in path.relative_to(ROOT).parts[:-1]]
    assert sorted(set(names)) == sorted(names)


def test_kernels_and_their_headers_know_no_python_and_no_torch():
    for folder in ("include", "cpu", "cuda"):
        for path in (ROOT / "csrc" / folder).rglob("*"):
            if path.suffix in {".cpp", ".h", ".cu", ".cuh"}:
                includes = [line for line in path.read_text().splitlines() if line.startswith("#include")]
                assert not [
                    line for line in includes if any(word in line for word in ("Python.h", "nanobind", "torch", "ATen"))
                ], path


@pytest.mark.parametrize("module", TORCH_FREE)
def test_what_needs_no_torch_does_not_import_it(module):
    check = f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'pyarrow')))"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0
