"""The cost of a constraint: greedy rows with one beside greedy rows without, in batches of the same size.

    python benchmarks/structured_output.py --save                     # SmolLM2-135M, 64 rows, 48 tokens
    python benchmarks/structured_output.py --rows 16 --rounds 9

Forms: *text* is a JSON string that does not end, so nearly every token is allowed and every row has a mask in every step;
*record* a schema of five fields, of which most tokens are forced; *choice* one of four labels, where a row ends. Rounds of
free rows and of each form take turns; a form's figure is the median over the rounds of its time for an output token over that
of the free rows of the same round. Rows have one prompt each, of 24 tokens, prefill included.
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
    "free": {"ignore_eos": True},
    "text": {"json_schema": json.dumps(TEXT)},
    "record": {"json_schema": json.dumps(RECORD)},
    "choice": {"choice": ("billing", "delivery", "quality of the product", "something else")},
}


def run(engine, num_rows, num_tokens, form, number):
    """(seconds, output tokens, steps) of a batch; `number` makes its prompts new ones."""
    for row in range(num_rows):
        prompt = [(97 * (number * num_rows + row) + 31 * i) % 40_000 + 100 for i in range(24)]
        engine.add_request(row, prompt, SamplingParams(max_tokens=num_tokens, **FORMS[form]))
    steps, started, outputs = engine.stats()["num_steps"], time.perf_counter(), []
    while engine.has_unfinished():
        outputs += engine.step()
    seconds = time.perf_counter() - started
    assert all(output.error is None for output in outputs)
    num_output = sum(len(sequence.token_ids) for output in outputs for sequence in output.sequences)
    return seconds, num_output, engine.stats()["num_steps"] - steps


def measure(engine, num_rows, num_tokens, num_rounds):
    runs = {form: [] for form in FORMS}
    for number in range(num_rounds + 1):
        for form in FORMS:
            found = run(engine, num_rows, num_tokens, form, number)
            if number:  # the first round compiles and warms up
                runs[form].append(found)
    free = [seconds / tokens for seconds, tokens, _ in runs["free"]]
    return {
        form: {
            "seconds": round(statistics.median(seconds for seconds, _, _ in found), 4),
            "output_tokens": found[0][1],
            "steps": found[0][2],
            "us_per_output_token": round(1e6 * statistics.median(seconds / tokens for seconds, tokens, _ in found), 1),
            "relative_to_free": round(statistics.median(s / t / base for (s, t, _), base in zip(found, free, strict=True)), 4),
        }
        for form, found in runs.items()
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
        per_token, relative = found["us_per_output_token"], found["relative_to_free"]
        print(f"{form:8} {per_token:8.1f} us/token {found['steps']:5} steps {relative:7.3f} of free")
    if args.save:
        command = f"python benchmarks/structured_output.py --model {args.model} --rows {args.rows} --tokens {args.tokens}"
        print(results_file.save(f"structured-output-{args.model}-{engine.dtype}-{args.rows}", command, results))


if __name__ == "__main__":
    main()
