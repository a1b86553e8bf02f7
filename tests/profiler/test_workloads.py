"""Workloads: drawn lengths with the paper's means, files of lengths, traces with prefix hashes, and prompts made for them."""

import gzip
import json
import math
from contextlib import suppress
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.errors import InputError, UsageError
from pagecli.profiler.workloads.prompt_tokens import FIRST_ID, prompt_token_ids, uniform_ids
from pagecli.profiler.workloads.workload_files import is_trace, read_csv, read_trace
from pagecli.profiler.workloads.workloads import Workload, WorkloadRequest, built_in, length_stats


@pytest.mark.parametrize(("name", "prompt", "output"), [("sharegpt", 161.31, 337.99), ("alpaca", 19.31, 58.45)])
@pytest.mark.parametrize("num_requests", [500, 2000])
def test_drawn_lengths_have_the_papers_means_and_fit_its_model(name, prompt, output, num_requests):
    workload = built_in(name, num_requests)
    assert len(workload.requests) == num_requests
    assert workload.prompt_stats.mean == pytest.approx(prompt, rel=0.01)
    assert workload.output_stats.mean == pytest.approx(output, rel=0.01)
    assert workload.total_stats.max <= 2048
    assert "paper's means" in workload.note


def test_drawn_lengths_are_the_same_every_time():
    assert built_in("sharegpt", 50) == built_in("sharegpt", 50)
    assert [r.total_tokens for r in built_in("sharegpt").requests[:3]] == [982, 493, 253]


def test_percentiles_are_lengths_that_occur():
    stats = length_stats([1, 2, 3, 100])
    assert (stats.p50, stats.mean, stats.p95, stats.max) == (2, 26.5, 100, 100)


def test_a_rate_makes_requests_arrive_one_after_another():
    workload = built_in("alpaca", 2000).with_rate(4.0)
    times = [r.arrival_seconds for r in workload.requests]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(2000 / 4.0, rel=0.1)
    assert workload.requests_per_second == 4.0
    for rate in (0, -1, math.nan, math.inf, 1e-320, 1e308):
        with pytest.raises(UsageError, match="request rate"):
            workload.with_rate(rate)


def test_a_workload_without_requests_is_refused():
    with pytest.raises(UsageError, match="no requests"):
        Workload("empty", ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prompt_tokens,output_tokens\n3,4\n5,6\n", [(3, 4, None), (5, 6, None)]),
        ("row,arrival_s,prompt_tokens,output_tokens\n0,2.0,3,4\n1,2.5,5,6\n", [(3, 4, 0.0), (5, 6, 0.5)]),
        ("arrival_s,input_len,output_len\n9,1,2\n4,3,4\n", [(3, 4, 0.0), (1, 2, 5.0)]),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50,396,109\n", None),
        ("Timestamp,Model,Request tokens,Response tokens,Total tokens\n5,ChatGPT,472,18,490\n", [(472, 18, 0.0)]),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,7,0\n", [(7, 1, 0.0)]),
        ('\ufeff"Prompt Tokens";x\n1;2\n'.replace(";", ",") + "", "InputError"),
    ],
)
def test_csv_files_are_read_by_the_names_that_traces_use(tmp_path, text, expected):
    path = tmp_path / "lengths.csv"
    path.write_text(text, encoding="utf-8")
    if expected == "InputError":
        with pytest.raises(InputError, match="no columns prompt_tokens and output_tokens"):
            read_csv(path)
        return
    requests = read_csv(path).requests
    if expected is None:
        assert [(r.prompt_tokens, r.output_tokens) for r in requests] == [(374, 44), (396, 109)]
        assert requests[1].arrival_seconds == pytest.approx(3.31941, abs=1e-4)
    else:
        assert [(r.prompt_tokens, r.output_tokens, r.arrival_seconds) for r in requests] == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prompt_tokens,output_tokens\n3,4\n5,many\n", "line 3: output_tokens is 'many', not a whole number"),
        ("prompt_tokens,output_tokens\n3,4\n\n5,1.5\n", "line 4: output_tokens is '1.5', not a whole number"),
        ("prompt_tokens,output_tokens\n0,4\n", "line 2: prompt_tokens is 0"),
        ("prompt_tokens,output_tokens\n-3,4\n", "line 2: prompt_tokens is -3"),
        ("prompt_tokens,output_tokens\n3\n", "line 2: fewer values than the first line has names"),
        ("prompt_tokens,output_tokens\n3,4,5\n", "line 2: more values than"),
        ("prompt_tokens,output_tokens,arrival_s\n3,4,soon\n", "line 2: arrival_s is 'soon', neither a number nor a date"),
        ("prompt_tokens,output_tokens\n", "has no requests"),
        ("", "its first line has nothing"),
        ('prompt_tokens,output_tokens\n3,"4\n', "not CSV"),
        ("prompt_tokens,output_tokens\n3,99999999999\n", "lengths are from"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, text, says):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_csv(path)
    assert says in f"{caught.value.message}; {caught.value.hint}"
    assert caught.value.message.startswith(str(path))


def test_files_that_are_missing_or_no_text_are_one_line(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"prompt_tokens,output_tokens\n\xff\xfe,1\n")
    for name, says in (("x.csv", "not UTF-8"), ("none.csv", "no such file"), (".", "is a directory")):
        with pytest.raises(InputError, match=says):
            read_csv(tmp_path / name)


