"""transformers' generate: static batches, left-padded, each to its longest output; a batch of one is one request at a time."""

import torch
from timed_run import Loaded, main
from transformers import AutoModelForCausalLM, GenerationConfig

PAD = 0


def load(task: dict) -> Loaded:
    torch.set_num_threads(task["threads"])
    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=getattr(torch, task["dtype"])).eval()
    batch_size = task["batch_size"]

    @torch.inference_mode()
    def generate_batch(prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        # No end token at all: every output has its length, and the end token may stand in it as any other.
        model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=num_tokens, pad_token_id=PAD)
        return model.generate(input_ids=ids, attention_mask=mask)[:, width:].tolist()

    def generate(prompts: list[list[int]], lengths: list[int]) -> list[list[int]]:
        outputs: list[list[int]] = []
        for first in range(0, len(prompts), batch_size):
            wanted = lengths[first : first + batch_size]
            batch = generate_batch(prompts[first : first + batch_size], max(wanted))
            outputs += [output[:length] for output, length in zip(batch, wanted, strict=True)]
        return outputs

    return Loaded(generate, str(model.dtype).removeprefix("torch."))


main(load, "transformers", "torch")
