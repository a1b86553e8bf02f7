"""Rows of `pagecli embed`: the column `embedding` of a text that was embedded."""

from dataclasses import dataclass
from typing import Literal

from pagecli.core.outputs import RequestOutput
from pagecli.jobs.rows.row import InputRow, OutputRow, error_row


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """How the last layer's states become a vector, as the flags and the model say: part of the job's identity."""

    pooling: Literal["last", "mean"]
    normalize: bool = True


def embedding_rows(row: InputRow, output: RequestOutput) -> list[OutputRow]:
    """The output row of a text, or its error. Numbers have the 9 digits that float32 has at most."""
    if output.error is not None:
        return [error_row(row, output.error, output.num_prompt_tokens, output.error_code)]
    numbers = output.sequences[0].embedding or []
    values = {"embedding": [float(f"{number:.9g}") for number in numbers]}
    return [OutputRow(row, finish_reason="stop", prompt_tokens=output.num_prompt_tokens, values=values)]
