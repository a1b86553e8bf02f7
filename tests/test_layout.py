"""The walls of the house: who may import whom, how long a file may be, and which names say nothing."""

import ast
import functools
import graphlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pagecli"
MAX_LINES = 400
MAX_FILES = 12  # in a folder, its own docstring (__init__.py) not counted
HOUSE = {"pagecli", "csrc"}
GRAB_BAGS = {"utils", "util", "common", "helpers", "helper", "misc"}

# What stands beside the house: nothing that a command left behind.
TOP = {
    "pyproject.toml",
    "pagecli",
    "csrc",
    "tests",
    "sample_data",
    "README.md",
    "docs",
    "benchmarks",
    "Makefile",
    "LICENSE",
    ".ci",
}
TOP |= {
    ".github",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "constraints.txt",
    "mkdocs.yml",
}

# A layer may import those it names here, itself, and errors. Nothing imports to its left.
LAYERS = {
    "cli": {"jobs", "profiler", "engine", "devices", "model", "kv", "core"},
    "integrations": {"engine", "core"},
    "api": {"cli", "jobs", "profiler", "engine", "devices", "model", "kv", "core"},
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
    "pagecli.devices.base",
    "pagecli.model.weights.safetensors_file",
    "pagecli.core.engine_config",
    "pagecli.cli.app",
    "pagecli.core.model_config",
    "pagecli.profiler.plan.estimate",
    "pagecli.profiler.plan.local_device",
    "pagecli.cli.profile.plan_tables",
    "pagecli.devices.memory",
    "pagecli.cli.generate.run",  # pyarrow neither: JSON Lines to JSON Lines does without
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


@functools.cache
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
    assert len(list(sorter.static_order())) == len(imports)  # raises CycleError with the circle


def test_imports_go_in_one_direction():
    wrong = []
    for module, path in ((module_name(path), path) for path in MODULES):
        layer = layer_of(module)
        if layer not in {"__init__", "__main__"}:
            allowed = LAYERS[layer] | {layer, "errors"}
            wrong += [f"{module} imports {name}" for name in imported_modules(path) if layer_of(name) not in allowed]
    assert wrong == []


def test_files_stay_short_and_are_named_for_their_subject():
    assert [str(path) for path in SOURCES if len(path.read_text().splitlines()) > MAX_LINES or path.stem in GRAB_BAGS] == []


def test_a_folder_has_at_most_a_dozen_files():
    """More are rooms that nobody has named yet."""
    folders = Counter(path.parent for path in SOURCES if path.parts[len(ROOT.parts)] in HOUSE and path.name != "__init__.py")
    assert {str(folder.relative_to(ROOT)): count for folder, count in folders.items() if count > MAX_FILES} == {}


@pytest.mark.slow
def test_nothing_else_lies_at_the_top():
    if not (ROOT / ".git").exists():
        pytest.skip("needs git's list of files")
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name.split("/")[0] for name in done.stdout.splitlines()} <= TOP


def test_no_two_benchmarks_have_one_name():
    """Tests import them from several folders on the path: of two, which one they get would depend on the order of the tests."""
    names = [path.stem for path in SOURCES if path.suffix == ".py" and "benchmarks" in path.relative_to(ROOT).parts[:-1]]
    assert sorted(set(names)) == sorted(names)


def _shown_as_they_are(path: Path) -> list[int]:
    """Lines of an f-string that shows an OSError itself: "[Errno 28] ...", often with a path that stands there already."""
    found = []
    for handler in ast.walk(ast.parse(path.read_text())):
        if not isinstance(handler, ast.ExceptHandler) or handler.type is None:
            continue
        if not {"OSError", "ConnectionError", "IOError"} & {getattr(node, "id", None) for node in ast.walk(handler.type)}:
            continue
        shown = (node.value for node in ast.walk(handler) if isinstance(node, ast.FormattedValue))
        found += [value.lineno for value in shown if isinstance(value, ast.Name) and value.id == handler.name]
    return found


def test_what_the_system_refuses_is_said_in_its_words():
    """By errors.reason_of."""
    assert {path: lines for path in MODULES if (lines := _shown_as_they_are(path))} == {}


def test_kernels_and_their_headers_know_no_python_and_no_torch():
    for folder in ("include", "cpu", "cuda"):
        for path in (ROOT / "csrc" / folder).rglob("*"):
            if path.suffix in {".cpp", ".h", ".cu", ".cuh"}:
                includes = [line for line in path.read_text().splitlines() if line.startswith("#include")]
                assert not [
                    line for line in includes if any(word in line for word in ("Python.h", "nanobind", "torch", "ATen"))
                ], path


@pytest.mark.slow
def test_what_needs_no_torch_does_not_import_it():
    check = f"""
import sys
for name in {TORCH_FREE}:
    __import__(name)
    for slow in ("torch", "transformers", "pyarrow"):
        assert slow not in sys.modules, (name, slow)
"""
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
