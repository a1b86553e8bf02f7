"""The tiny mixtures of experts of tests/families/test_mixture.py, with a tokenizer."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from tiny_models import TINY_VOCAB_SIZE, make_tokenizer

FOLDER = Path(__file__).parents[1] / "families"
NAMES = ("Mixtral", "Qwen2Moe", "Qwen3Moe", "Olmoe", "GraniteMoe", "GptOss")


def of_families(module: str) -> Any:
    """A module of tests/families."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        return importlib.import_module(module)


def make(name: str, directory: Path, **changes: Any) -> Any:
    """transformers' model, its config changed by `changes`, saved in `directory`."""
    families = {family.name: family for family in of_families("test_mixture").FAMILIES}
    make_tokenizer().save_pretrained(directory)
    return families[name].make(directory, {"vocab_size": TINY_VOCAB_SIZE} | changes)
