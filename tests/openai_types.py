"""Answers checked by OpenAI's own types. They are imported by the test that asks: the import takes half a second."""

from typing import Any


def valid_chat(body: dict[str, Any]) -> Any:
    from openai.types.chat import ChatCompletion

    return ChatCompletion.model_validate(body, strict=True)


def valid_completion(body: dict[str, Any]) -> Any:
    from openai.types import Completion

    return Completion.model_validate(body, strict=True)
