"""A model's chat template, rendered as transformers renders it, in a sandbox that also ends.

A template is a program out of the model's repository. Jinja's immutable sandbox keeps it from attributes that lead out and
from changing what it is given; here its loops and calls are counted and timed too, since loops within loops, and macros that
call themselves twice, need no attribute to run for ever; what would fill memory is refused (bounds.py). A model's template is
rendered in a process of its own (process.py).
What templates may expect (functions, filters, the generation tag): huggingface.co/docs/transformers/chat_templating.
"""

import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from pagecli.model.tokenizer.templates import bounds, limits

_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """A compiled template. One thread renders at a time. Raises jinja2's TemplateError if it cannot be compiled.

    `now` is the time it sees in every rendering: prompts of a job must not depend on when a row is reached.
    """

    def __init__(self, text: str, special_tokens: Mapping[str, Any], now: datetime | None = None) -> None:
        self._environment = CountingEnvironment(now or datetime.now())
        self._template = self._environment.from_string(text)
        self._special_tokens = dict(special_tokens)

    def render(self, messages: list[dict[str, Any]], variables: Mapping[str, Any] | None = None) -> str:
        """The conversation as text, ready for the assistant's answer. Raises whatever the template raises.

        `variables`: what else the template is given, as transformers' `apply_chat_template(**kwargs)`.
        """
        self._environment.start()
        messages = [_with_reasoning({k: v for k, v in message.items() if v is not None}) for message in messages]
        given = {**self._special_tokens, "tools": None, "documents": None, "add_generation_prompt": True, **(variables or {})}
        return self._template.render(**given | {"messages": messages})


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Templates read a message's reasoning under one of two names."""
    reasoning = next((message[name] for name in _REASONING_FIELDS if name in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


class _GenerationTag(Extension):
    """{% generation %}...{% endgeneration %} marks the assistant's words for training; here it is what it contains."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 has it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class CountingEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox. `now` None: templates have no time."""

    intercepted_binops = bounds.OPERATORS

    def __init__(self, now: datetime | None) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
        del self.globals["lipsum"]
        self.globals.update(raise_exception=_raise_exception, namespace=_namespace)
        if now is not None:
            self.globals["strftime_now"] = now.strftime
        self.filters.update(tojson=_tojson, random=self._random_item)
        self.filters = {name: bounds.checked_filter(name, function) for name, function in self.filters.items()}
        self.filters.update(pagecli_counted=self._counted, pagecli_text=bounds.check_text)
        self.start()

    def start(self) -> None:
        """Before each rendering."""
        self._steps = 0
        self._deadline = time.thread_time() + limits.MAX_SECONDS
        self._chance = random.Random(0)  # equal conversations get equal prompts

    def _step(self) -> None:
        self._steps += 1
        if self._steps > limits.MAX_STEPS:
            raise SecurityError(f"it ran more than {limits.MAX_STEPS:,} steps without an end")
        if time.thread_time() > self._deadline:
            raise SecurityError(f"it ran more than {limits.MAX_SECONDS:g} seconds without an end")

    def _random_item(self, items: Sequence[Any]) -> Any:
        """Jinja's filter `random`, with draws that each rendering begins anew."""
        return self._chance.choice(items) if items else self.undefined("no random item, sequence was empty")

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._step()
            yield item

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """What every loop runs over goes through the counting filter, and what ~ makes through one that measures it."""
        tree = super()._parse(source, name, filename)
        for reference in tree.find_all(nodes.NSRef):
            _check_name(reference.attr)
        for loop in tree.find_all(nodes.For):
            loop.iter = self._filtered(loop.iter, "pagecli_counted")
        for node in list(tree.find_all((nodes.Expr, nodes.Stmt, nodes.Keyword, nodes.Pair))):
            for field, value in node.iter_fields():
                if isinstance(value, nodes.Concat):
                    setattr(node, field, self._filtered(value, "pagecli_text"))
                elif isinstance(value, list):
                    value[:] = [self._filtered(v, "pagecli_text") if isinstance(v, nodes.Concat) else v for v in value]
        return tree

    def _filtered(self, value: nodes.Node, name: str) -> nodes.Filter:
        return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno, environment=self)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self._step()
        if isinstance(__obj, LoopContext) and args:  # a recursive loop goes down a level
            args = (__self._counted(args[0]), *args[1:])
        method = getattr(__obj, "__wrapped__", __obj)  # str.format comes wrapped
        bounds.check_call(getattr(method, "__name__", ""), getattr(method, "__self__", None), args, kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        bounds.check_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _namespace(*args: Any, **kwargs: Any) -> Namespace:
    """Jinja's namespace(), whose attributes cannot take the names of Python's own."""
    values = dict(*args, **kwargs)
    for name in values:
        _check_name(name)
    return Namespace(values)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace cannot have the attribute {name!r}")


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Unlike jinja2's own, leaves <, > and & alone."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