@pytest.mark.parametrize(("read", "name"), [(read_csv, "x.csv.gz"), (read_trace, "x.jsonl.gz")])
def test_a_compressed_file_that_is_damaged_anywhere_is_one_line(tmp_path, read, name):
    csv, trace = "prompt_tokens,output_tokens\n" + "5,6\n" * 5000, '{"input_len": 5, "output_len": 6}\n' * 5000
    whole = gzip.compress((csv if read is read_csv else trace).encode())
    path = tmp_path / name
    for damaged in (whole[: len(whole) // 2], whole[:30] + b"\xff" * 40 + whole[70:], whole[:-8] + bytes(8), b"no gzip at all"):
        path.write_bytes(damaged)
        with pytest.raises(InputError) as caught:
            read(path)
        assert caught.value.message.startswith(f"{path} cannot be read: ")


def test_requests_that_arrive_at_all_but_one_moment_have_a_rate(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("prompt_tokens,output_tokens,arrival_s\n5,6,0\n5,6,5e-324\n")
    assert math.isfinite(read_csv(path).requests_per_second)


@pytest.mark.parametrize("arrival", ["1" + "0" * 400, "1" + "0" * 300, "0001-01-01T00:00:00", "soon"])
def test_arrivals_beyond_every_clock_are_one_line(tmp_path, arrival):
    path = tmp_path / "trace.jsonl"
    shown = arrival if arrival.isdigit() else f'"{arrival}"'
    path.write_text(f'{{"input_length": 5, "output_length": 6, "timestamp": {shown}}}\n')
    with pytest.raises(InputError, match="line 1: timestamp is"):
        read_trace(path)


@settings(max_examples=40)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_workload_or_an_input_error(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    (folder / "any.csv").write_bytes(b"prompt_tokens,output_tokens\n" + data)
    (folder / "any.jsonl").write_bytes(data)
    (folder / "any.jsonl.gz").write_bytes(data)
    for read, name in ((read_csv, "any.csv"), (read_trace, "any.jsonl"), (read_trace, "any.jsonl.gz")):
        with suppress(InputError):
            assert read(folder / name).requests


def trace_line(prompt: int, hashes: list[int], **others) -> str:
    return json.dumps({"input_length": prompt, "hash_ids": hashes} | others)


def test_traces_with_prefix_hashes_say_how_long_a_block_is(tmp_path):
    path = tmp_path / "trace.jsonl.gz"
    lines = [trace_line(1000, [1, 2], timestamp=500, output_length=7), trace_line(600, [1, 3], timestamp=0, output_length=9)]
    path.write_bytes(gzip.compress("\n".join([*lines, ""]).encode()))
    workload = read_trace(path)
    assert is_trace(path)
    assert workload.prefix_block_size == 512
    assert [(r.prompt_tokens, r.output_tokens, r.arrival_seconds) for r in workload.requests] == [(600, 9, 0.0), (1000, 7, 0.5)]
    assert workload.requests_per_second == 4.0
    assert len(read_trace(path, limit=1).requests) == 1


def test_traces_without_output_lengths_take_the_one_given(tmp_path):
    path = tmp_path / "batch.jsonl"
    path.write_text(trace_line(63, [1, 2, 3, 4]) + "\n" + trace_line(30, [1, 5]))
    assert [r.output_tokens for r in read_trace(path, default_output_tokens=11).requests] == [11, 11]
    assert read_trace(path, default_output_tokens=11).prefix_block_size == 16
    with pytest.raises(InputError, match="line 1: no output length"):
        read_trace(path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: no prompt's length"),
        (trace_line(16, ["a"], output_length=1), "line 2: hash_ids is not a list of whole numbers"),
        (trace_line(999, [1], output_length=1), "no equal number of tokens for each hash"),
    ],
)
def test_a_malformed_trace_is_named(tmp_path, line, says):
    path = tmp_path / "bad.jsonl"
    path.write_text(trace_line(63, [1, 2, 3, 4], output_length=1) + "\n" + line + "\n")
    with pytest.raises(InputError) as caught:
        read_trace(path)
    assert says in f"{caught.value.message}; {caught.value.hint}"


def test_the_input_of_a_job_is_no_trace(tmp_path):
    path = tmp_path / "job.jsonl"
    for line in ('{"prompt": "a", "prompt_tokens": 3}', '{"messages": []}', "not json", ""):
        path.write_text(line + "\n")
        assert not is_trace(path)


def test_prompts_share_ids_exactly_where_they_share_hashes():
    hashed = [WorkloadRequest(40, 5, None, hashes) for hashes in ((1, 2, 3), (1, 2, 4), (-1, 2, 3))]
    ids = [*prompt_token_ids(Workload("w", (*hashed, WorkloadRequest(40, 5)), "", 16), vocab_size=1000)]
    assert [len(one) for one in ids] == [40] * 4
    assert ids[0][:32] == ids[1][:32]
    assert ids[0][32:] != ids[1][32:]
    assert ids[0][:16] != ids[2][:16]
    assert ids[3][:16] not in (ids[0][:16], ids[2][:16])
    assert all(FIRST_ID <= i < 1000 for one in ids for i in one)
    assert [*islice(prompt_token_ids(Workload("w", tuple(hashed), "", 16), 1000), 1)] == ids[:1]


def test_prompts_of_lengths_alone_are_as_they_were_measured():
    assert uniform_ids([(3, 9), (2, 9)], 50_000) == [
        np.random.default_rng(1).integers(20, 50_000, 3).tolist(),
        np.random.default_rng(1).integers(20, 50_000, 5).tolist()[3:],
    ]


def test_a_named_model_counts_by_the_tokenizer_of_its_repository(monkeypatch, tiny_model):
    from pagecli.cli.profile.workload import _tokenizer

    model, asked = tiny_model("llama"), []

    def download(hub_id, with_weights):
        asked.append((hub_id, with_weights))
        return model

    monkeypatch.setattr("pagecli.model.hub.download", download)
    text = "the quick brown fox"
    assert _tokenizer("opt-13b").encode(text) == _tokenizer(str(model)).encode(text)
    assert asked == [("facebook/opt-13b", False)]
