"""Prompts from columns on the command line: what the model is given, what is refused before it loads, the identity."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS = [{"id": f"r{i}", "review": f"the quick brown fox {i}", "stars": i % 5} for i in range(6)]
TEMPLATE = "Review: {{ review }} ({{ stars }})"
EXAMPLES = [{"review": "A dog.", "stars": 1, "completion": "bad"}, {"review": "A fox.", "stars": 5, "completion": "good"}]


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def texts(path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


@pytest.fixture
def shown(generate):
    """shown(rows, *flags) -> the first prompts as --dry-run shows them."""

    def run(rows, *flags) -> list[str]:
        code, out, err = generate(rows, "out.jsonl", "--dry-run", "--quiet", *flags)
        assert code == 0, err
        blocks = out.split("\nprompt of ")[1:]
        return ["\n".join(line.removeprefix("    ") for line in block.splitlines()[1:]) for block in blocks]

    return run


@pytest.mark.slow
def test_a_template_makes_the_prompts_that_the_columns_would(generate, tmp_path):
    flags = ("--temperature", "1", "--quiet")
    plain = [{**row, "prompt": f"Review: {row['review']} ({row['stars']})"} for row in ROWS]
    assert generate(plain, "plain.jsonl", *flags)[0] == 0
    assert generate(ROWS, "made.jsonl", *flags, "--template", TEMPLATE)[0] == 0
    (tmp_path / "template.txt").write_text(TEMPLATE + "\n")
    pq.write_table(pa.Table.from_pylist(ROWS[::-1]), tmp_path / "reversed.parquet")
    batch = ("--max-num-seqs", "2", "--threads", "2")
    assert generate("reversed.parquet", "again.jsonl", *flags, *batch, "--template-file", "template.txt")[0] == 0
    assert texts(tmp_path / "made.jsonl") == texts(tmp_path / "plain.jsonl") == texts(tmp_path / "again.jsonl")[::-1]
    assert len(set(texts(tmp_path / "made.jsonl"))) > 3


@pytest.mark.slow
def test_dry_run_shows_the_first_three_prompts_with_their_special_tokens(shown):
    prompts = shown(ROWS, "--chat", "--system", "Be brief.", "--template", TEMPLATE)
    turn = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nReview: the quick brown fox {0} ({0})<|im_end|>\n"
    assert prompts == [turn.format(i) + "<|im_start|>assistant\n" for i in range(3)]


def test_a_system_message_comes_from_a_file(shown, tmp_path):
    (tmp_path / "system.txt").write_text("Be\nbrief.\n")
    assert "system\nBe\nbrief.<|im_end|>" in shown(ROWS[:1], "--chat", "--system-file", "system.txt", "--template", TEMPLATE)[0]


@pytest.mark.slow
def test_examples_are_turns_of_a_chat_after_the_system_message(shown, tmp_path):
    (tmp_path / "shots.jsonl").write_text(lines(EXAMPLES))
    [prompt] = shown(ROWS[:1], "--chat", "--system", "S", "--template", "{{ review }}", "--few-shot", "shots.jsonl")
    turns = [("system", "S"), ("user", "A dog."), ("assistant", "bad"), ("user", "A fox."), ("assistant", "good")]
    turns.append(("user", ROWS[0]["review"]))
    assert prompt == "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + "<|im_start|>assistant\n"
    chat = [{"messages": [{"role": "system", "content": "Own"}, {"role": "user", "content": "Hi"}]}]
    (tmp_path / "plain.csv").write_text("prompt,completion\nA dog.,bad\n")
    [prompt] = shown(chat, "--chat", "--few-shot", "plain.csv")
    assert prompt.index("Own") < prompt.index("A dog.") < prompt.index("bad") < prompt.index("Hi")


def test_examples_are_text_without_a_chat_template(shown, tmp_path):
    (tmp_path / "shots.csv").write_text('prompt,completion\nA dog:,bad\n"A fox: ",good\n')
    [prompt] = shown([{"prompt": "A cat:"}], "--few-shot", "shots.csv")
    assert prompt == "A dog: bad\n\nA fox: good\n\nA cat:"


@pytest.mark.slow
def test_a_chat_template_gets_variables_from_flags_and_rows(shown, generate, tiny_model, tmp_path, monkeypatch):
    model = tmp_path / "thinker"
    model.mkdir()
    for path in tiny_model("llama").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}[{{ enable_thinking }} {{ level | default('-') }}]"
    )
    rows = [{"prompt": "a"}, {"prompt": "b", "chat_template_kwargs": {"enable_thinking": True, "level": None}}]
    rows.append({"prompt": "c", "chat_template_kwargs": '{"level": "high"}'})
    flags = ("--chat", "--model", str(model), "--chat-template-arg", "enable_thinking=false")
    assert shown(rows, *flags) == ["a[False -]", "b[True -]", "c[False high]"]
    body = {"messages": [{"role": "user", "content": "d"}], "chat_template_kwargs": {"enable_thinking": True}}
    assert shown([{"custom_id": "1", "url": "/v1/chat/completions", "body": body}], *flags) == ["d[True -]"]
    bad = [{"prompt": "a", "chat_template_kwargs": value} for value in ("{oops", [1], {"tokenize": True})]
    assert generate(bad, "bad.jsonl", *flags, "--quiet")[0] == 5
    errors = [json.loads(line)["error"] for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert ["no JSON" in errors[0], "not an object" in errors[1], "no variable" in errors[2]] == [True] * 3


@pytest.mark.slow
def test_messages_as_text_are_read_as_json_in_every_format(shown, generate, tmp_path):
    messages = json.dumps([{"role": "user", "content": "Hi"}])
    pq.write_table(pa.table({"messages": [messages]}), tmp_path / "in.parquet")
    expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    for rows in ("in.parquet", [{"messages": messages}]):
        assert shown(rows, "--chat") == [expected]
    code, _, _ = generate([{"messages": "[{"}], "out.jsonl", "--chat", "--quiet")
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert (code, row["error_code"]) == (5, "invalid_type")
    assert "column messages is text that is no JSON" in row["error"]


def test_rows_without_a_column_are_error_rows_and_a_column_that_is_nowhere_is_refused(generate, tmp_path):
    code, _, err = generate(ROWS, "out.jsonl", "--template", "{{ reviw }}")
    assert code == 3
    assert "has no column reviw; it has id, review, stars" in err
    assert "hint: did you mean review? --template needs it" in err
    code, _, _ = generate([ROWS[0], {"id": "x", "stars": 1}, {"review": None}], "out.jsonl", "--template", "{{ review }}")
    found = [json.loads(line)["error_code"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert (code, found) == (5, [None, "missing_prompt", "missing_prompt"])


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--template", "{{ a"), 2, "--template is no template: line 1"),
        (("--template", "a", "--template-file", "f.txt"), 2, "--template and --template-file are both given"),
        (("--system", "a", "--system-file", "f.txt"), 2, "--system and --system-file are both given"),
        (("--template", "a", "--prompt-column", "review"), 2, "--template and --prompt-column are both given"),
        (("--template-file", "none.txt"), 3, "--template-file none.txt cannot be read: No such file"),
        (("--system-file", "latin1.txt"), 3, "is not UTF-8"),
        (("--few-shot", "none.jsonl"), 3, "none.jsonl: no such file"),
        (("--few-shot", "f.jsonl"), 3, "--few-shot f.jsonl, line 1: column completion is missing or no text"),
        (("--few-shot", "g.jsonl"), 3, "--few-shot g.jsonl, line 1: has no prompt"),
        (("--few-shot", "empty.jsonl"), 3, "has no example"),
        (("--chat-template-arg", "thinking"), 2, "is no NAME=VALUE"),
        (("--chat-template-arg", "tokenize=true"), 2, "is no variable of a template"),
        (("--chat-template-arg", "a=1", "--chat-template-arg", "a=2"), 2, "names a twice"),
        (("--stats", "f.txt", "--template-file", "f.txt"), 2, "--stats f.txt is a file that is read: --template-file"),
    ],
)
def test_wrong_flags_say_what_and_where_before_the_model_is_loaded(generate, tmp_path, flags, code, says):
    (tmp_path / "f.txt").write_text("text")
    (tmp_path / "latin1.txt").write_bytes(b"\xe9")
    (tmp_path / "f.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "g.jsonl").write_text('{"completion": "a"}\n')
    (tmp_path / "empty.jsonl").write_text("")
    found, _, err = generate([{"prompt": "a"}], "out.jsonl", *flags)
    assert (found, says in err) == (code, True), err


@pytest.mark.slow
def test_every_part_of_a_prompt_belongs_to_the_jobs_identity(generate, tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(EXAMPLES))
    (tmp_path / "b.jsonl").write_text(lines(EXAMPLES[:1]))
    rows = [*ROWS, {"id": "bad", "review": 1, "stars": 1, "max_tokens": -1}]
    base = {"--template": "{{ review }}", "--few-shot": "a.jsonl", "--chat-template-arg": "x=1", "--system": "S"}
    run = ["--chat", "--on-error", "stop", "--quiet"]
    assert generate(rows, "out.jsonl", *run, *[part for pair in base.items() for part in pair])[0] == 5
    assert not (tmp_path / "out.jsonl").exists()
    changes = {"--template": "{{ review }}!", "--few-shot": "b.jsonl", "--chat-template-arg": "x=2", "--system": "T"}
    for flag, value in changes.items():
        changed = base | {flag: value}
        code, _, err = generate(rows, "out.jsonl", *run, *[part for pair in changed.items() for part in pair])
        assert (code, f"what differs: {flag} (" in err) == (2, True), err
    resumed = [part for pair in base.items() for part in pair]
    assert generate(rows, "out.jsonl", "--chat", "--quiet", *resumed)[0] == 5
    assert len(texts(tmp_path / "out.jsonl")) == len(rows)
