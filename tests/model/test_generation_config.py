"""generation_config.json's sampling defaults: what is read, what a job takes of it, and what flags and columns make of that."""

import json
import shutil

from hypothesis import given
from hypothesis import strategies as st

from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import ModelError
from pagecli.jobs.rows.row_parameters import row_sampling_params
from pagecli.model.readers.generation_config import read_generation_config
from pagecli.model.registry import resolve_model

QWEN = {"do_sample": True, "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "eos_token_id": [7, 9]}


def params(config: dict) -> dict:
    return dict(read_generation_config(config, "g.json").params)


def test_what_samples_is_read_and_temperature_only_where_the_file_samples():
    assert params(QWEN) == {"repetition_penalty": 1.05, "temperature": 0.7, "top_k": 20, "top_p": 0.8}
    assert params(QWEN | {"do_sample": False}) == {"repetition_penalty": 1.05, "top_k": 20, "top_p": 0.8}
    assert params({"do_sample": True}) == {"temperature": 1.0}
    assert params({"no_repeat_ngram_size": 3, "temperature": 0.6}) == {"no_repeat_ngram_size": 3}
    assert params({"max_length": 20, "eos_token_id": 3, "top_p": None, "transformers_version": "5"}) == {}


def test_what_is_not_computed_is_named_unless_it_changes_nothing():
    asked = {"typical_p": 0.9, "suppress_tokens": [3], "num_beams": 4}
    assert set(read_generation_config(asked, "g.json").not_computed) == set(asked)
    neutral = {"typical_p": 1.0, "suppress_tokens": [], "num_beams": 1, "bad_words_ids": None, "min_length": 0}
    assert read_generation_config(neutral, "g.json").not_computed == ()


values = st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.booleans()


@given(st.dictionaries(st.sampled_from(list(QWEN)), values))
def test_no_file_brings_the_reader_down(config):
    try:
        found = params(config)
    except ModelError:
        return
    assert all(isinstance(value, int | float) for value in found.values())


def test_a_directory_brings_its_defaults(tiny_model, tmp_path):
    directory = shutil.copytree(tiny_model("llama"), tmp_path / "m")
    (directory / "generation_config.json").write_text(json.dumps(QWEN))
    source = resolve_model(str(directory))
    assert dict(source.generation.params)["repetition_penalty"] == 1.05
    assert source.config.eos_token_ids == (7, 9)


def test_a_row_of_beams_does_not_sample_at_the_models_temperature():
    of_model = SamplingParams(temperature=0.7)
    row = row_sampling_params(of_model, {"beam_width": 3}, "prompt", ("temperature",))
    assert (row.beam_width, row.temperature) == (3, 0.0)
    assert row_sampling_params(of_model, {"max_tokens": 3}, "prompt", ("temperature",)).temperature == 0.7
