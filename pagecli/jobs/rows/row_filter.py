"""The language of --where: a condition on a row's columns, read by a parser of its own; nothing in it is ever executed.

    condition   = term {"or" term}            term = factor {"and" factor}
    factor      = "not" factor | "(" condition ")" | test
    test        = column op value | column ["not"] "in" "(" value {"," value} ")" | column "is" ["not"] "null"
    op          = "==" "=" "!=" "<>" "<" "<=" ">" ">=" "contains" "startswith" "endswith"
    column      = name {"." name} | a name in backquotes       value = 'text' | "text" | number | true | false

A test on null, on a column the row has not, or between types that have no order is unknown, as in SQL: neither true nor, by
`not`, false. A row is taken if its condition is true.
"""

import difflib
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pagecli.errors import UsageError
from pagecli.jobs.rows.row import InputSource

Columns = Mapping[str, Any]
Test = Callable[[Columns], bool | None]  # None: unknown
MAX_DEPTH = 100

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"""
    r"""|(?P<quoted>`[^`]+`)|(?P<name>[^\W\d]\w*)|(?P<sign>==|!=|<>|<=|>=|[=<>(),.]))""",
    re.DOTALL,
)
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "contains": lambda text, part: part in text,
    "startswith": lambda text, part: text.startswith(part),
    "endswith": lambda text, part: text.endswith(part),
}
_OF_TEXT = ("contains", "startswith", "endswith")
_KEYWORDS = {"and", "or", "not", "in", "is", "null", "true", "false", *_OF_TEXT}


@dataclass(frozen=True, slots=True)
class Condition:
    """A test, and the columns that it looks at (a path of names for a field of a nested column)."""

    test: Test
    columns: tuple[tuple[str, ...], ...]


def parse_condition(text: str) -> Condition:
    """The condition that `text` says. Raises UsageError that shows where it goes wrong."""
    parser = _Parser(text)
    test = parser.condition(0)
    parser.end()
    return Condition(test, tuple(parser.columns))


def is_selected(condition: Condition, columns: Columns) -> bool:
    return condition.test(columns) is True


def check_condition(condition: Condition, source: InputSource) -> None:
    """Raises UsageError if an input that names its columns has not one that the condition looks at: it would take no row."""
    if source.column_names is None:
        return
    for path in condition.columns:
        found, kind = source.column_names, None
        for depth, name in enumerate(path):
            if name not in found:
                whole = ".".join(path[: depth + 1])
                near = difflib.get_close_matches(name, found, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(found[:12])}"
                raise UsageError(f"--where: {source.name} has no column {whole}", hint)
            if source.schema is None:
                break  # its cells are text
            kind = source.schema.field(name).type if kind is None else kind.field(name).type
            found = [kind.field(number).name for number in range(kind.num_fields)] if _is_struct(kind) else []


def _is_struct(kind: Any) -> bool:
    return str(kind).startswith("struct<")


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self.columns: dict[tuple[str, ...], None] = {}
        self._tokens = self._split()
        self._next = 0

    def _split(self) -> list[tuple[str, str, int]]:
        tokens, position = [], 0
        while self._text[position:].strip():
            match = _TOKEN.match(self._text, position)
            if match is None:
                start = position + len(self._text[position:]) - len(self._text[position:].lstrip())
                raise self._problem(start, "is not understood")
            assert match.lastgroup is not None
            kind, word = match.lastgroup, match[match.lastgroup]
            if kind == "name" and word.lower() in _KEYWORDS:
                kind, word = "sign", word.lower()
            tokens.append((kind, word, match.start(match.lastgroup)))
            position = match.end()
        return tokens

    def _problem(self, position: int, what: str) -> UsageError:
        shown = self._text[position : position + 20]
        where = f"at {shown!r} (character {position + 1})" if shown else "at its end"
        return UsageError(f"--where {what} {where}", "write it as in: lang == 'en' and (score > 0.5 or score is null)")

    def _peek(self) -> tuple[str, str, int]:
        return self._tokens[self._next] if self._next < len(self._tokens) else ("end", "", len(self._text))

    def _takes(self, *signs: str) -> str | None:
        kind, word, _ = self._peek()
        if kind == "sign" and word in signs:
            self._next += 1
            return word
        return None

    def _wants(self, sign: str) -> None:
        if self._takes(sign) is None:
            raise self._problem(self._peek()[2], f"needs {sign!r}")

    def end(self) -> None:
        if self._peek()[0] != "end":
            raise self._problem(self._peek()[2], "goes on where it should end,")

    def condition(self, depth: int) -> Test:
        terms = [self._term(depth)]
        while self._takes("or"):
            terms.append(self._term(depth))
        return terms[0] if len(terms) == 1 else lambda row: _any(term(row) for term in terms)

    def _term(self, depth: int) -> Test:
        factors = [self._factor(depth)]
        while self._takes("and"):
            factors.append(self._factor(depth))
        return factors[0] if len(factors) == 1 else lambda row: _all(factor(row) for factor in factors)

    def _factor(self, depth: int) -> Test:
        if depth > MAX_DEPTH:
            raise self._problem(self._peek()[2], "is nested too deep")
        if self._takes("not"):
            negated = self._factor(depth + 1)
            return lambda row: _not(negated(row))
        if self._takes("("):
            inner = self.condition(depth + 1)
            self._wants(")")
            return inner
        return self._test()

    def _test(self) -> Test:
        column = self._column()
        if self._takes("is"):
            wanted = self._takes("not") is None
            self._wants("null")
            return lambda row: (_value(row, column) is None) == wanted
        if self._takes("not"):
            self._wants("in")
            members = self._members()
            return lambda row: _not(_is_in(_value(row, column), members))
        if self._takes("in"):
            members = self._members()
            return lambda row: _is_in(_value(row, column), members)
        sign = self._takes(*_COMPARISONS)
        if sign is None:
            raise self._problem(self._peek()[2], "needs a comparison (==, <, in, contains, is null, ...)")
        value = self._literal()
        if sign in _OF_TEXT and not isinstance(value, str):
            raise UsageError(f"--where: {sign} needs text", f"write {sign} 'text'")
        return lambda row: _compared(sign, _value(row, column), value)

    def _column(self) -> list[str]:
        names = [self._name()]
        while self._takes("."):
            names.append(self._name())
        self.columns[tuple(names)] = None
        return names

    def _name(self) -> str:
        kind, word, position = self._peek()
        if kind not in ("name", "quoted"):
            raise self._problem(position, "needs the name of a column")
        self._next += 1
        return word.strip("`") if kind == "quoted" else word

    def _members(self) -> list[Any]:
        self._wants("(")
        members = [self._literal()]
        while self._takes(","):
            members.append(self._literal())
        self._wants(")")
        return members

    def _literal(self) -> Any:
        kind, word, position = self._peek()
        self._next += 1
        if kind == "text":
            return re.sub(r"\\(.)", r"\1", word[1:-1], flags=re.DOTALL)
        if kind == "number" and len(word) < 400:
            return float(word) if any(char in word for char in ".eE") else int(word)
        if kind == "sign" and word in ("true", "false"):
            return word == "true"
        hint = "; null is tested by: is null" if word == "null" else ""
        raise self._problem(position, f"needs a value ('text', a number, true or false){hint}")


def _value(row: Columns, names: list[str]) -> Any:
    value: Any = row
    for name in names:
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value


def _compared(sign: str, found: Any, wanted: Any) -> bool | None:
    if found is None:
        return None
    if not _comparable(found, wanted):
        return {"==": False, "=": False, "!=": True, "<>": True}.get(sign)
    return bool(_COMPARISONS[sign](found, wanted))


def _comparable(one: Any, other: Any) -> bool:
    """Text with text, numbers with numbers, truth values with truth values."""
    if isinstance(one, bool) or isinstance(other, bool):
        return isinstance(one, bool) and isinstance(other, bool)
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str)
    return isinstance(one, int | float | Decimal)


def _is_in(found: Any, members: list[Any]) -> bool | None:
    return _any(_compared("==", found, member) for member in members)


def _any(values: Any) -> bool | None:
    result: bool | None = False
    for value in values:
        if value is True:
            return True
        if value is None:
            result = None
    return result


def _all(values: Any) -> bool | None:
    return _not(_any(_not(value) for value in values))


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value
