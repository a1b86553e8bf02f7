"""Random LoRA adapters of tiny models, saved by PEFT."""

from pathlib import Path
from typing import Any

import torch


def save_adapter(model: Path, directory: Path, seed: int = 1, **settings: Any) -> Path:
    """An adapter of the model in `model`, its matrices random, in `directory`; `settings`: of peft.LoraConfig."""
    import peft
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    adapted.save_pretrained(directory)
    return directory


def merged_model(model: Path, adapter: Path) -> Any:
    """The transformers model that PEFT makes of both, float32."""
    import peft
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    return peft.PeftModel.from_pretrained(base, adapter).merge_and_unload().eval()
