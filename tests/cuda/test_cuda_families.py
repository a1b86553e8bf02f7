"""Every family on the GPU's kernels: what transformers computes, or one line that says which operation is missing."""

import importlib
from pathlib import Path

import pytest
import torch
from families.checkpoints import LOGPROB_TOLERANCE, Family, difference, expected_logprobs, found_logprobs

from pagecli.devices.limits import missing_on_gpu
from pagecli.errors import ModelError
from pagecli.model.build_program import build
from pagecli.model.registry import resolve_model

pytestmark = pytest.mark.cuda
FOLDER = Path(__file__).parents[1] / "families"
NAMES = sorted(path.stem for path in FOLDER.glob("test_*.py") if "\nFAMILIES" in path.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_every_knob_computes_what_transformers_does_or_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    families: list[Family] = importlib.import_module(name).FAMILIES
    for family in families:
        for knob, changes in family.cases().items():
            directory = tmp_path / family.name / knob
            expected = expected_logprobs(family.make(directory, changes))
            source = resolve_model(str(directory))
            if missing := missing_on_gpu(build(source.config)):
                with pytest.raises(ModelError, match="GPUs have no") as caught:
                    found_logprobs(source, "cuda")
                assert missing in caught.value.message
                continue
            with torch.inference_mode():
                assert difference(found_logprobs(source, "cuda"), expected) <= LOGPROB_TOLERANCE, (family.name, knob)
