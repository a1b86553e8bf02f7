"""Takes secrets out of text that is kept or shown: logs, the journal's description of its job, metrics, messages.

Secrets are passwords in URLs, query parameters such as ?token=..., Authorization headers, tokens that are known by
their form (Hugging Face, AWS, GitHub, OpenAI), and the values of environment variables named like HF_TOKEN or ..._SECRET_KEY.
"""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

HIDDEN = "***"
MIN_SECRET_LENGTH = 6  # a shorter value of an environment variable would take ordinary words out of the text

_SECRET_WORD = r"(?:token|secret|passw(?:or)?d|passphrase|api[-_]?key|access[-_]?key(?:[-_]?id)?|credentials?|signature)"
_SECRET_NAME = re.compile(rf"(?:^|[_-]){_SECRET_WORD}$|^(?:authorization|awsaccesskeyid)$", re.IGNORECASE)


@lru_cache(maxsize=1)
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """(pattern, replacement); compiled at first use, which help never comes to."""
    parameter = rf"[\w.%-]*{_SECRET_WORD}|sig|awsaccesskeyid"
    assigned = rf"{_SECRET_WORD}=['\"]?|{_SECRET_WORD}['\"]\s*:\s*['\"]|(?:api[-_]?key|secret|password):\s*"
    return (
        (re.compile(r"\b([a-z][a-z0-9+.-]{0,30}://)[^\s/?#@'\"]*(?:@[^\s/?#@'\"]*)*@", re.IGNORECASE), rf"\1{HIDDEN}@"),
        (re.compile(rf"([?&;#](?:{parameter})=)[^\s&;#'\"]+", re.IGNORECASE), rf"\1{HIDDEN}"),
        (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
        (re.compile(rf"(\b[\w-]*(?:{assigned}))(?!\*)[^\s'\",;&#]{{6,}}", re.IGNORECASE), rf"\1{HIDDEN}"),
        (re.compile(r"\b(?:hf_|sk-|gh[pousr]_|github_pat_|xox[abprs]-)[A-Za-z0-9_-]{16,}"), HIDDEN),
        (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
    )


def redact(text: str) -> str:
    """`text` with `***` where a secret stood. Running it again changes nothing more."""
    for secret in _secrets_of_environment():
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _patterns():
        text = pattern.sub(replacement, text)
    return text


def redact_values(value: Any) -> Any:
    """A copy of data (mappings, lists, tuples) with every text redacted, and hidden what a name such as token holds."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: _redact_named(str(key), item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_values(item) for item in value]
    return value


def is_secret_name(name: str) -> bool:
    """Whether a variable or field of this name holds a secret; HF_TOKEN does, max_tokens does not."""
    return _SECRET_NAME.search(name) is not None


def _redact_named(name: str, value: Any) -> Any:
    if isinstance(value, str) and value and is_secret_name(name):
        return HIDDEN
    return redact_values(value)


def _secrets_of_environment() -> list[str]:
    """The longest first, so that one secret within another does not leave a piece of it."""
    found = {value for name, value in os.environ.items() if len(value) >= MIN_SECRET_LENGTH and is_secret_name(name)}
    return sorted(found, key=len, reverse=True)
