"""Tiny random checkpoints of a family, knob by knob: what transformers computes of them, and what the devices here do."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from model.paged_steps import PagedSteps

from pagecli.devices.base import KVCache, load_model
from pagecli.model.build_program import build
from pagecli.model.registry import resolve_model
from pagecli.model.source import ModelSource
from pagecli.model.stored_tensors import stored_tensors

VOCAB_SIZE = 160
SHARED = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
PROMPTS = {i: random.Random(i).choices(range(VOCAB_SIZE), k=length) for i, length in enumerate((1, 9, 41))}
LOGPROB_TOLERANCE = 2e-5


@dataclass(frozen=True)
class Family:
    """A transformers class and the sizes of its tiny models; knobs: changes of its config that must each change the text."""

    name: str  # of the class, without Config and ForCausalLM
    sizes: dict[str, Any] = field(default_factory=dict)  # beside SHARED; a value of None leaves a key of SHARED out
    knobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    model_class: str = ""
    config_class: str = ""

    def make(self, directory: Path, changes: dict[str, Any]) -> Any:
        """A model with random weights, saved in `directory`."""
        import transformers as tf

        sizes = {name: value for name, value in (SHARED | self.sizes).items() if name == "pad_token_id" or value is not None}
        config = getattr(tf, self.config_class or f"{self.name}Config")(**(sizes | changes))
        torch.manual_seed(7)
        model = getattr(tf, self.model_class or f"{self.name}ForCausalLM")(config).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                _fill(name, parameter, generator)
        model.save_pretrained(directory)
        return model

    def cases(self) -> dict[str, dict[str, Any]]:
        return {"plain": {}, **self.knobs}


def _fill(name: str, parameter: torch.Tensor, generator: torch.Generator) -> None:
    """Numbers that keep activations near 1 and that leave no weight without effect."""
    if parameter.dim() == 1 or "sinks" in name:
        around = 1.0 if name.endswith("weight") and bool((parameter == 1).all()) else 0.0
        parameter.normal_(around, 0.3, generator=generator)
    else:
        parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)


def expected_logprobs(model: Any) -> dict[int, torch.Tensor]:
    """transformers' own log probabilities, in float32 and by its eager attention."""
    model.config._attn_implementation = "eager"
    with torch.inference_mode():
        return {i: model(torch.tensor([tokens])).logits[0].log_softmax(-1) for i, tokens in PROMPTS.items()}


def found_logprobs(source: ModelSource, device: str, dtype: str = "float32", adapter=None) -> dict[int, torch.Tensor]:
    """Of the same prompts, in steps that mix prompts, chunks and single tokens. `adapter`: index of their LoRA adapter."""
    model = load_model(source, dtype, 64, device)
    steps, found, done = PagedSteps(model, adapter=adapter), {i: [] for i in PROMPTS}, dict.fromkeys(PROMPTS, 0)
    if device != "cpu":  # their keys lie as their values do
        steps.kv = KVCache([values.clone() for values in steps.kv.values], steps.kv.values)
    for size in (1, 8, 1, 31):
        chunks = {i: tokens[done[i] : done[i] + size] for i, tokens in PROMPTS.items() if done[i] < len(tokens)}
        done = {i: count + len(chunks.get(i, [])) for i, count in done.items()}
        for i, logits in steps.step(chunks).items():
            found[i].append(logits.float().cpu())
    return {i: torch.cat(logits).log_softmax(-1) for i, logits in found.items()}


def difference(found: dict[int, torch.Tensor], expected: dict[int, torch.Tensor]) -> float:
    return max(float((found[i] - expected[i]).abs().max()) for i in expected)


def check_family(family: Family, directory: Path, devices: tuple[str, ...] = ("reference", "cpu")) -> None:
    """Every knob changes what transformers computes, and every device computes what transformers does, ids too."""
    plain: dict[int, torch.Tensor] | None = None
    for name, changes in family.cases().items():
        expected = expected_logprobs(family.make(directory / name, changes))
        if plain is None:
            plain = expected
        else:
            assert difference(expected, plain) > 100 * LOGPROB_TOLERANCE, f"{name}: changes nothing, so the test is blind"
        source = resolve_model(str(directory / name))
        stored = stored_tensors(str(directory / name))
        assert stored is not None
        assert stored.difference(build(source.config)) == "", name
        for device in devices:
            found = found_logprobs(source, device)
            assert difference(found, expected) <= LOGPROB_TOLERANCE, (name, device)
            assert all(torch.equal(found[i].argmax(-1), expected[i].argmax(-1)) for i in PROMPTS), (name, device)
