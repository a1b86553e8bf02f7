"""How rows become prompts: the options that a job's rows have in common. All of them change texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pagecli.jobs.rows.prompt_length import TooLong

MESSAGES, TOKEN_IDS = "messages", "prompt_token_ids"  # columns that hold a prompt in another form than text


@dataclass(frozen=True, slots=True)
class Example:
    """One of --few-shot: the columns that its prompt is made of, as those of a row are, and the answer."""

    columns: Mapping[str, Any]
    completion: str


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """`chat` None: plain prompts go through the chat template if the model has one.

    `template_time` None: chat templates see the time at which the job was begun.
    """

    prompt_column: str = "prompt"
    system: str | None = None
    chat: bool | None = None
    too_long: TooLong = "error"
    template_time: datetime | None = None
    prefix: str = ""  # before every text that goes through no chat template
    template: str | None = None  # a Jinja template over a row's columns: its text is the prompt
    few_shot: tuple[Example, ...] = ()
    chat_template_arg: tuple[tuple[str, Any], ...] = ()  # (name, value) of what chat templates are given besides
