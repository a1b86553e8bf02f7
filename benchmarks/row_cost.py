"""What each way to make a prompt, and to read an answer, costs the host a row: microseconds of wall time, no model run.

    python benchmarks/row_cost.py --save          # SmolLM2's tokenizer and template, 2,000 rows a way

*text* is the plain row that the others are compared with. The reading thread does this beside the model's steps; templates are
rendered in a process of their own. *calls* is the reading back of two tool calls from an answer.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import results_file

from pagecli.core.outputs import RequestOutput, SequenceOutput
from pagecli.core.sampling_params import SamplingParams
from pagecli.jobs.prompts.prompt_options import Example, PromptOptions
from pagecli.jobs.rows.row import InputRow
from pagecli.jobs.rows.row_preparer import RowPreparer
from pagecli.jobs.tools.answers import ToolAnswers
from pagecli.model.registry import resolve_model
from pagecli.model.tokenizer.loading import load_parts
from pagecli.model.tokenizer.tokenizer import TransformersTokenizer

TEXT = "Is the following review of a toaster positive, and why? It was here on the second day, and it burns the bread."
TOOLS = [{"type": "function", "function": {"name": "judge", "parameters": {"properties": {"good": {"type": "boolean"}}}}}]
TOOL_TEMPLATE = "{{ tools | tojson }}{% for m in messages %}{{ m.content }}{% endfor %}<tool_call>"
CALLS = '<tool_call>\n{"name": "judge", "arguments": {"good": false}}\n</tool_call>' * 2
EXAMPLES = tuple(Example({"prompt": f"{TEXT} {number}"}, "It is not.") for number in range(4))
WAYS = {
    "text": (PromptOptions(chat=False), {"prompt": TEXT}),
    "template": (PromptOptions(chat=False, template="Review: {{ review }}"), {"review": TEXT}),
    "chat": (PromptOptions(chat=True, system="Be brief."), {"prompt": TEXT}),
    "chat, 4 examples": (PromptOptions(chat=True, few_shot=EXAMPLES), {"prompt": TEXT}),
    "chat, tools": (PromptOptions(chat=True), {"prompt": TEXT, "tools": TOOLS}),
    "form": (PromptOptions(chat=False), {"prompt": TEXT, "json_schema": {"type": "object", "properties": {"good": {}}}}),
}


def seconds_of(act: Callable[[int], object], num_rows: int) -> float:
    started = time.perf_counter()
    for number in range(num_rows):
        act(number)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    source = resolve_model("smollm2-135m")
    assert source.tokenizer_path is not None
    parts = dataclasses.replace(load_parts(source.tokenizer_path), tool_template=TOOL_TEMPLATE)
    tokenizer = TransformersTokenizer(parts, source.config.eos_token_ids)
    acts: dict[str, Callable[[int], object]] = {}
    for name, (options, columns) in WAYS.items():
        preparer = RowPreparer(tokenizer, source.config.vocab_size, options, SamplingParams())
        assert preparer.prepare(InputRow(0, columns)).error is None

        def act(number: int, prepare=preparer.prepare, columns=columns) -> object:
            return prepare(InputRow(number, columns))

        acts[name] = act
    answers, ids = ToolAnswers(tokenizer, PromptOptions()), tokenizer.encode(CALLS)
    output = RequestOutput(0, 9, (SequenceOutput(0, ids, CALLS, "stop"),))
    row = InputRow(0, {"tools": TOOLS})
    assert answers.rows_of(row, output)[0].tool_calls
    acts["calls"] = lambda number: answers.rows_of(row, output)
    rounds = [{name: seconds_of(act, args.rows) for name, act in acts.items()} for _ in range(args.rounds)]
    found = {name: round(1e6 * statistics.median(each[name] for each in rounds) / args.rows, 1) for name in acts}
    for name, cost in found.items():
        print(f"{name:18}{cost:8.1f} us a row")
    if args.save:
        command = f"python benchmarks/row_cost.py --rows {args.rows} --rounds {args.rounds}"
        print(results_file.save("row-cost-smollm2-135m", command, {"us_per_row": found}))


if __name__ == "__main__":
    main()
