"""From an input row to a request: its prompt as token ids, its sampling parameters and the key that seeds it."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import ErrorCode, PagecliError, RowError, first_line
from pagecli.jobs.prompts.json_columns import json_column
from pagecli.jobs.prompts.prompt_options import MESSAGES, TOKEN_IDS, PromptOptions
from pagecli.jobs.prompts.template_variables import has_variables, row_variables
from pagecli.jobs.rows.chat_messages import checked_message
from pagecli.jobs.rows.prompt_length import PromptLength
from pagecli.jobs.rows.row import InputRow, OutputRow, json_default
from pagecli.jobs.rows.row_parameters import OF_ROW, row_sampling_params
from pagecli.jobs.tools.given import COLUMN as TOOLS


class Tokenizer(Protocol):
    """The tokenizer's methods that jobs use."""

    @property
    def has_chat_template(self) -> bool: ...

    @property
    def tool_template(self) -> str | None: ...

    def encode(self, text: str) -> list[int]: ...

    def apply_chat_template(self, messages: list[dict[str, Any]], variables: Mapping[str, Any] | None = None) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """A row ready for the engine, or to be written: an error row with `error` set, one `finished` in an earlier run."""

    row: InputRow
    prompt_token_ids: list[int]
    params: SamplingParams
    row_key: int
    error: str | None = None
    error_code: ErrorCode | None = None
    finished: list[OutputRow] | None = None
    choices: tuple[list[int], ...] = ()  # continuations to score, instead of generating one


