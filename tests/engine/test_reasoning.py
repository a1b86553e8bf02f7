"""Reasoning and answer apart: by the template's markers, whether the prompt or the model opens them; and the budget."""

import json
import shutil

import pytest

from pagecli.core.engine_config import EngineConfig
from pagecli.core.outputs import RequestOutput, SequenceOutput
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.engine import Engine
from pagecli.engine.generation.answers import judged
from pagecli.engine.generation.reasoning import KNOWN_MARKERS, ReasoningMarkers, find_markers
from pagecli.engine.request import Request
from pagecli.errors import ErrorCode, ModelError


@pytest.fixture(scope="module")
def path(tiny_model, tmp_path_factory):
    """A tiny model whose vocabulary has the markers, and whose template strips the reasoning of earlier turns."""
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("thinking") / "llama"
    shutil.copytree(tiny_model("llama"), directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["<think>", "</think>", "<note>", "</note>"])
    tokenizer.chat_template = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    tokenizer.save_pretrained(directory)
    return directory


def make_engine(path, **config):
    return Engine(EngineConfig(str(path), dtype="float32", kv_memory_bytes=8 << 20, threads=1, **config))


@pytest.fixture(scope="module")
def engine(path):
    return make_engine(path)


def run(engine, prompt, **params):
    engine.add_request(0, engine.tokenizer.encode(prompt), SamplingParams(**params))
    outputs = []
    while engine.has_unfinished():
        outputs += engine.step()
    return outputs[0].sequences


def parted(engine, prompt, output, **changes):
    """What becomes of this output of a model, given as text."""
    tokenizer = engine.tokenizer
    token_ids = tokenizer.encode(output)
    sequence = SequenceOutput(0, token_ids, tokenizer.decode(token_ids), "stop", **changes)
    request = Request(0, tokenizer.encode(prompt), SamplingParams(), 0)
    markers = find_markers(tokenizer, "auto")
    return judged(RequestOutput(0, 1, (sequence,)), request, tokenizer, markers, None).sequences[0]


def test_markers_are_found_by_the_template_or_by_name(engine, tiny_model):
    tokenizer = engine.tokenizer
    assert find_markers(tokenizer, "auto") == ReasoningMarkers(tokenizer.token_id("<think>"), tokenizer.token_id("</think>"))
    assert find_markers(tokenizer, "note") == find_markers(tokenizer, "<note>")
    assert find_markers(tokenizer, "note").start_id == tokenizer.token_id("<note>")
    assert find_markers(tokenizer, "none") is None
    assert find_markers(make_engine(tiny_model("llama")).tokenizer, "auto") is None
    with pytest.raises(ModelError, match=r"--reasoning \[X\]: \[X\] and \[/X\] are not tokens"):
        find_markers(tokenizer, "[X]")


@pytest.mark.parametrize(
    ("prompt", "output", "reasoning", "text"),
    [
        ("2+2?", "<think>\nthe sum\n</think>\n\nis 4", "the sum", "is 4"),
        ("2+2?<think>\n", "the sum\n</think>\n\nis 4", "the sum", "is 4"),
        ("2+2?<think>\n", "the sum", "the sum", ""),  # cut while it thinks
        ("2+2?<think>\n\n</think>\n\n", "is 4", None, "is 4"),  # switched off by the template
        ("2+2?", "is 4", None, "is 4"),
        ("what is <think> for", "it is a marker", None, "it is a marker"),
        ("2+2?", "is </think> 4", None, "is </think> 4"),
        ("2+2?", "\n<think></think>4", "", "4"),
    ],
)
def test_an_output_is_parted_at_its_markers(engine, prompt, output, reasoning, text):
    found = parted(engine, prompt, output)
    assert (found.reasoning, found.text) == (reasoning, text)
    before = output.split("</think>")[0] + "</think>" if "</think>" in output else output
    expected = 0 if reasoning is None else len(engine.tokenizer.encode(before))
    assert found.reasoning_tokens == expected


def test_a_budget_ends_the_reasoning_and_only_that(engine):
    end = engine.tokenizer.token_id("</think>")
    ((free,), *_) = [run(engine, "why?<think>", max_tokens=30, ignore_eos=True)]
    assert end not in free.token_ids[:12]
    (cut,) = run(engine, "why?<think>", max_tokens=30, ignore_eos=True, thinking_budget=5)
    assert cut.token_ids[:5] == free.token_ids[:5]
    assert cut.token_ids[5] == end
    assert cut.reasoning_tokens == 6
    assert len(cut.token_ids) == 30
    (none,) = run(engine, "why?<think>", max_tokens=8, ignore_eos=True, thinking_budget=0)
    assert none.token_ids[0] == end
    (silent,) = run(engine, "why?", max_tokens=8, ignore_eos=True, thinking_budget=0)
    assert (silent.reasoning, end in silent.token_ids) == (None, False)


@pytest.mark.parametrize("way", [{}, {"logprobs": 1}, {"temperature": 1.0, "n": 3}, {"beam_width": 2}])
def test_the_form_is_that_of_the_answer(engine, way):
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"], "additionalProperties": False}
    params = {"json_schema": json.dumps(schema), "thinking_budget": 6, "max_tokens": 60, **way}
    for sequence in run(engine, "why?<think>", **params):
        assert (sequence.error, sequence.reasoning_tokens) == (None, 7)
        assert json.loads(sequence.text)["n"] in (1, 2, 3)
        assert sequence.reasoning is not None
    for sequence in run(engine, "why?", **params):  # the model may think first, or answer at once
        assert sequence.error is None
        assert json.loads(sequence.text)["n"] in (1, 2, 3)


def test_an_output_that_never_stops_thinking_has_no_answer(engine):
    (sequence,) = run(engine, "why?<think>", max_tokens=6, choice=("yes", "no"))
    assert (sequence.text, sequence.error_code) == ("", ErrorCode.INVALID_OUTPUT)
    assert sequence.reasoning_tokens == len(sequence.token_ids)


def test_no_reasoning_is_parted_where_none_is_asked_for(path):
    (sequence,) = run(make_engine(path, reasoning="none"), "why?<think>", max_tokens=6)
    assert (sequence.reasoning, sequence.reasoning_tokens) == (None, 0)
    assert sequence.text


def test_every_known_marker_says_think():
    """By which the engine knows whether to look for markers in a chat template at all."""
    assert all("think" in marker.lower() for pair in KNOWN_MARKERS for marker in pair)
