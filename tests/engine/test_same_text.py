"""Same row, same text: whatever runs beside a row, however its prefill is cut, preempted, shared or spread over threads."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.devices.cpu import sampler
from pagecli.engine.engine import Engine

BLOCK_BYTES = {"llama": 2 * 3 * 2 * 32 * 4, "opt": 2 * 2 * 2 * 32 * 4}  # of a token, float32
KINDS = (
    {},
    {"temperature": 0.9, "seed": 3},
    {"temperature": 1.2, "top_p": 0.8, "n": 3},
    {"temperature": 1.0, "top_k": 20, "best_of": 3, "n": 2},
    {"temperature": 0.7, "repetition_penalty": 1.2, "min_tokens": 4},
    {"beam_width": 3, "n": 2, "length_penalty": 0.6},
    {"logprobs": 2, "temperature": 1.0, "min_p": 0.05, "n": 2},
)
SCHEMA = (
    '{"type": "object", "properties": {"first": {"enum": ["one", "two"]}, "second": {"type": "string", "maxLength": 4}},'
    ' "required": ["first", "second"], "additionalProperties": false}'
)
CONSTRAINED = (
    {"json_schema": SCHEMA},
    {"temperature": 0.9, "top_p": 0.9},
    {"json_schema": SCHEMA, "temperature": 1.2, "n": 3},
    {"choice": ("yes", "no", "yes please"), "temperature": 1.0},
    {"regex": "[a-d]{2,9}", "beam_width": 3, "n": 2},
    {},
    {"json_schema": SCHEMA, "logprobs": 1, "temperature": 1.0, "best_of": 2},
)
QUICK = 28  # rows of the quick tests
# What must not matter, beside the run all others are compared with: everything in one batch.
SETTINGS = {
    "small batches": {"max_num_seqs": 4},
    "tiny memory": {"num_slots": 256, "block_size": 8},
    "swapping": {"num_slots": 256, "block_size": 8, "preemption": "swap", "swap_slots": 512},
    "chunks of 32": {"max_num_seqs": 16, "max_batch_tokens": 32},
    "2 threads": {"threads": 2},
    "no prefix caching": {"prefix_caching": False},
    "blocks of 1": {"block_size": 1},
    "blocks of 64": {"block_size": 64},
}


def make_rows(count, seed=0, kinds=KINDS, max_tokens=6):
    """(prompt, parameters) of rows of every kind; half of the prompts begin like another row's."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length):
        return torch.randint(3, 340, (length,), generator=generator).tolist()

    prefixes = [ids(40), ids(17)]
    rows = []
    for i in range(count):
        own = ids(int(torch.randint(1, 40, (1,), generator=generator)))
        prompt = prefixes[i % 3] + own if i % 3 < 2 else own
        rows.append((prompt, SamplingParams(max_tokens=max_tokens + i % 11, **kinds[i % len(kinds)])))
    return rows


def make_engine(path, num_slots=16 * 1024, swap_slots=0, block_size=16, **config):
    slot_bytes = BLOCK_BYTES[path.name]
    defaults = {"dtype": "float32", "threads": 1, "check_integrity": True, "max_num_seqs": 128, "max_batch_tokens": 512}
    return Engine(
        EngineConfig(
            str(path),
            kv_memory_bytes=num_slots * slot_bytes,
            swap_memory_bytes=swap_slots * slot_bytes,
            block_size=block_size,
            **(defaults | config),
        )
    )


def outputs(engine, rows, row_keys=None):
    """Everything that leaves the engine, row by row: tokens, text, log probabilities and scores to the last bit."""
    for i, (prompt, params) in enumerate(rows):
        engine.add_request(i, prompt, params, row_key=row_keys[i] if row_keys else i)
    done = {}
    while engine.has_unfinished():
        done |= {output.request_id: output for output in engine.step()}
    return [done[i].sequences for i in range(len(rows))]


def alone(engine, rows):
    """The same with every row in the engine by itself."""
    return [outputs(engine, [row], [i])[0] for i, row in enumerate(rows)]


@pytest.fixture(scope="module", params=["llama", pytest.param("opt", marks=pytest.mark.slow)])
def path(request, tiny_model):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def together(path):
    """together(count) -> rows of every kind, and what came out of them in one batch."""
    runs = {}

    def run(count):
        if count not in runs:
            rows = make_rows(count)
            runs[count] = rows, outputs(make_engine(path), rows)
        return runs[count]

    return run


def check(path, together, num_rows, name):
    rows, expected = together(num_rows)
    engine = make_engine(path, **SETTINGS[name])
    assert outputs(engine, rows) == expected
    stats = engine.stats()
    assert (stats["num_preemptions"] > 0) == (name in ("tiny memory", "swapping"))
    assert (stats["num_swapped_blocks"] > 0) == (name == "swapping")
    assert (stats["prefix_cache_hit_rate"] > 0) == (name != "no prefix caching")


@pytest.mark.parametrize("name", SETTINGS)
def test_rows_of_every_kind_come_out_the_same(path, together, name):
    check(path, together, QUICK, name)


def test_rows_come_out_the_same_alone(path, together):
    rows, expected = together(QUICK)
    assert alone(make_engine(path), rows) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_200_rows_come_out_the_same(path, together, name):
    check(path, together, 200, name)


@pytest.mark.slow
def test_200_rows_come_out_the_same_alone(path, together):
    rows, expected = together(200)
    assert alone(make_engine(path), rows) == expected


