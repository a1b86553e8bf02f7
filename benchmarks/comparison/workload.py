"""The requests that every system gets: prompts as token ids, and how many tokens each output has."""

from dataclasses import dataclass

import numpy as np

from pagecli.profiler.workloads import drawn_lengths
from pagecli.profiler.workloads.prompt_tokens import uniform_ids

VOCAB_SIZE = 49_000  # of the smallest model's ids; the special ones are low and left out
LONG_PROMPT = 1_980
LONG_OUTPUTS = (40, 68)  # with the prompt, no request passes OPT's 2,048 positions
NUM_WARM_UP = 2


@dataclass(frozen=True, slots=True)
class Requests:
    prompts: list[list[int]]
    lengths: list[int]

    def first(self, num_rows: int | None) -> "Requests":
        return self if num_rows is None else Requests(self.prompts[:num_rows], self.lengths[:num_rows])

    @property
    def max_model_len(self) -> int:
        return max(len(prompt) + length for prompt, length in zip(self.prompts, self.lengths, strict=True))


def draw(workload: str, num_requests: int) -> Requests:
    """short: log-normal, mean prompt 60 and mean output 80. long: prompts of 1,980 tokens, outputs of 40 to 68."""
    if workload == "short":
        lengths = drawn_lengths.draw(drawn_lengths.SHORT, num_requests)
    else:
        outputs = np.random.default_rng(0).integers(LONG_OUTPUTS[0], LONG_OUTPUTS[1], num_requests, endpoint=True)
        lengths = [(LONG_PROMPT, length) for length in outputs.tolist()]
    return Requests(uniform_ids(lengths, VOCAB_SIZE), [output for _, output in lengths])


def warm_up_prompts() -> list[list[int]]:
    """Short prompts that begin like none of the workload's."""
    return uniform_ids([(24, 4)] * NUM_WARM_UP, VOCAB_SIZE, seed=2)
