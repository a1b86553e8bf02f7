"""The cost of a constraint: greedy rows with one beside greedy rows without, in batches of the same size.

    python benchmarks/structured_output.py --save                     # SmolLM2-135M, 64 rows, 48 tokens
    python benchmarks/structured_output.py --rows 16 --rounds 9

Forms: *text* is a JSON string that does not end, so nearly every token is allowed and every row has a mask in every step;
*record* a schema of five fields, of which most tokens are forced; *choice* one of four labels, where a row ends. Each run of a
form is followed by one of free rows, as many, each with as many output tokens; a form's figure is the median over the rounds
of its time over theirs. Rows have one prompt each, of 24 tokens, prefill included.
"""

import argparse
import json
import statistics
import time

import results_file

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.engine import Engine

RECORD = {
    "type": "object",
    "properties": {
        "customer_name": {"type": "string", "maxLength": 12},
        "satisfaction_score": {"type": "integer", "minimum": 1, "maximum": 5},
        "would_recommend": {"type": "boolean"},
        "category": {"enum": ["billing", "delivery", "quality", "other"]},
        "needs_an_answer": {"type": "boolean"},
    },
    "additionalProperties": False,
}
RECORD["required"] = list(RECORD["properties"])
TEXT = {"type": "object", "properties": {"text": {"type": "string", "minLength": 4000}}, "required": ["text"]}
FORMS = {
    "text": {"json_schema": json.dumps(TEXT)},
    "record": {"json_schema": json.dumps(RECORD)},
    "choice": {"choice": ("billing", "delivery", "quality of the product", "something else")},
}


def run(engine, lengths, form, number):
    """(seconds, output tokens of each row, steps) of a batch of rows of at most these lengths; `number` makes new prompts."""
    for row, length in enumerate(lengths):
        prompt = [(97 * (number * len(lengths) + row) + 31 * i) % 40_000 + 100 for i in range(24)]
        engine.add_request(row, prompt, SamplingParams(max_tokens=length, **form))
    steps, started, outputs = engine.stats()["num_steps"], time.perf_counter(), []
    while engine.has_unfinished():
        outputs += engine.step()
    seconds = time.perf_counter() - started
    assert all(output.error is None for output in outputs)
    found = {output.request_id: len(output.sequences[0].token_ids) for output in outputs}
    return seconds, [found[row] for row in range(len(lengths))], engine.stats()["num_steps"] - steps


def measure(engine, num_rows, num_tokens, num_rounds):
    pairs = {form: [] for form in FORMS}
    for number in range(num_rounds + 1):
        for form, parameters in FORMS.items():
            constrained = run(engine, [num_tokens] * num_rows, parameters, 2 * number)
            free = run(engine, constrained[1], {"ignore_eos": True}, 2 * number + 1)
            if number:  # the first round compiles and warms up
                pairs[form].append((constrained, free))
    return {
        form: {
            "seconds": round(statistics.median(constrained[0] for constrained, _ in found), 4),
            "seconds_of_free": round(statistics.median(free[0] for _, free in found), 4),
            "output_tokens": sum(found[0][0][1]),
            "steps": [found[0][0][2], found[0][1][2]],
            "relative_to_free": round(statistics.median(constrained[0] / free[0] for constrained, free in found), 4),
        }
        for form, found in pairs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    engine = Engine(
        EngineConfig(
            args.model, dtype=args.dtype, max_num_seqs=args.rows, kv_memory_bytes=1 << 30, speculate=0, prefix_caching=False
        )
    )
    forms = measure(engine, args.rows, args.tokens, args.rounds)
    results = {"model": args.model, "dtype": engine.dtype, "isa": engine.stats()["cpu_isa"], "rows": args.rows, "forms": forms}
    for form, found in forms.items():
        steps = "{} and {} steps".format(*found["steps"])
        print(
            f"{form:8} {found['seconds']:7.3f} s, free {found['seconds_of_free']:7.3f} s, {steps}:", found["relative_to_free"]
        )
    if args.save:
        command = f"python benchmarks/structured_output.py --model {args.model} --rows {args.rows} --tokens {args.tokens}"
        print(results_file.save(f"structured-output-{args.model}-{engine.dtype}-{args.rows}", command, results))


if __name__ == "__main__":
    main()
