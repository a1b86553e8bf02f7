"""Constrained output: whatever the model says, a row's text satisfies what the row asks for, or says that it was cut."""

import json
import re

import pytest

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.engine import Engine
from pagecli.errors import ErrorCode, RowError

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
LONG_NAME = {"type": "object", "properties": {"a_long_name_of_a_field": {"type": "boolean"}}}
LONG_NAME["required"] = list(LONG_NAME["properties"])
GRAMMAR = 'start: "(" (start | NUMBER) ")"\nNUMBER: /[0-9]{1,3}/'


def make_engine(path, **config):
    return Engine(EngineConfig(str(path), dtype="float32", kv_memory_bytes=8 << 20, threads=1, max_num_seqs=64, **config))


@pytest.fixture(scope="module")
def engine(tiny_model):
    return make_engine(tiny_model("llama"))


def run(engine, *rows):
    """The sequences of each row: parameters, or (prompt, parameters)."""
    for i, row in enumerate(rows):
        engine.add_request(i, engine.tokenizer.encode(f"row {i}"), SamplingParams(**{"max_tokens": 200, **row}))
    done = {}
    while engine.has_unfinished():
        done |= {output.request_id: output.sequences for output in engine.step()}
    return [done[i] for i in range(len(rows))]


WAYS = {
    "greedy": {},
    "sampled": {"temperature": 1.3, "seed": 5},
    "several": {"temperature": 1.0, "n": 3},
    "best": {"temperature": 1.0, "best_of": 3, "n": 2},
    "with log probabilities": {"logprobs": 2, "temperature": 1.0},
    "penalties": {"repetition_penalty": 1.3, "temperature": 0.8},
    "beams": {"beam_width": 3, "n": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_text_is_allowed_however_tokens_are_chosen(engine, way):
    schema, choice, regex, grammar = run(
        engine,
        {"json_schema": json.dumps(SCHEMA), **WAYS[way]},
        {"choice": ("yes", "no", "not sure"), **WAYS[way]},
        {"regex": r"[a-c]{2,4}-\d{3}", **WAYS[way]},
        {"grammar": GRAMMAR, **WAYS[way], "max_tokens": 24},
    )
    for sequence in schema:
        value = json.loads(sequence.text)
        assert list(value) == ["name", "age", "tags"]
        assert 0 <= value["age"] <= 120
        assert value["tags"] in (["red"], ["blue"], ["red", "red"], ["red", "blue"], ["blue", "red"], ["blue", "blue"])
    assert all(sequence.text in ("yes", "no", "not sure") for sequence in choice)
    assert all(re.fullmatch(r"[a-c]{2,4}-\d{3}", sequence.text) for sequence in regex)
    for sequence in grammar:
        good = re.fullmatch(r"(\(+)[0-9]{1,3}(\)+)", sequence.text)
        assert (good is not None and len(good[1]) == len(good[2])) == (sequence.error is None)
    assert all(sequence.error is None for sequences in (schema, choice, regex) for sequence in sequences)


def test_forced_tokens_are_a_chunk_and_change_no_text(engine):
    """Where log probabilities are wanted they come one by one: the same tokens, in more steps."""
    params = {"json_schema": json.dumps(LONG_NAME)}
    before = engine.stats()["num_steps"]
    (together,), *_ = run(engine, params)
    between = engine.stats()["num_steps"]
    (apart,), *_ = run(engine, {**params, "logprobs": 0})
    after = engine.stats()["num_steps"]
    assert together.token_ids == apart.token_ids
    assert together.text in ('{"a_long_name_of_a_field": true}', '{"a_long_name_of_a_field": false}')
    assert len(apart.logprobs) == len(apart.token_ids)
    assert between - before < (after - between) / 2
    assert after - between == len(apart.token_ids)


def test_a_choice_whose_every_token_is_forced_takes_one_step(engine):
    before = engine.stats()["num_steps"]
    ((sequence,),) = run(engine, {"choice": ("The quick brown fox",)})
    assert (sequence.text, sequence.finish_reason) == ("The quick brown fox", "stop")
    assert engine.stats()["num_steps"] == before + 1


def test_an_output_that_is_cut_says_so_and_keeps_its_text(engine):
    ((cut,), (whole,)) = run(engine, {"json_schema": json.dumps(SCHEMA), "max_tokens": 9}, {"choice": ("no",), "max_tokens": 9})
    assert cut.error == "the output does not satisfy its json_schema, cut at 9 tokens; raise max_tokens"
    assert cut.error_code is ErrorCode.INVALID_OUTPUT
    assert cut.finish_reason == "length"
    assert cut.text.startswith('{"name')
    assert (whole.text, whole.error) == ("no", None)


def test_an_output_that_is_whole_with_its_last_token_ends_by_itself(engine):
    ((sequence,),) = run(engine, {"regex": "[ab]{5}", "max_tokens": 5})
    assert (sequence.finish_reason, sequence.error, len(sequence.text)) == ("stop", None, 5)


def test_a_stop_string_that_leaves_a_text_unfinished_is_an_error(engine):
    ((sequence,),) = run(engine, {"json_schema": json.dumps(SCHEMA), "stop": ('"age"',)})
    assert (sequence.finish_reason, sequence.error_code) == ("stop", ErrorCode.INVALID_OUTPUT)
    assert sequence.text.startswith('{"name": "')


def test_min_tokens_keep_a_text_from_ending_where_it_may_go_on(engine):
    ((sequence,),) = run(engine, {"regex": "a+", "min_tokens": 8, "max_tokens": 8})
    assert sequence.text == "a" * len(sequence.text)
    assert len(sequence.token_ids) == 8


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"json_schema": '{"type": "nonsense"}'}, r"json_schema .* cannot be compiled"),
        ({"json_schema": '{"$ref": "https://example.com/other.json"}'}, r"json_schema .* cannot be compiled"),
        ({"regex": "(unclosed"}, r"regex '\(unclosed' cannot be compiled"),
        ({"regex": "(?=ahead)x"}, r"regex .* cannot be compiled"),
        ({"grammar": "start: nothing"}, r"grammar .* cannot be compiled"),
        ({"choice": ("a<|im_end|>",)}, "vocabulary cannot spell"),
        ({"thinking_budget": 5}, "no reasoning markers"),
    ],
)
def test_what_cannot_be_compiled_is_refused_by_name(engine, params, message):
    with pytest.raises(RowError, match=message) as refused:
        engine.add_request(0, [5], SamplingParams(**params))
    assert refused.value.code is ErrorCode.INVALID_PARAMETER
    assert len(refused.value.one_line) < 500
    assert not engine.has_unfinished()


@pytest.mark.slow
def test_llguidance_is_imported_where_it_is_used_alone(tiny_model):
    import subprocess
    import sys

    program = (
        "import sys; from pagecli.core.engine_config import EngineConfig as C; from pagecli.core.sampling_params import "
        "SamplingParams as P; from pagecli.engine.engine import Engine; "
        f"e = Engine(C({str(tiny_model('llama'))!r}, dtype='float32', kv_memory_bytes=1 << 20)); "
        "e.add_request(0, [5], P(max_tokens=3)); e.add_request(1, [5], P(choice=('yes', 'no')))\n"
        "while e.has_unfinished(): e.step()\n"
        "sys.exit('llguidance' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
