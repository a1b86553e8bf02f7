"""A prompt template over the columns of a row, in the sandbox of chat templates; it has no time and no chance, so that a row's
prompt depends on the row alone.

A column that is missing or null is an error where the template writes it, never the text `None`: templates ask for such columns
by `is defined`, `default(...)`, or `if`. `row` is the mapping of all columns, for names that are no identifiers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2.exceptions import TemplateError, TemplateSyntaxError

from pagecli.model.tokenizer.templates.chat_template import CountingEnvironment

ROW = "row"
_OF_JINJA = {"loop", "caller", "varargs", "kwargs"}  # names that it defines inside of loops and macros
_TESTS, _FILTERS = ("defined", "undefined"), ("default", "d")


class RowTemplate:
    """A compiled template. One thread renders at a time. Raises jinja2's TemplateError if it cannot be compiled."""

    def __init__(self, text: str) -> None:
        self._environment = _environment()
        self._template = self._environment.from_string(text)

    def render(self, columns: Mapping[str, Any]) -> str:
        """The prompt. Raises whatever the template raises."""
        self._environment.start()
        return self._template.render({ROW: columns, **columns})


@dataclass(frozen=True, slots=True)
class TemplateColumns:
    """The columns that a template names: those that a row needs, and those whose absence the template provides for."""

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    takes_all: bool  # it has `row`

    @property
    def names(self) -> tuple[str, ...]:
        return self.needed + self.optional


def columns_of(text: str) -> TemplateColumns:
    """Found by parsing alone: nothing of the template runs. Raises jinja2's TemplateSyntaxError."""
    environment = _environment()
    tree = environment.parse(text)
    found = list(tree.find_all(nodes.Name))
    for kind, known in ((nodes.Filter, environment.filters), (nodes.Test, environment.tests)):
        for node in tree.find_all(kind):
            if node.name not in known:
                raise TemplateSyntaxError(f"there is no {kind.__name__.lower()} {node.name}", node.lineno)
    own = {name.name for name in found if name.ctx != "load"} | set(environment.globals) | _OF_JINJA
    own |= {macro.name for macro in tree.find_all(nodes.Macro)}
    loaded = dict.fromkeys(name.name for name in found if name.ctx == "load" and name.name not in own)
    asked: list[nodes.Node | None] = [test.node for test in tree.find_all(nodes.Test) if test.name in _TESTS]
    asked += [given.node for given in tree.find_all(nodes.Filter) if given.name in _FILTERS]
    guarded = {node.name for node in asked if isinstance(node, nodes.Name)}
    names = [name for name in loaded if name != ROW]
    needed = tuple(name for name in names if name not in guarded)
    return TemplateColumns(needed, tuple(name for name in names if name in guarded), ROW in loaded)


def _environment() -> CountingEnvironment:
    environment = CountingEnvironment(None)
    environment.undefined = StrictUndefined
    environment.finalize = _not_null
    return environment


def _not_null(value: Any) -> Any:
    if value is None:
        raise TemplateError("a value that it writes is null")
    return value
