"""JSON schemas of the kinds that JSONSchemaBench (Geng et al., 2025) collects: every output is valid by the jsonschema package,
or the schema is refused before anything runs. No model: a walk takes any allowed token, so it goes where models rarely do.
"""

import json

import numpy as np
import pytest
from jsonschema.validators import Draft202012Validator

from pagecli.core.sampling_params import SamplingParams
from pagecli.core.token_masks import num_words
from pagecli.engine.constraints.compiler import ConstraintCompiler
from pagecli.errors import RowError
from pagecli.model.registry import resolve_model
from pagecli.model.tokenizer.loading import load_tokenizer

WALKS, MAX_TOKENS = 12, 400
TEXT = {"type": "string", "maxLength": 12}


def record(required=True, **properties):
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": list(properties)} if required else schema


SCHEMAS = {
    "scalar types": record(a=TEXT, b={"type": "integer"}, c={"type": "number"}, d={"type": "boolean"}, e={"type": "null"}),
    "several types": record(a={"type": ["string", "null"], "maxLength": 5}, b={"type": ["integer", "boolean"]}),
    "enum": record(label={"enum": ["good", "bad", "so, so", 'q"uote', "é"]}, level={"enum": [1, 2.5, None, True]}),
    "const": record(version={"const": 3}, kind={"const": {"a": [1, 2]}}),
    "enum at the top": {"enum": ["yes", "no", "unsure"]},
    "bounds of numbers": record(
        a={"type": "integer", "minimum": -3, "maximum": 17}, b={"type": "number", "exclusiveMinimum": 0}
    ),
    "multiples": record(a={"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100}),
    "bounds of strings": record(a={"type": "string", "minLength": 3, "maxLength": 6}),
    "pattern": record(plate={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,4}$"}),
    "formats": record(day={"type": "string", "format": "date"}, id={"type": "string", "format": "uuid"}),
    "nested objects": record(a=record(b=record(c=record(d={"type": "boolean"})))),
    "optional properties": record(required=False, a=TEXT, b={"type": "integer"}, c={"type": "boolean"}),
    "bounded arrays": record(a={"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 2, "maxItems": 4}),
    "arrays of objects": {"type": "array", "items": record(n={"type": "integer"}), "minItems": 1, "maxItems": 3},
    "tuples": {"type": "array", "prefixItems": [{"type": "integer"}, {"enum": ["m", "km"]}], "items": False, "minItems": 2},
    "references": {**record(a={"$ref": "#/$defs/p"}, b={"$ref": "#/$defs/p"}), "$defs": {"p": record(x={"type": "integer"})}},
    "recursion": {
        "$defs": {"tree": {**record(v={"enum": [0, 1]}, next={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]})}},
        "$ref": "#/$defs/tree",
    },
    "unions": record(a={"anyOf": [{"type": "integer"}, {"enum": ["none"]}, record(x={"type": "boolean"})]}),
    "exclusive unions": {"oneOf": [record(kind={"const": "a"}, n={"type": "integer"}), record(kind={"const": "b"}, s=TEXT)]},
    "intersections": {"allOf": [record(a={"type": "integer"}), {"type": "object", "properties": {"a": {"minimum": 5}}}]},
    "maps": {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 3},
    "patterns of names": {
        "type": "object",
        "patternProperties": {"^k[0-9]$": {"type": "boolean"}},
        "additionalProperties": False,
    },
    "draft 4": {"definitions": {"n": {"type": "integer"}}, **record(a={"$ref": "#/definitions/n"})},
    "annotations": record(a={"type": "boolean", "title": "A", "description": "b", "default": True, "examples": [False]}),
    "any object": {"type": "object"},
    "an answer to score": record(
        reasoning={"type": "string", "maxLength": 30},
        score={"type": "integer", "minimum": 1, "maximum": 5},
        flags={"type": "array", "items": {"enum": ["toxic", "off-topic", "spam"]}, "maxItems": 3},
    ),
}
REFUSED = {
    "remote references": {"$ref": "https://example.com/schema.json"},
    "references to nothing": {"$ref": "#/$defs/missing"},
    "unknown types": {"type": "decimal"},
    "unique items": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    "negations": {"not": {"type": "string"}},
    "conditions": {"if": {"type": "string"}, "then": {"minLength": 2}},
    "look-around": {"type": "string", "pattern": "^(?=a)b$"},
    "no value at all": {"type": "integer", "minimum": 5, "maximum": 4},
}


@pytest.fixture(scope="module")
def compiler(tiny_model):
    source = resolve_model(str(tiny_model("llama")), "auto")
    tokenizer = load_tokenizer(source)
    return ConstraintCompiler(tokenizer, 384, frozenset(tokenizer.eos_token_ids), None), tokenizer


def walk(compiler, tokenizer, params, rng):
    """Tokens out of the masks alone, forced ones as they come; None where MAX_TOKENS do not end it."""
    constraint, words, token_ids = compiler.start(params, []), np.zeros(num_words(384), np.uint32), []
    while len(token_ids) < MAX_TOKENS:
        if constraint.is_complete:
            return token_ids
        token = constraint.take_forced()
        if token is None:
            constraint.fill(words)
            allowed = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))
            ends = [i for i in allowed if i in tokenizer.eos_token_ids]
            if ends and rng.random() < 0.3:
                return token_ids
            quote = [i for i in allowed if (tokenizer.token_bytes(int(i)) or b"")[:1] in (b'"', b"}", b"]")]
            token = int(rng.choice(quote if quote and rng.random() < 0.3 else [i for i in allowed if i not in ends] or ends))
        constraint.consume(token)
        token_ids.append(token)
    return None


@pytest.mark.parametrize("name", SCHEMAS)
def test_whatever_is_chosen_the_text_is_valid(compiler, name):
    compile_for, tokenizer = compiler
    schema = SCHEMAS[name]
    params = SamplingParams(json_schema=json.dumps(schema))
    rng, validator, num_ended = np.random.default_rng(0), Draft202012Validator(schema), 0
    for _ in range(WALKS):
        token_ids = walk(compile_for, tokenizer, params, rng)
        if token_ids is not None:
            text = b"".join(tokenizer.token_bytes(i) for i in token_ids).decode()
            validator.validate(json.loads(text))
            assert compile_for.compile(params).allows(text)
            num_ended += 1
    assert num_ended > WALKS // 3


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_guaranteed_is_refused(compiler, name):
    with pytest.raises(RowError, match=r"json_schema .* cannot be compiled"):
        compiler[0].compile(SamplingParams(json_schema=json.dumps(REFUSED[name])))
