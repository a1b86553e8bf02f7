"""A wrong --prompt-column or --where is refused before the model is loaded, with the columns there are."""

import json
import os
import shlex
import shutil
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pagecli.errors import InputError, UsageError
from pagecli.jobs.prompts.row_prompts import RowPrompts
from pagecli.jobs.readers.open_input import MAX_ROWS, CheckedPrompts, open_input
from pagecli.jobs.rows.row_filter import check_condition, parse_condition

NAMES = ("prompt", "messages", "prompt_token_ids")
FORMATS = ["in.jsonl", "in.csv", "in.parquet"]


def write(path, rows: list[dict]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", FORMATS)
def test_an_input_without_a_prompt_is_refused_with_its_columns(tmp_path, name):
    source = open_input(write(tmp_path / name, [{"question": "a", "lang": "en"}] * 3))
    with pytest.raises(InputError, match="has no column prompt, messages, prompt_token_ids; it has question, lang") as caught:
        CheckedPrompts(source, NAMES, is_stream=False)
    assert "--prompt-column" in caught.value.hint
    source.close()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("column", ["question", "my question", "say-it", "it's"])
def test_the_template_that_a_hint_shows_takes_the_column(tmp_path, name, column):
    source = open_input(write(tmp_path / name, [{column: "a", "lang": "en"}]))
    with pytest.raises(InputError) as caught:
        CheckedPrompts(source, NAMES, is_stream=False)
    flags = shlex.split(caught.value.hint.partition("as with ")[2])
    assert RowPrompts(flags[1]).prompt({column: "a"}) == "Summarize: a"
    source.close()


@pytest.mark.parametrize(("name", "mark"), [("in.csv", ";"), ("in.csv", "|"), ("in.csv", "\t"), ("in.tsv", ",")])
def test_a_file_of_another_separator_is_told_by_it(tmp_path, name, mark):
    (tmp_path / name).write_text(f"prompt{mark}lang\na{mark}en\n")
    source = open_input(str(tmp_path / name))
    with pytest.raises(InputError) as caught:
        CheckedPrompts(source, NAMES, is_stream=False)
    assert f"its columns seem to have {mark!r} between them" in caught.value.hint
    source.close()


@pytest.mark.slow
@pytest.mark.parametrize("text", ['[\n{"prompt": "a"},\n{"prompt": "b"}\n]\n', '{\n"prompt": "a"}\n{\n"prompt": "b"}\n'])
def test_the_command_that_a_hint_shows_converts_the_file(tmp_path, text):
    if shutil.which("jq") is None:
        pytest.skip("there is no jq")
    path = tmp_path / "my rows.json"
    path.write_text(text)
    with pytest.raises(InputError, match="one JSON value") as caught:
        open_input(str(path))
    subprocess.run(["sh", "-c", caught.value.hint.removeprefix("convert it: ")], cwd=tmp_path, check=True)
    source = open_input(str(tmp_path / "converted.jsonl"))
    assert [row.columns["prompt"] for row in source] == ["a", "b"]
    source.close()


@pytest.mark.parametrize("name", FORMATS)
def test_an_input_with_a_prompt_keeps_every_row(tmp_path, name):
    source = CheckedPrompts(open_input(write(tmp_path / name, [{"prompt": str(i)} for i in range(300)])), NAMES, False)
    assert [row.columns["prompt"] for row in source] == [str(i) for i in range(300)]
    source.close()


def test_a_prompt_among_the_first_rows_is_enough_and_unreadable_rows_do_not_count(tmp_path):
    lines = ["oops", *[json.dumps({"x": 1})] * (MAX_ROWS - 2), json.dumps({"prompt": "a"})]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    assert len(list(CheckedPrompts(open_input(str(tmp_path / "in.jsonl")), NAMES, False))) == MAX_ROWS
    (tmp_path / "bad.jsonl").write_text("oops\n" * 3)
    assert len(list(CheckedPrompts(open_input(str(tmp_path / "bad.jsonl")), NAMES, False))) == 3
    (tmp_path / "none.jsonl").write_text("")
    assert list(CheckedPrompts(open_input(str(tmp_path / "none.jsonl")), NAMES, False)) == []


def test_requests_of_a_batch_file_say_themselves_what_is_wrong(tmp_path):
    path = write(tmp_path / "in.jsonl", [{"custom_id": "a", "body": {}}] * 2)
    assert [row.error is None for row in CheckedPrompts(open_input(path), ("question",), False)] == [False, False]


def test_a_pipe_is_looked_at_when_its_rows_come(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    keep_open = os.open(tmp_path / "pipe", os.O_RDWR)
    source = CheckedPrompts(open_input(str(tmp_path / "pipe")), NAMES, is_stream=True)
    os.write(keep_open, b'{"question": "a"}\n')
    os.close(keep_open)
    with pytest.raises(InputError, match="it has question"):
        list(source)
    source.close()


@pytest.mark.parametrize("name", ["in.csv", "in.parquet"])
@pytest.mark.parametrize(
    ("where", "says", "hint"),
    [
        ("langs == 'en'", "has no column langs", "did you mean lang?"),
        ("prompt == 'a' and not (lang == 'en' or zzz is null)", "has no column zzz", "it has prompt, lang"),
        ("zzz in (1, 2)", "has no column zzz", None),
    ],
)
def test_a_condition_on_a_column_that_is_not_there_is_refused(tmp_path, name, where, says, hint):
    source = open_input(write(tmp_path / name, [{"prompt": "a", "lang": "en"}]))
    with pytest.raises(UsageError, match=says) as caught:
        check_condition(parse_condition(where), source)
    assert hint is None or hint in caught.value.hint
    source.close()


def test_fields_of_nested_columns_are_known_too(tmp_path):
    source = open_input(write(tmp_path / "in.parquet", [{"prompt": "a", "deep": {"b": {"c": 1}}}]))
    for good in ("deep.b.c == 1", "deep is null", "prompt == 'a'"):
        check_condition(parse_condition(good), source)
    for bad, says in (("deep.x == 1", "deep.x"), ("deep.b.d == 1", "deep.b.d"), ("prompt.x == 1", "prompt.x")):
        with pytest.raises(UsageError, match=f"has no column {says}"):
            check_condition(parse_condition(bad), source)
    source.close()


def test_json_lines_may_have_any_column_later(tmp_path):
    source = open_input(write(tmp_path / "in.jsonl", [{"prompt": "a"}]))
    check_condition(parse_condition("zzz == 1"), source)
    source.close()
