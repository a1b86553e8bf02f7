"""A prompt template over the columns of a row, in the sandbox of chat templates; it has no time and no chance, so that a row's
prompt depends on the row alone.

A column that is missing or null is an error where the template writes it, by itself, in a list or mapping (`row` among them)
or through a filter, never the text `None`: templates ask for such columns by `is defined`, `default(...)`, or `if`. So is what
has no text but its address in memory, which no two runs have in common: a method without its brackets, a filter's lazy list.
`row` is the mapping of all columns, for names that are no identifiers.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, Undefined, nodes, pass_eval_context
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from jinja2.filters import make_attrgetter

from pagecli.model.tokenizer.templates.chat_template import CountingEnvironment

ROW = "row"
_OF_JINJA = {"loop", "caller", "varargs", "kwargs"}  # names that it defines inside of loops and macros
_TESTS, _FILTERS = ("defined", "undefined"), ("default", "d")
# Filters that make text of their value, whatever it is; of two also of what they are given besides.
_WRITING = (
    *("capitalize", "center", "e", "escape", "forceescape", "format", "indent", "lower", "pprint", "replace"),
    *("string", "striptags", "title", "trim", "truncate", "upper", "urlencode", "urlize", "wordcount", "wordwrap"),
)
_WRITING_ALL = ("format", "replace")


class RowTemplate:
    """A compiled template. One thread renders at a time. Raises jinja2's TemplateError if it cannot be compiled."""

    def __init__(self, text: str) -> None:
        self._environment = _RowEnvironment()
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
    environment = _RowEnvironment()
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


class _RowEnvironment(CountingEnvironment):
    """The sandbox, in which every value that becomes text is looked at first."""

    def __init__(self) -> None:
        super().__init__(None)
        self.undefined = StrictUndefined
        self.finalize = _written
        self.filters |= {name: _writing(name, self.filters[name]) for name in _WRITING}
        self.filters |= {"join": _joining(self.filters["join"]), "pagecli_written": _written}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for joined in list(tree.find_all(nodes.Concat)):
            joined.nodes = [self._filtered(node, "pagecli_written") for node in joined.nodes]
        return tree

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(__obj, "__wrapped__", __obj)  # str.format comes wrapped
        if getattr(method, "__name__", "") == "format" and isinstance(getattr(method, "__self__", None), str):
            for value in (*args, *kwargs.values()):
                _written(value)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            if isinstance(right, Mapping) and "%(" in left:
                return super().call_binop(context, operator, left, _Looked(right))
            for value in right if isinstance(right, tuple) else (right,):
                _written(value)
        return super().call_binop(context, operator, left, right)


def _writing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, with a look at what it writes. Raises TemplateError."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0  # what Jinja passes in front of the value

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        passed, (value, *rest) = args[:first], args[first:]
        _written(value)
        for other in (*rest, *kwargs.values()) if name in _WRITING_ALL else ():
            _written(other)
        return function(*passed, value, *rest, **kwargs)

    return checked


def _joining(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter `join`, with a look at each item, or its attribute, that it writes. Raises TemplateError."""

    @pass_eval_context
    def checked(context: Any, value: Any, d: str = "", attribute: str | int | None = None) -> Any:
        if attribute is not None:
            value = map(make_attrgetter(context.environment, attribute), value)
        items = value if isinstance(value, str | Undefined) else [_written(item) for item in value]
        return function(context, items, _written(d))

    return checked


class _Looked(dict[Any, Any]):
    """A mapping for `%`, which looks at the values that are taken out of it alone. Raises TemplateError."""

    def __getitem__(self, name: Any) -> Any:
        return _written(super().__getitem__(name))


def _written(value: Any, inside: str = "") -> Any:
    """The value, if it and what is in it have a text; `inside`: of what it is an item. Raises TemplateError."""
    if value is None:
        raise TemplateError(f"a value that it writes {inside or 'is null'}")
    kind: Any = type(value)
    if isinstance(value, Undefined):
        return str(value) if inside else value  # which raises
    has_no_text = kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__
    if has_no_text or callable(value) or isinstance(value, Iterator):
        raise TemplateError(f"a value that it writes is a {kind.__name__}, which has no text")
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for item in (*value, *value.values()) if isinstance(value, Mapping) else value:
            _written(item, "has a null in it")
    return value
