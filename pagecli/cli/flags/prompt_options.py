"""The flags that make prompts of columns: --template, --system-file, --few-shot, --chat-template-arg."""

from pathlib import Path
from typing import Annotated

from pagecli.cli.flags.engine_and_sampling import CHAT, option

Template = Annotated[
    str | None,
    option(
        "Make each prompt of the row's columns: 'Classify: {{ review }}' (Jinja, in a sandbox).",
        CHAT,
        "--template",
        metavar="TEXT",
    ),
]
TemplateFile = Annotated[Path | None, option("The same, from a file.", CHAT, "--template-file", metavar="FILE")]
SystemFile = Annotated[Path | None, option("--system from a file.", CHAT, "--system-file", metavar="FILE")]
FewShot = Annotated[
    str | None,
    option(
        "Examples before every prompt: rows with the columns of a prompt, and a column completion.",
        CHAT,
        "--few-shot",
        metavar="FILE",
    ),
]
ChatTemplateArg = Annotated[
    list[str] | None,
    option(
        "Give the chat template a variable, as enable_thinking=false; may be given several times. A column "
        "chat_template_kwargs overrides them for its row.",
        CHAT,
        "--chat-template-arg",
        metavar="NAME=VALUE",
        allow_from_autoenv=False,
    ),
]
