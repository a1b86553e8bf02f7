"""constraints.txt holds what `make` installs, within the ranges that pyproject.toml gives."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}
GROUPS = PROJECT["dependency-groups"]
OF_TESTS = [line for line in GROUPS["test"] if isinstance(line, str)]
NEEDED = [*PROJECT["project"]["dependencies"], *OF_TESTS, *GROUPS["build"], *PROJECT["build-system"]["requires"]]


def test_every_requirement_of_program_tests_and_build_is_pinned_within_its_range():
    requirements = [Requirement(line) for line in NEEDED]
    pins = {each.name: PINS.get(canonicalize_name(each.name)) for each in requirements}
    assert [each for each in requirements if pins[each.name] is None or pins[each.name] not in each.specifier] == []


def test_every_pin_is_for_the_oldest_python_that_the_project_takes():
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=") + ".2"  # Debian 12's
    found = {name: _required_python(name) for name in PINS}
    assert [name for name, required in found.items() if oldest not in SpecifierSet(required)] == []
    assert len([name for name, required in found.items() if required]) > 100


def _required_python(name: str) -> str:
    """Of the package as it is installed; a pin of another system is not."""
    try:
        return metadata(name).get("Requires-Python") or ""
    except PackageNotFoundError:
        return ""


def test_a_pin_has_no_local_version_which_other_machines_would_not_find():
    assert [version for version in PINS.values() if "+" in version] == []


def test_make_installs_by_the_constraints_alone():
    makefile = (ROOT / "Makefile").read_text()
    variables = dict(re.findall(r"^(\w+) [?:]= (.*?)(?:#.*)?$", makefile, re.MULTILINE))
    assert "--constraint constraints.txt" in variables["PIP"]
    recipes = makefile.split("\nconstraints:")[0]  # what follows moves the file, on purpose
    assert "$(BIN)/pip" not in recipes.replace(variables["PIP"], "").replace(variables["PIP_WHEEL"], "")
    assert "--no-deps --no-build-isolation" in variables["PIP_WHEEL"]
    assert "$(PIP) --no-build-isolation --editable ." in recipes
    assert set(PROJECT["build-system"]["requires"]) <= set(GROUPS["build"])
