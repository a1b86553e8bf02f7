"""pagecli as a library: the rows that the command line writes, lazily, of any source, without touching the process."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from typing import get_type_hints

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pagecli
from pagecli.api.settings import GenerateSettings
from pagecli.cli.app import main
from pagecli.cli.generate.options import GenerateOptions

ROWS = [{"id": f"r{i}", "prompt": f"the quick brown fox {i}", "kind": i % 3} for i in range(12)]
ENGINE = {"kv_memory": "8MiB", "threads": 1}
SETTINGS = {"max_tokens": 6, "chat": False, "temperature": 1.0, "seed": 7}


@pytest.fixture(scope="module")
def llm(tiny_model):
    return pagecli.LLM(str(tiny_model("llama")), **ENGINE)


@pytest.fixture(scope="module")
def expected(tiny_model, tmp_path_factory):
    """What the command line writes of the rows."""
    folder = tmp_path_factory.mktemp("expected")
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    command = ["generate", str(folder / "in.jsonl"), str(folder / "out.jsonl"), "-m", str(tiny_model("llama")), "--no-chat"]
    command += ["--max-tokens", "6", "--temperature", "1", "--seed", "7", "--quiet", "--kv-memory", "8MiB"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pagecli.cli.generate.run.quieten", lambda *args, **settings: None)
        with pytest.raises(SystemExit) as ended:
            main(command)
    assert ended.value.code == 0
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


def test_the_library_yields_what_the_command_line_writes(llm, expected):
    assert list(llm.generate(ROWS, **SETTINGS)) == expected
    assert list(llm.generate(ROWS[::-1], **SETTINGS))[::-1] == expected  # the same row, the same text
    assert list(llm.generate(iter(ROWS[3:4]), **SETTINGS)) == expected[3:4]


def test_one_call_loads_a_model_of_its_own(tiny_model, expected):
    assert list(pagecli.generate(ROWS[:3], model=str(tiny_model("llama")), **ENGINE, **SETTINGS)) == expected[:3]


def test_tables_frames_and_paths_are_rows_too(llm, expected, tmp_path):
    pandas = pytest.importorskip("pandas")
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "in.parquet")
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=5))
    sources = (
        table,
        table.to_batches()[0],
        reader,
        pandas.DataFrame(ROWS),
        tmp_path / "in.parquet",
        str(tmp_path / "in.parquet"),
    )
    for rows in sources:
        assert list(llm.generate(rows, **SETTINGS)) == expected, type(rows)
    assert list(llm.generate(table, where="kind == 1", **SETTINGS)) == [row for row in expected if row["kind"] == 1]
    assert list(llm.generate(table, limit=2, **SETTINGS)) == expected[:2]


def test_texts_are_prompts_and_bad_rows_are_error_rows(llm):
    rows = ["the quick", {"prompt": 1}, 5, {"prompt": "brown", "max_tokens": 2}, {1: "x"}]
    found = list(llm.generate(rows, **SETTINGS))
    assert [row["error_code"] for row in found] == [None, "invalid_type", "invalid_type", None, "invalid_type"]
    assert [row["id"] for row in found] == [0, 1, 2, 3, 4]
    assert found[3]["output_tokens"] == 2


def test_rows_are_read_as_they_are_taken(llm):
    read = []

    def endless():
        for i in range(10**9):
            read.append(i)
            yield {"prompt": f"row {i}"}

    call = llm.generate(endless(), max_tokens=2, chat=False)
    assert [next(call)["id"] for _ in range(5)] == [0, 1, 2, 3, 4]
    call.close()
    assert len(read) < 5000
    assert not [thread for thread in threading.enumerate() if thread.name == "pagecli-reader"]
    assert llm.stats()["num_requests"] > 0
    assert len(list(llm.generate(["again"], max_tokens=2, chat=False))) == 1


def test_two_calls_of_one_model_at_a_time_are_refused_until_the_first_is_closed(llm, expected):
    first = llm.generate(ROWS, **SETTINGS)
    next(first)
    with pytest.raises(pagecli.UsageError, match="not all taken"):
        llm.generate(ROWS, **SETTINGS)
    first.close()
    assert list(llm.generate(ROWS, **SETTINGS)) == expected
    forgotten = llm.generate(ROWS, **SETTINGS)
    next(forgotten)
    del forgotten
    assert list(llm.generate(ROWS, **SETTINGS)) == expected


def test_what_is_wrong_is_raised_by_the_call_itself(llm, tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_token'; did you mean 'max_tokens'"):
        llm.generate(ROWS, max_token=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'output'"):
        pagecli.generate(ROWS, model="x", output="y")
    with pytest.raises(pagecli.UsageError, match="--temperature is -1"):
        llm.generate(ROWS, temperature=-1)
    with pytest.raises(pagecli.UsageError, match="rows are of type dict"):
        llm.generate({"prompt": "a"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "in.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(pagecli.UsageError, match="rows are of type NoneType"):
        llm.generate(None)
    with pytest.raises(pagecli.InputError, match="no such file"):
        llm.generate(tmp_path / "none.jsonl")
    with pytest.raises(pagecli.ModelError, match="no model 'no-such-model'"):
        pagecli.LLM("no-such-model")
    with pytest.raises(pagecli.InputError, match="has no column prompt"):
        list(llm.generate([{"text": "a"}]))


def test_a_stream_that_is_named_twice_is_refused_as_on_the_command_line(llm):
    """Whoever read it first would leave nothing to the other."""
    read_end, write_end = os.pipe()
    os.close(write_end)
    stream = f"/dev/fd/{read_end}"
    with pytest.raises(pagecli.UsageError, match=f"INPUT {stream} and --few-shot {stream} are one stream"):
        llm.generate(stream, few_shot=stream)
    os.close(read_end)


def test_an_exception_of_the_callers_own_rows_reaches_it_and_the_model_stays(llm, expected):
    def broken():
        yield ROWS[0]
        raise LookupError("the caller's own")

    with pytest.raises(LookupError, match="the caller's own"):
        list(llm.generate(broken(), **SETTINGS))
    assert list(llm.generate(ROWS, **SETTINGS)) == expected


def test_a_step_that_is_interrupted_leaves_the_model_usable(llm, expected, monkeypatch):
    from pagecli.engine.engine import Engine

    take, left = Engine._take_step, [3]

    def interrupted(self):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return take(self)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_take_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(llm.generate(ROWS, **SETTINGS))
    assert list(llm.generate(ROWS, **SETTINGS)) == expected


def test_nothing_of_the_process_is_changed(llm, capfd):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    before = (handlers, signal.set_wakeup_fd(-1), sys.stdout, sys.stderr, logging.root.manager.disable, sys.getswitchinterval())
    call = llm.generate(ROWS, **SETTINGS)
    next(call)
    print("seen at once", flush=True)
    assert capfd.readouterr().out == "seen at once\n"
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    now = (handlers, signal.set_wakeup_fd(-1), sys.stdout, sys.stderr, logging.root.manager.disable, sys.getswitchinterval())
    assert now == before
    list(call)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_ctrl_c_ends_a_call_in_the_middle(tiny_model):
    code = (
        "import os, signal, sys, threading, pagecli\n"
        f"llm = pagecli.LLM({str(tiny_model('llama'))!r}, kv_memory='8MiB')\n"
        "timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))\n"
        "try:\n"
        "    timer.start()\n"
        "    for row in llm.generate(iter(lambda: 'a', 0), max_tokens=200, ignore_eos=True, chat=False): pass\n"
        "except KeyboardInterrupt:\n"
        "    print(len(list(llm.generate(['b', 'c'], max_tokens=3, chat=False))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


@pytest.mark.slow
def test_importing_pagecli_loads_none_of_it():
    code = (
        "import sys, pagecli; print(sorted(name for name in sys.modules if name.startswith(('pagecli.', 'numpy', 'pyarrow'))))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
    assert {"generate", "LLM", "profile_plan"} <= set(dir(pagecli))
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        pagecli.generat  # noqa: B018


# Flags that are about files, the terminal and the job beside an output: what calls from Python have no use for.
COMMAND_LINE_ONLY = {
    *("input", "output", "model", "overwrite", "output_format", "compression", "row_group_rows", "max_row_bytes", "order"),
    *(
        "shard",
        "dry_run",
        "template_file",
        "system_file",
        "restart",
        "journal",
        "partial",
        "retry_errors",
        "on_error",
        "max_error_rate",
    ),
    *("stats", "profile", "progress_json", "metrics_file", "log_file", "log_json", "no_config", "quiet", "verbose"),
    *("workers", "ray", "ray_port", "allow_mixed_hardware", "worker_timeout", "kv_policy", "batching", "chat_template_arg"),
}


def test_the_typed_settings_are_flags():
    flags = {field.name for field in dataclasses.fields(GenerateOptions)}
    assert set(get_type_hints(GenerateSettings)) == flags - COMMAND_LINE_ONLY | {"chat_template_kwargs"}


def test_chat_template_variables_and_lists_are_given_as_python_values(llm, tiny_model):
    found = list(
        llm.generate(["a"], chat_template_kwargs={"enable_thinking": False}, stop="e", early_stopping=True, max_tokens=4)
    )
    assert found[0]["error"] is None
    with pytest.raises(pagecli.UsageError, match="tokenize"):
        llm.generate(["a"], chat_template_kwargs={"tokenize": True})


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("max_tokens", "5", "int"),
        ("max_tokens", 2.5, "int"),
        ("max_tokens", True, "int"),
        ("max_tokens", None, "int"),
        ("chat", "no", "bool or None"),
        ("temperature", "hot", "float or None"),
        ("stop", [1], "str, a list of str or None"),
        ("stop", {"a": 1}, "str, a list of str or None"),
        ("stop_token_id", ["a"], "int, a list of int or None"),
        ("order", 5, None),
        ("too_long", "cut", "error, truncate-left, truncate-right"),
        ("chat_template_kwargs", {1: 2}, "a dict or None"),
        ("template", b"{{ a }}", "str or None"),
        ("few_shot", 3, "str or None"),
        ("json_schema", {}, "str or None"),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_call_itself(llm, name, value, wanted):
    with pytest.raises(TypeError if wanted is None else pagecli.UsageError) as caught:
        llm.generate(ROWS, **{name: value})
    assert name in str(caught.value)
    assert wanted is None or caught.value.hint == f"give {wanted}"


def test_paths_tuples_and_numbers_of_numpy_are_values_too(tiny_model, llm, expected, tmp_path):
    own = pagecli.LLM(tiny_model("llama"), kv_memory=np.int64(8 << 20), threads=1)
    given = {**SETTINGS, "max_tokens": np.int32(6), "temperature": np.float32(1.0), "seed": np.uint64(7)}
    assert list(own.generate(ROWS, **given)) == expected
    (tmp_path / "schema.json").write_text('{"enum": ["yes", "no"]}')
    (tmp_path / "shots.jsonl").write_text('{"prompt": "one", "completion": "yes"}')
    for schema in (tmp_path / "schema.json", str(tmp_path / "schema.json")):
        (row,) = llm.generate(["two"], max_tokens=20, json_schema=schema, few_shot=tmp_path / "shots.jsonl", stop=("x",))
        assert json.loads(row["text"]) in ("yes", "no")
    with pytest.raises(pagecli.UsageError, match="model is 5"):
        pagecli.LLM(5)


def test_a_number_that_its_flag_does_not_take_is_no_setting_either(llm):
    with pytest.raises(pagecli.UsageError, match="limit is -1") as caught:
        llm.generate(["a"], limit=-1)
    assert caught.value.hint == "give a number from 1"


def test_values_that_json_cannot_hold_are_error_rows(llm):
    deep = []
    for _ in range(3000):
        deep = [deep]
    rows = [{"prompt": "a", "id": {1: "x", "b": 2}}, {"prompt": "a", "id": {(1, 2): 3}}, {"prompt": "a", "x": deep}, "a"]
    found = list(llm.generate(rows, **SETTINGS))
    assert [row["error_code"] for row in found] == ["invalid_type", "invalid_type", "row_too_large", None]
    assert "column id is no JSON value" in found[0]["error"]


def test_of_calls_in_several_threads_one_runs_at_a_time(llm, expected):
    found, refused = [], []

    def call():
        for _ in range(10):
            try:
                found.append(list(llm.generate(ROWS, **SETTINGS)))
            except pagecli.UsageError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found
    assert all(rows == expected for rows in found)
    assert len(found) + len(refused) == 40


def test_a_model_is_not_closed_under_a_thread_that_takes_rows(tiny_model):
    own, answers = pagecli.LLM(str(tiny_model("llama")), **ENGINE), []

    def rows():
        yield "a"
        with pytest.raises(pagecli.UsageError, match="another thread is taking rows"):
            own.close()
        answers.append("refused")

    assert len(list(own.generate(rows(), **SETTINGS))) == 1
    assert answers == ["refused"]
    own.close()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_copy_of_the_process_refuses_its_model_and_leaves_that_of_the_first_alone(tiny_model, ranks):
    """fork(2) copies neither threads nor ranks; a copy that ends in the ordinary way must not end what it shares."""
    code = (
        "import os, pagecli\n"
        f"llm = pagecli.LLM({str(tiny_model('llama'))!r}, kv_memory='8MiB', threads=1, tensor_parallel_size={ranks})\n"
        "begun = llm.generate(iter(lambda: 'a', 0), max_tokens=2, chat=False)\n"
        "print(next(begun)['output_tokens'], flush=True)\n"
        "if os.fork() == 0:\n"
        "    for use in (lambda: list(begun), lambda: llm.generate(['b']), llm.stats):\n"
        "        try: use()\n"
        "        except pagecli.UsageError as error: print(error, flush=True)\n"
        "    llm.close()\n"
        "    raise SystemExit(7)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "begun.close()\n"
        "print(len(list(llm.generate(['b', 'c'], max_tokens=3, chat=False))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    refused = "the model was loaded by another process, of which this one is a copy"
    assert done.stdout.splitlines() == ["2", *[refused] * 3, "7", "2"], done.stderr
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("end", ["close", "with", "forget"])
def test_ranks_end_with_their_model(tiny_model, end):
    def ranks():
        running = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
        return [child for child in running if "pagecli.distributed.rank" in child.cmdline()]

    model = pagecli.LLM(str(tiny_model("llama")), tensor_parallel_size=2, dtype="float32", **ENGINE)
    assert len(ranks()) == 2
    assert len(list(model.generate(ROWS[:2], **SETTINGS))) == 2
    if end == "forget":
        del model
    elif end == "with":
        with model:
            pass
    else:
        unfinished = model.generate(ROWS, **SETTINGS)
        next(unfinished)
        model.close()
        model.close()
        assert list(unfinished) == []
        with pytest.raises(pagecli.UsageError, match="the model is closed"):
            model.generate(ROWS, **SETTINGS)
    assert not ranks()
