"""The answer of a finished output: its reasoning taken apart, and whether it satisfies what the row asked for."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from pagecli.core.outputs import RequestOutput, SequenceOutput
from pagecli.engine.generation.reasoning import ReasoningMarkers, split
from pagecli.engine.request import Request
from pagecli.errors import ErrorCode

if TYPE_CHECKING:
    from pagecli.model.tokenizer.tokenizer import Tokenizer

Allows = Callable[[str], bool]


def judged(
    output: RequestOutput, request: Request, tokenizer: "Tokenizer", markers: ReasoningMarkers | None, allows: Allows | None
) -> RequestOutput:
    """The output with `reasoning` and `text` apart, and an error on each text that `allows` does not."""
    sequences = output.sequences
    if markers is not None:
        sequences = tuple(_parted(s, request.prompt_token_ids, tokenizer, markers) for s in sequences)
    if allows is not None:
        sequences = tuple(s if allows(s.text) else _refused(s, request) for s in sequences)
    return dataclasses.replace(output, sequences=sequences)


def _parted(
    sequence: SequenceOutput, prompt_token_ids: list[int], tokenizer: "Tokenizer", markers: ReasoningMarkers
) -> SequenceOutput:
    """Line breaks around the reasoning, and before the answer, belong to neither."""
    token_ids = sequence.token_ids
    found = split(markers, prompt_token_ids, token_ids, tokenizer)
    if found is None:
        return sequence
    whole = tokenizer.decode(token_ids)
    text = sequence.text  # without an end token or a stop string, so the answer's end is that of the text
    end = found.num_reasoning
    answer = tokenizer.decode(token_ids[end:]) if found.ended else ""
    answer = answer[: len(answer) - (len(whole) - len(text))] if len(whole) >= len(text) else answer
    reasoning = tokenizer.decode(token_ids[found.num_skipped : end - found.ended])
    if not found.ended and len(whole) > len(text):  # a stop string in the reasoning
        reasoning = reasoning[: max(0, len(reasoning) - (len(whole) - len(text)))]
    return dataclasses.replace(sequence, text=answer.lstrip("\n"), reasoning=reasoning.strip("\n"), reasoning_tokens=end)


def _refused(sequence: SequenceOutput, request: Request) -> SequenceOutput:
    kind = request.params.constraint[0] if request.params.constraint else "constraint"
    cut = f", cut at {request.params.max_tokens} tokens; raise max_tokens" if sequence.finish_reason == "length" else ""
    error = f"the output does not satisfy its {kind}{cut}"
    return dataclasses.replace(sequence, error=error, error_code=ErrorCode.INVALID_OUTPUT)
