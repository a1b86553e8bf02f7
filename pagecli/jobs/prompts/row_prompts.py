"""Prompts by --template: a template's text over the columns of a row."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pagecli.errors import ErrorCode, RowError, UsageError

if TYPE_CHECKING:
    from pagecli.model.tokenizer.templates.process import TemplateProcess
    from pagecli.model.tokenizer.templates.row_template import TemplateColumns

FLAG = "--template"


def template_columns(text: str) -> "TemplateColumns":
    """The columns that the template names. Raises UsageError for one that is no template; nothing of it runs."""
    from jinja2 import TemplateSyntaxError

    from pagecli.model.tokenizer.templates.row_template import columns_of

    try:
        return columns_of(text)
    except (TemplateSyntaxError, RecursionError) as error:
        where = f"line {error.lineno}: {error.message}" if isinstance(error, TemplateSyntaxError) else "nested too deep"
        raise UsageError(
            f"{FLAG} is no template: {where}", "columns are written as {{ name }}; see jinja.palletsprojects.com"
        ) from error


class RowPrompts:
    """Renders the template in a process of its own, as chat templates are. Raises UsageError if it is none."""

    def __init__(self, text: str) -> None:
        self.columns = template_columns(text)
        self._text = text
        self._process: TemplateProcess | None = None  # made when it is first needed

    def prompt(self, columns: Mapping[str, Any]) -> str:
        """The row's prompt. Raises RowError where a column is missing or null, or the template refuses the row."""
        missing = [name for name in self.columns.needed if name not in columns]
        if missing:
            message = f"has no column {', '.join(missing)}, which {FLAG} names"
            raise RowError(message, "write {{ name | default('...') }} where it may be missing", ErrorCode.MISSING_PROMPT)
        names = list(columns) if self.columns.takes_all else [name for name in self.columns.names if name in columns]
        given = {name: columns[name] for name in names}
        from pagecli.model.tokenizer.templates.process import TemplateProcess, TemplateRefused

        if self._process is None:
            self._process = TemplateProcess("row", text=self._text)
        try:
            return self._process.render(given)
        except TemplateRefused as error:
            null = [name for name, value in given.items() if _has_null(value)]
            why, code = (f" (null: {', '.join(null)})", ErrorCode.MISSING_PROMPT) if null else ("", ErrorCode.NOT_TOKENIZABLE)
            raise RowError(f"{FLAG} refuses the row: {error}{why}", code=code) from error


def _has_null(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_null, value.values()))
    return value is None or (isinstance(value, list) and any(map(_has_null, value)))
