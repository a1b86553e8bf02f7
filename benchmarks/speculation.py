"""Speed of speculation by prompt lookup (engine/generation/prompt_lookup.py): the same rows with and without, in turn.

    python benchmarks/speculation.py --dtype bfloat16 --save

Copying: rows that quote, edit or reformat what they were given, one at a time; examples in the prompt show the small model
what is wanted. Elsewhere: the sample prompts, answered greedily and sampled, alone and 16 at a time. Tokens are compared.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import results_file

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.engine import Engine

SAMPLE_PROMPTS = Path(__file__).resolve().parents[1] / "sample_data" / "prompts.jsonl"
SENTENCES = [
    "The mill was built in 1793 beside the river Aire, and it burned down twice before the railway came to the valley.",
    "Dr. Amina Osei measured the lake's depth at forty-one points between March and October, using a weighted line of silk.",
    "Deliver the two crates of glass lenses to 14 Harbour Street, Plymouth, before noon on Friday, and ask for Mr. Tregenza.",
]
COPY_EDIT = (
    "Correct the spelling.\n"
    "Text: Their are seven red boats on the lake, and each of them carries nine barrels of salted fish.\n"
    "Corrected: There are seven red boats on the lake, and each of them carries nine barrels of salted fish.\n"
    "Text: {0}\nCorrected: {0}\nText: {1}\nCorrected:"
)
QUOTE = 'Quote the sentence from the text.\nText: {0} {1}\nQuote: "{0}"\nText: {1} {2}\nQuote: "'
RECORDS = (
    "id: 7, source: letters, note: {0}\n"
    '{{"id": 7, "source": "letters", "note": "{0}"}}\n'
    "id: 8, source: diary, note: {1}\n"
    '{{"id": 8, "source": "diary", "note": "{1}"}}\n'
    "id: 9, source: notebook, note: {2}\n"
)
COPYING = {"edit": COPY_EDIT, "quote": QUOTE, "JSON of the input": RECORDS}
Rows = list[tuple[list[int], SamplingParams]]


def copying(engine: Engine) -> dict[str, Rows]:
    """Two rows of each task, greedy, to the end of the line or 50 tokens."""
    turned = [SENTENCES[i:] + SENTENCES[:i] for i in range(2)]
    params = SamplingParams(max_tokens=50, stop=("\n",))
    encode = engine.tokenizer.encode
    return {name: [(encode(task.format(*sentences)), params) for sentences in turned] for name, task in COPYING.items()}


def elsewhere(engine: Engine, count: int) -> dict[str, Rows]:
    with SAMPLE_PROMPTS.open() as lines:
        texts = [json.loads(line)["prompt"] for line in itertools.islice(lines, count)]
    prompts = [engine.tokenizer.apply_chat_template([{"role": "user", "content": text}]) for text in texts]
    kinds = {"greedy": {}, "sampled": {"temperature": 1.0, "seed": 1}}
    return {
        f"{kind}, {together}": [
            (prompt, SamplingParams(max_tokens=60 if rows < 16 else 40, **params)) for prompt in prompts[:rows]
        ]
        for together, rows in (("alone", 3), ("16 at a time", 16))
        for kind, params in kinds.items()
    }


def generate(engine: Engine, rows: Rows, together: bool) -> tuple[float, list[list[int]]]:
    """(seconds, tokens of each row)"""
    tokens: dict[int, list[int]] = {}
    started = time.perf_counter()
    for i, (prompt, params) in enumerate(rows):
        engine.add_request(i, prompt, params)
        while not together and engine.has_unfinished():
            tokens |= {done.request_id: done.sequences[0].token_ids for done in engine.step()}
    while engine.has_unfinished():
        tokens |= {done.request_id: done.sequences[0].token_ids for done in engine.step()}
    return time.perf_counter() - started, [tokens[i] for i in range(len(rows))]


def measure(engine: Engine, rows: Rows, together: bool, rounds: int) -> dict:
    """Ratios of speed, one of each round; and the share of guessed tokens that were right."""
    drafter, ratios, seconds = engine.scheduler.drafter, [], {True: [], False: []}
    assert drafter is not None
    before = drafter.stats()
    generate(engine, rows, together)  # prompts are in the cache from here on
    once = {name: value - before[name] for name, value in drafter.stats().items()}
    for i in range(rounds):
        texts = {}
        for speculates in (True, False) if i % 2 else (False, True):
            engine.scheduler.drafter = drafter if speculates else None
            taken, texts[speculates] = generate(engine, rows, together)
            seconds[speculates].append(taken)
        assert texts[True] == texts[False], "speculation changed a text"
        ratios.append(seconds[False][-1] / seconds[True][-1])
    engine.scheduler.drafter = drafter
    num_tokens = sum(map(len, texts[True]))
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "tokens_per_second_without": num_tokens / statistics.median(seconds[False]),
        "tokens_per_second": num_tokens / statistics.median(seconds[True]),
        **once,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    engine = Engine(EngineConfig(args.model, dtype=args.dtype, max_num_seqs=16))
    cases = {}
    for name, rows in copying(engine).items():
        cases[f"copying: {name}"] = measure(engine, rows, False, args.rounds)
    for name, rows in elsewhere(engine, 16).items():
        cases[f"elsewhere: {name}"] = measure(engine, rows, "at a time" in name, args.rounds)
    for name, case in cases.items():
        print(
            f"{name:32} {case['ratio']:.2f} times {case['tokens_per_second_without']:7.1f} tokens/s, "
            f"{case['num_accepted_tokens']} of {case['num_draft_tokens']} guesses right"
        )
    if args.save:
        found = {"dtype": engine.dtype, "isa": engine.stats()["cpu_isa"], "threads": engine.num_threads, "cases": cases}
        command = " ".join(["python", "benchmarks/speculation.py", *sys.argv[1:]])
        print(results_file.save(f"speculation-{args.model}-{engine.dtype}", command, found))


if __name__ == "__main__":
    main()