@pytest.fixture(scope="module")
def constrained(path):
    """Rows of which most are constrained, and what came out of them in one batch."""
    rows = make_rows(QUICK, kinds=CONSTRAINED, max_tokens=24)
    return rows, outputs(make_engine(path), rows)


@pytest.mark.parametrize("name", ["small batches", "tiny memory", "swapping", "chunks of 32", "2 threads", "blocks of 1"])
def test_constrained_rows_come_out_the_same(path, constrained, name):
    rows, expected = constrained
    engine = make_engine(path, **SETTINGS[name])
    assert outputs(engine, rows) == expected
    assert (engine.stats()["num_preemptions"] > 0) == (name in ("tiny memory", "swapping"))


def test_constrained_rows_come_out_the_same_alone(path, constrained):
    rows, expected = constrained
    assert alone(make_engine(path), rows) == expected


def test_rows_without_a_constraint_are_the_same_beside_rows_with_one(path, together):
    rows, expected = together(QUICK)
    others = make_rows(QUICK, seed=9, kinds=CONSTRAINED, max_tokens=24)
    mixed = [row for pair in zip(rows, others, strict=True) for row in pair]
    keys = [key for i in range(QUICK) for key in (i, 1000 + i)]
    assert outputs(make_engine(path), mixed, keys)[::2] == expected


def test_rows_come_out_the_same_in_another_order(path, together):
    rows, expected = together(QUICK)
    keys = list(reversed(range(QUICK)))
    assert outputs(make_engine(path), rows[::-1], keys) == expected[::-1]


def logits_of(path, rows, monkeypatch, **config):
    """The logits that every output token was chosen from, by (row, number of known tokens)."""
    seen, choose = {}, sampler.choose

    def spy(logits, specs, *kept):
        for row, (spec, *_) in zip(logits.copy(), specs, strict=True):
            seen[spec.row_key, len(spec.known_token_ids)] = row
        return choose(logits, specs, *kept)

    with monkeypatch.context() as patch:
        patch.setattr(sampler, "choose", spy)
        outputs(make_engine(path, **config), rows)
    return seen


def test_logits_are_the_same_to_the_last_bit(path, monkeypatch):
    # A row without log probabilities is chosen without logits.
    params = dataclasses.replace(SamplingParams(), max_tokens=8, ignore_eos=True, logprobs=0)
    rows = [(prompt, params) for prompt, _ in make_rows(24)]
    expected = logits_of(path, rows, monkeypatch)
    assert len(expected) == 24 * 8
    for config in SETTINGS.values():
        found = logits_of(path, rows, monkeypatch, **config)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[key], expected[key]) for key in expected), config


FLAGS = {
    "one batch": (),
    "alone": ("--max-num-seqs", "3"),  # the widest row's sequences, and no other row beside them
    "tiny memory": ("--kv-memory", "150KiB", "--block-size", "4"),
    "swapping": ("--kv-memory", "150KiB", "--block-size", "4", "--preemption", "swap", "--swap-memory", "1MiB"),
    "chunks of 32": ("--max-num-seqs", "32", "--max-batch-tokens", "32"),
    "2 threads": ("--threads", "2"),
    "no prefix caching": ("--no-prefix-caching",),
}


def run_files(tiny_model, tmp_path, monkeypatch, num_rows, names):
    """The output file and the statistics of the same rows under different flags."""
    from pagecli.cli.app import main

    monkeypatch.setattr("pagecli.cli.generate.run.quieten", lambda *args, **settings: None)
    words = ("the quick", "brown fox", "jumps", "over", "the lazy dog", "and", "sleeps on", "the capital of", "France", "...")
    kinds = [{key: value for key, value in kind.items() if key != "logprobs"} for kind in KINDS]
    rows = [
        {
            "id": f"row {i}",
            "prompt": "Answer the question. " * (i % 2) + " ".join(words[j % 10] for j in range(i, i + i % 9 + 1)),
        }
        | {"max_tokens": 4 + i % 13, **kinds[i % len(kinds)]}
        for i in range(num_rows)
    ]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {}
    for name in names:
        out, stats = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.json"
        command = [
            "generate",
            str(source),
            str(out),
            "--model",
            str(tiny_model("llama")),
            "--no-chat",
            "--token-ids",
            "--quiet",
        ]
        command += ["--stats", str(stats), "--dtype", "float32"]
        command += [] if "--kv-memory" in FLAGS[name] else ["--kv-memory", "16MiB"]
        command += [] if "--threads" in FLAGS[name] else ["--threads", "1"]
        with pytest.raises(SystemExit) as ended:
            main([*command, *FLAGS[name]])
        assert ended.value.code == 0
        files[name] = out.read_bytes(), json.loads(stats.read_text())
    return files


def check_files(files, num_rows):
    expected, _ = files["one batch"]
    assert len(expected.splitlines()) > num_rows
    for name, (content, stats) in files.items():
        assert content == expected, name
        assert (stats["num_preemptions"] > 0) == (name in ("tiny memory", "swapping")), name
        assert (stats["num_swapped_blocks"] > 0) == (name == "swapping"), name


def test_output_files_are_the_same_byte_for_byte(tiny_model, tmp_path, monkeypatch):
    check_files(run_files(tiny_model, tmp_path, monkeypatch, 35, ("one batch", "tiny memory", "swapping", "2 threads")), 35)


@pytest.mark.slow
def test_output_files_of_200_rows_are_the_same_byte_for_byte(tiny_model, tmp_path, monkeypatch):
    check_files(run_files(tiny_model, tmp_path, monkeypatch, 200, FLAGS), 200)