@dataclass(eq=False)
class RowPreparer:
    """Turns input rows into requests; a row that cannot be one is returned with `error` set; nothing is raised.

    `length` None: how long prompts are is left to the engine.
    """

    tokenizer: Tokenizer
    vocab_size: int
    options: PromptOptions
    params: SamplingParams
    length: PromptLength | None = None
    of_model: Collection[str] = ()  # names of `params` that are the model's own defaults
    of_row: frozenset[str] = OF_ROW  # those that a row may bring

    def __post_init__(self) -> None:
        options = self.options
        self._chat = self.tokenizer.has_chat_template if options.chat is None else options.chat
        self._prompts = self._few_shot = None
        if options.template is not None:
            from pagecli.jobs.prompts.row_prompts import RowPrompts

            self._prompts = RowPrompts(options.template)
        if options.few_shot:
            from pagecli.jobs.prompts.few_shot import FewShot

            self._few_shot = FewShot(options.few_shot, self._example_prompt)

    def prepare(self, row: InputRow) -> PreparedRow:
        error, code, key = row.error, row.error_code, row.number
        if error is None:
            prompt_column = self.options.prompt_column if row.batch_url is None else "prompt"
            chat = self._chat if row.batch_url is None else False  # OpenAI's completions know no template
            try:
                key, params = row_key(row), self.params
                if not self.of_row.isdisjoint(row.columns):
                    params = row_sampling_params(params, row.columns, prompt_column, self.of_model, self.of_row)
                if params.constraint is not None:
                    _check_constraint(params)
                token_ids = self._prompt_token_ids(row.columns, prompt_column, chat, params.max_tokens)
                return PreparedRow(row, token_ids, params, key)
            except PagecliError as problem:
                error, code = problem.one_line, code_of(problem)
            except Exception as problem:  # an exception of a template or tokenizer must not end the job
                error, code = f"cannot be tokenized: {type(problem).__name__}: {problem}", ErrorCode.NOT_TOKENIZABLE
        return PreparedRow(row, [], self.params, key, error, code)

    def _prompt_token_ids(self, columns: Mapping[str, Any], prompt_column: str, chat: bool, max_tokens: int) -> list[int]:
        name, value = self.given_prompt(columns, prompt_column)
        if name == "messages":
            token_ids = self._chat_token_ids(_checked_messages(json_column(name, value)), columns, max_tokens)
        elif name == "prompt_token_ids":
            token_ids = self._cut(_checked_token_ids(json_column(name, value)), max_tokens)
        elif not isinstance(value, str):
            raise RowError(f"column {name} is {type(value).__name__}, not text", code=ErrorCode.INVALID_TYPE)
        elif chat:
            token_ids = self._chat_token_ids([{"role": "user", "content": value}], columns, max_tokens)
        else:
            if self._few_shot is not None:
                value = self._few_shot.before(value)
            value = self.options.prefix + value
            length = self.length
            if length is not None and len(value) >= length.max_model_len:  # shorter texts are quickly tokenized
                value = length.checked_text(value)
            token_ids = self._cut(self.tokenizer.encode(value), max_tokens)
        if not token_ids:
            what = f"column {name}" if self._prompts is None else f"the text of {name}"
            raise RowError(f"{what} is empty: no token to start from", code=ErrorCode.EMPTY_PROMPT)
        if max(token_ids) >= self.vocab_size:
            message = f"token id {max(token_ids)} is outside the model's vocabulary of {self.vocab_size}"
            raise RowError(message, code=ErrorCode.INVALID_TYPE)
        return token_ids

    def _cut(self, token_ids: list[int], max_tokens: int) -> list[int]:
        length = self.length
        return token_ids if length is None or len(token_ids) < length.max_model_len else length.cut(token_ids, max_tokens)

    def _example_prompt(self, columns: Mapping[str, Any]) -> str:
        """The prompt of an example of --few-shot. Raises RowError."""
        if self._prompts is not None:
            return self._prompts.prompt(columns)
        prompt = columns[self.options.prompt_column]
        if not isinstance(prompt, str):
            raise RowError(f"column {self.options.prompt_column} is no text", code=ErrorCode.INVALID_TYPE)
        return prompt

    def _chat_token_ids(self, messages: list[dict[str, Any]], columns: Mapping[str, Any], max_tokens: int) -> list[int]:
        messages, template = self._with_system(messages), self.tokenizer.apply_chat_template
        if self._few_shot is not None:
            messages = self._few_shot.in_chat(messages)
        if has_variables(self.options.chat_template_arg, columns):
            variables = row_variables(self.options.chat_template_arg, columns)
            if variables.get(TOOLS) and TOOLS not in (self.tokenizer.tool_template or ""):
                raise RowError("the model's chat template takes no tools", f"leave {TOOLS} out", ErrorCode.UNSUPPORTED)
            template = partial(template, variables=variables)
        return template(messages) if self.length is None else self.length.cut_messages(messages, max_tokens, template)

    def given_prompt(self, columns: Mapping[str, Any], prompt_column: str) -> tuple[str, Any]:
        """The one column that holds the prompt, and its value; of a template its flag, and its text. Raises RowError."""
        if self._prompts is not None:
            return "--template", self._prompts.prompt(columns)
        names = prompt_columns(prompt_column)
        given = [(name, value) for name in names if name in columns and (value := columns[name]) is not None]
        if len(given) > 1:
            names_given = " and ".join(name for name, _ in given)
            raise RowError(f"has {names_given}; a row needs exactly one of them", code=ErrorCode.MISSING_PROMPT)
        if not given:
            hint = "name the column of the prompts with --prompt-column"
            raise RowError(f"has no {', '.join(names)}", hint, ErrorCode.MISSING_PROMPT)
        return given[0]

    def _with_system(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """--system in front, unless the row brings its own system message."""
        if self.options.system is None or messages[0]["role"] == "system":
            return messages
        return [{"role": "system", "content": self.options.system}, *messages]


def prompt_columns(prompt_column: str) -> tuple[str, ...]:
    """The columns one of which a row needs where no template makes its prompt; `prompt_column`: the one that holds text."""
    return tuple(dict.fromkeys((prompt_column, MESSAGES, TOKEN_IDS)))


def row_key(row: InputRow) -> int:
    """The seed of the row's sampling: 64 bits of its id's hash if it has an id, else its index.

    So a row keeps its text when the file is reordered, cut or split; rows with the same id draw the same numbers.
    Raises RowError for an id that JSON cannot hold, which rows of a program may have.
    """
    value = row.columns.get("id")
    if value is None:
        return row.number
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=json_default)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"column id is no JSON value: {first_line(error)}"
        raise RowError(message, "make it a number or a text", ErrorCode.INVALID_TYPE) from error
    return int.from_bytes(hashlib.blake2b(text.encode("ascii"), digest_size=8).digest(), "little")


def _check_constraint(params: SamplingParams) -> None:
    from pagecli.engine.constraints.compiler import check

    check(params)


def code_of(problem: PagecliError) -> ErrorCode:
    """The kind of a row's problem; what says none is a parameter out of range."""
    return problem.code if isinstance(problem, RowError) else ErrorCode.INVALID_PARAMETER


def _checked_messages(value: Any) -> list[dict[str, Any]]:
    """Messages as the template wants them; fields that are null, as Parquet fills them in, are left out."""
    if not isinstance(value, list) or not value:
        raise RowError("column messages is not a list of at least one message", code=ErrorCode.INVALID_TYPE)
    messages = []
    for number, message in enumerate(value):
        message = checked_message(f"column messages: message {number}", message)
        messages.append({name: item for name, item in message.items() if item is not None})
        if "content" not in messages[-1] and len(messages[-1]) == 1:
            raise RowError(f"column messages: message {number} has no content", code=ErrorCode.INVALID_TYPE)
    return messages


def _checked_token_ids(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(isinstance(item, int) and not isinstance(item, bool) for item in value):
        raise RowError("column prompt_token_ids is not a list of integers", code=ErrorCode.INVALID_TYPE)
    if any(item < 0 for item in value):
        raise RowError("column prompt_token_ids has a negative token id", code=ErrorCode.INVALID_TYPE)
    return value
