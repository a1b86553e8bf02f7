"""The wrappers hand their arguments to the extensions in the order in which those take them.

Calls are by position: by name, each argument takes some 5 ns more (70 ns of the 1.4 us of a call of paged_attention). So the
names are compared here, each argument's with that of the parameter of the C++ function behind `module.def`.
"""

import ast
import re
from pathlib import Path

import pytest

from pagecli.devices.cpu import kernels

PACKAGE = Path(kernels.__file__).parents[2]
BINDINGS = PACKAGE.parent / "csrc/bindings"
ONE_ARGUMENT = {"isa_name", "supported_isas", "select_isa", "num_threads", "set_num_threads", "read_memory", "current_device"}
CALLERS = {  # files, and what they call functions of
    "devices/cpu/kernels.py": ("_native", "super()"),
    "devices/cuda/kernels.py": ("extension()", "module"),
    "devices/cuda/model/attention.py": ("extension()", "module"),
}


def parameters_of(device: str) -> dict[str, list[str]]:
    """Function of the module, or method of its class -> names of its parameters."""
    found = {}
    for path in (BINDINGS / device).glob("*.cpp"):
        text = path.read_text()
        for module, name, function in re.findall(r'(module|)\.def\("(\w+)", (\w+)', text):
            definition = re.search(rf"^[\w:]+ {function}\(([^)]*)\) {{", text, re.MULTILINE)
            if definition is not None:
                names = [name.removeprefix("num_") for name in re.findall(r"(\w+)(?:,|$)", definition[1])]
                found[name] = names if module else names[1:]
    return found


def calls_of(file: str, modules: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """(function, names of the arguments) of each call with several arguments."""
    found = []
    for function in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(function, ast.FunctionDef):
            tuples = dict(_tuples(function))
            for call in ast.walk(function):
                match call:
                    case ast.Call(ast.Attribute(module, name), [_, _, *_] as given) if ast.unparse(module) in modules:
                        found.append((name, [each for node in given for each in _names(node, tuples)]))
    return found


def _tuples(function: ast.FunctionDef):
    """(name, values) of each tuple that the function makes of its arguments."""
    for assigned in ast.walk(function):
        if isinstance(assigned, ast.Assign):
            targets, values = assigned.targets[0], assigned.value
            several = isinstance(targets, ast.Tuple) and isinstance(values, ast.Tuple)
            yield from (
                (ast.unparse(target), value.elts)
                for target, value in (zip(targets.elts, values.elts, strict=True) if several else [(targets, values)])
                if isinstance(value, ast.Tuple)
            )


def _names(node: ast.expr, tuples: dict[str, list[ast.expr]]) -> list[str]:
    """`x` of x, x.data, x_data, x.view(...), raw(x), x[rows] and other.x; of *several, those of each."""
    match node:
        case ast.Starred(name):
            return [name for each in tuples[ast.unparse(name)] for name in _names(each, tuples)]
        case ast.Call(ast.Attribute(inner)) | ast.Attribute(inner, "data") | ast.Call(_, [inner]) | ast.Subscript(inner):
            return _names(inner, tuples)
    return [ast.unparse(node).rpartition(".")[2].removeprefix("num_").removesuffix("_data")]


CALLS = [(file.split("/")[1], *call) for file, modules in CALLERS.items() for call in calls_of(file, modules)]


@pytest.mark.parametrize(("device", "name", "given"), CALLS, ids=lambda value: value if isinstance(value, str) else "")
def test_arguments_stand_where_the_function_takes_them(device, name, given):
    taken = [{"data": "weight"}.get(each, each) for each in parameters_of(device)[name]]
    assert given == taken


@pytest.mark.parametrize("file", CALLERS)
def test_every_call_is_compared(file):
    """One in a form that is not seen here would not be."""
    called = re.findall(r"(?:_native|super\(\)|extension\(\)|module)\.(\w+)\(", (PACKAGE / file).read_text())
    assert {name for device, name, _ in CALLS if device == file.split("/")[1]} >= set(called) - ONE_ARGUMENT
