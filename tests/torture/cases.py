"""The jobs that are tortured: each with a model, an input, flags, and what may happen around its runs."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TWO_LAYERS = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "eos_token_id": 2,
    "bos_token_id": 1,
}
DATED_TEMPLATE = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<|im_start|>system\nToday is {{ date_string }}.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Runs of one job begin on these days, some just before midnight.
DAYS = {"2026-11-28": ("23:59:59.6",), "2026-11-29": ("12:00:00", "23:59:59.6"), "2026-11-30": ("08:00:00",)}
INPUT = "in.jsonl"
EARLIER_INPUT = "earlier.jsonl"
MODEL = "model"  # a link to MODELS[0], as caches of models have them
MODELS = ("model-1", "model-2")  # with the same files but for some weights
OLD_OUTPUT = b'{"this": "was there before"}\n'
RANDOM_WEIGHTS = ("--load-format", "dummy")
FLAGS = {
    "generate": ("--max-tokens", "6", "--temperature", "1", "--seed", "5", "--max-num-seqs", "32", "--kv-memory", "16MiB"),
    "score": ("--max-num-seqs", "32", "--kv-memory", "16MiB"),
    "embed": ("--max-num-seqs", "32"),
}
QUIET = ("--quiet", "--no-config")


@dataclass(frozen=True, slots=True)
class Case:
    """A job. `changes` are names of changes.CHANGES that may befall it."""

    name: str
    write_input: Callable[[Path, int], None]
    output: str = "out.jsonl"
    flags: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    has_days: bool = False  # each run has a day of its own
    restarts: bool = False  # some runs have --restart
    closes: bool = False  # some runs lack descriptors
    overwrites: bool = False  # there is an output already, and every run has --overwrite
    write_earlier: Callable[[Path, int], None] | None = None  # there is an output of this input, with error rows to retry
    command: str = "generate"

    def arguments(self) -> list[str]:
        more = ["--overwrite"] if self.overwrites else ["--retry-errors"] if self.write_earlier is not None else []
        return [*self._arguments(INPUT), *more]

    def earlier_arguments(self) -> list[str]:
        return self._arguments(EARLIER_INPUT)

    def _arguments(self, name: str) -> list[str]:
        return [self.command, name, self.output, "--model", MODEL, *FLAGS[self.command], *QUIET, *self.flags]


def write_prompts(path: Path, num_rows: int) -> None:
    """Prompts of different lengths, some of them bad, one with several samples in every fifty."""
    with path.open("w") as file:
        for i in range(num_rows):
            row: dict[str, object] = {"id": f"row {i}", "prompt": f"number {i} " + "word " * (i % 7), "kind": i % 3}
            if i % 50 == 7:
                row["n"] = 3
            if i % 97 == 13:
                row["temperature"] = "hot"
            file.write("{broken\n" if i % 211 == 100 else json.dumps(row) + "\n")


def write_chats(path: Path, num_rows: int) -> None:
    with path.open("w") as file:
        for i in range(num_rows):
            messages = [{"role": "user", "content": f"What is the capital of number {i}? " + "The dog sleeps. " * (i % 5)}]
            if i % 3 == 0:
                messages += [{"role": "assistant", "content": "Paris."}, {"role": "user", "content": "And then?"}]
            row = {"id": i, "messages": messages}
            file.write(json.dumps(row | {"messages": "none"} if i % 101 == 50 else row) + "\n")


def write_batch(path: Path, num_rows: int) -> None:
    with path.open("w") as file:
        for i in range(num_rows):
            body: dict[str, object] = {"model": "any", "messages": [{"role": "user", "content": f"Answer question {i}."}]}
            url = "/v1/chat/completions"
            if i % 4 == 3:
                body, url = {"model": "any", "prompt": f"number {i}", "n": 1 + i % 2}, "/v1/completions"
            if i % 97 == 13:
                body["temperature"] = "hot"
            file.write(json.dumps({"custom_id": f"r-{i}", "method": "POST", "url": url, "body": body}) + "\n")


def write_repaired(path: Path, num_rows: int, temperature: object = 1.5) -> None:
    """Rows of which every fifth has a temperature of its own."""
    with path.open("w") as file:
        for i in range(num_rows):
            row = {"id": f"row {i}", "prompt": f"number {i} " + "word " * (i % 7), "n": 1 + (i % 31 == 3)}
            file.write(json.dumps(row | ({"temperature": temperature} if i % 5 == 2 else {})) + "\n")


def write_failing(path: Path, num_rows: int) -> None:
    """The same rows, of which every fifth fails."""
    write_repaired(path, num_rows, "hot")


def write_forms(path: Path, num_rows: int) -> None:
    """Rows whose outputs have a form; some are cut before they have it."""
    forms: tuple[dict[str, object], ...] = (
        {"choice": ["yes", "no", "perhaps not"]},
        {"regex": "[a-c]{2,4}"},
        {"json_schema": {"enum": [1, 22, 333]}},
        {"regex": "[a-c]{9,12}"},
        {},
    )
    with path.open("w") as file:
        for i in range(num_rows):
            file.write(json.dumps({"id": i, "prompt": f"number {i}", "n": 1 + i % 2} | forms[i % len(forms)]) + "\n")


def write_scored(path: Path, num_rows: int) -> None:
    with path.open("w") as file:
        for i in range(num_rows):
            prompt = f"number {i} " + "word " * (i % 7)
            rows = ({"completion": " and more"}, {"choices": [" yes", " no", " perhaps not"]}, {"completion": 7})
            row = {"text": prompt} if i % 5 == 4 else {"prompt": prompt} | rows[(i % 97 == 13) * 2 or i % 2]
            file.write(json.dumps({"id": i} | row) + "\n")


INPUT_CHANGES = ("input rewritten", "input truncated", "input longer", "input replaced", "input removed")
MODEL_CHANGES = ("other weights", "weights rewritten", "template rewritten")
CASES = (
    Case("plain", write_prompts, flags=RANDOM_WEIGHTS),
    Case("dates", write_chats, flags=("--chat",), has_days=True),
    Case("Parquet", write_prompts, "out.parquet", RANDOM_WEIGHTS),
    Case("changed input", write_prompts, flags=RANDOM_WEIGHTS, changes=INPUT_CHANGES),
    Case("batch", write_batch),
    Case("overwrite", write_prompts, flags=RANDOM_WEIGHTS, overwrites=True),
    Case("changed model", write_chats, "out.parquet", changes=MODEL_CHANGES),
    Case("restart", write_prompts, "out.jsonl.gz", RANDOM_WEIGHTS, restarts=True),
    Case("closed descriptors", write_prompts, flags=RANDOM_WEIGHTS, closes=True),
    Case("batch as rows", write_batch, "out.parquet", restarts=True, closes=True),
    Case("changed instruction set", write_chats, flags=("--dtype", "bfloat16"), changes=("other instruction set",)),
    Case("part, overwrite", write_prompts, flags=("--shard", "2/3", *RANDOM_WEIGHTS), changes=INPUT_CHANGES, overwrites=True),
    Case(
        "retries", write_prompts, flags=("--retry", "2", "--retry-on", "length", "--retry-temperature", "1.5", *RANDOM_WEIGHTS)
    ),
    Case("errors retried", write_repaired, flags=RANDOM_WEIGHTS, write_earlier=write_failing),
    Case("errors retried in Parquet", write_repaired, "out.parquet", RANDOM_WEIGHTS, write_earlier=write_failing),
    Case("forms, retries", write_forms, flags=("--retry", "1", "--chat")),
    Case("CSV", write_prompts, "out.csv", RANDOM_WEIGHTS, changes=INPUT_CHANGES),
    Case("SQLite", write_prompts, "out.sqlite", RANDOM_WEIGHTS),
    Case("DuckDB", write_prompts, "out.duckdb", RANDOM_WEIGHTS),
    Case("score", write_scored, "out.parquet", RANDOM_WEIGHTS, changes=INPUT_CHANGES, command="score"),
    Case("embed", write_prompts, "out.parquet", ("--pooling", "mean"), changes=MODEL_CHANGES, command="embed"),
)


def build_models(folder: Path) -> None:
    """MODELS in `folder`: a tiny Llama with a tokenizer of its own and a template that shows the date."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import tiny_models

    first, second = (folder / name for name in MODELS)
    tiny_models.build("llama", first)
    (first / "chat_template.jinja").write_text(DATED_TEMPLATE)
    shutil.copytree(first, second)
    weights = second / "model.safetensors"
    content = bytearray(weights.read_bytes())
    half = len(content) // 2
    content[half : half + 20_000] = content[half + 20_000 : half + 40_000]  # rows of a matrix, or the like
    weights.write_bytes(content)


def write_case(case: Case, folder: Path, models: Path, num_rows: int) -> None:
    """The job's files in the new `folder`; all are as old as they are here."""
    folder.mkdir()
    case.write_input(folder / INPUT, num_rows)
    if RANDOM_WEIGHTS[0] in case.flags:
        (folder / MODELS[0]).mkdir()
        (folder / MODELS[0] / "config.json").write_text(json.dumps(TWO_LAYERS))
    else:
        for name in MODELS:
            shutil.copytree(models / name, folder / name)
    (folder / MODEL).symlink_to(MODELS[0])
    if case.overwrites:
        (folder / case.output).write_bytes(OLD_OUTPUT)
    if case.write_earlier is not None:
        case.write_earlier(folder / EARLIER_INPUT, num_rows)
