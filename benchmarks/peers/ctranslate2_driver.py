"""CTranslate2's Generator: groups sorted by output length, a callback ends each request at its own."""

import json
from pathlib import Path

import ctranslate2
from timed_run import Loaded, main

GROUP = 32


def load(task: dict) -> Loaded:
    generator = ctranslate2.Generator(
        task["model"], device="cpu", compute_type=task["dtype"], inter_threads=1, intra_threads=task["threads"]
    )
    tokens = json.loads((Path(task["model"]) / "vocabulary.json").read_text())
    id_of = {token: index for index, token in enumerate(tokens)}
    if len(id_of) != len(tokens):
        raise ValueError("its vocabulary has a token twice")

    def generate_group(prompts: list[list[int]], lengths: list[int]) -> list[list[int]]:
        num_done = [0] * len(prompts)

        def ends_here(step) -> bool:
            num_done[step.batch_id] += 1
            return num_done[step.batch_id] >= lengths[step.batch_id]

        results = generator.generate_batch(
            [[tokens[i] for i in prompt] for prompt in prompts],
            max_batch_size=0,
            beam_size=1,
            sampling_topk=1,
            max_length=max(lengths),
            min_length=max(lengths),  # the end token is never chosen
            end_token=tokens[-1],
            include_prompt_in_result=False,
            callback=ends_here,
        )
        return [result.sequences_ids[0] for result in results]

    def generate(prompts: list[list[int]], lengths: list[int]) -> list[list[int]]:
        order = sorted(range(len(prompts)), key=lambda row: -lengths[row])
        outputs: list[list[int]] = [[] for _ in prompts]
        for first in range(0, len(order), GROUP):
            rows = order[first : first + GROUP]
            group = generate_group([prompts[row] for row in rows], [lengths[row] for row in rows])
            for row, output in zip(rows, group, strict=True):
                outputs[row] = output[: lengths[row]]
        return outputs

    return Loaded(generate, generator.compute_type)


main(load, "ctranslate2")
