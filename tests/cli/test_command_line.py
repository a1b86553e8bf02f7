"""The command line without a model: help, version, how quickly, and what is said of wrong usage."""

import os
import re
import resource
import subprocess
import sys
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from pagecli.cli.app import main
from pagecli.cli.commands import COMMANDS, app
from pagecli.cli.generate.options import parse_memory_size
from pagecli.cli.terminal.console import Console
from pagecli.cli.terminal.help import group_name
from pagecli.errors import UsageError

PROGRAM = [sys.executable, "-m", "pagecli"]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def pagecli(monkeypatch, capfd):
    """pagecli(*args) -> what the program, run in this process, says and ends with"""
    monkeypatch.delenv("PAGECLI_MODEL", raising=False)

    def run(*args: object) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, args)])
        return Ended(ended.value.code, *capfd.readouterr())

    return run


def test_version_goes_to_stdout(pagecli):
    done = pagecli("--version")
    assert (done.code, done.out.split()[0], done.err) == (0, "pagecli", "")


@pytest.mark.parametrize("args", [["--help"], ["-h"], []])
def test_overview_names_the_commands_a_line_each(pagecli, args):
    done = pagecli(*args)
    shown, silent = (done.out, done.err) if args else (done.err, done.out)
    assert (done.code, silent) == (0 if args else 2, "")
    lines = shown.splitlines()
    assert lines[0] == "usage: pagecli [OPTIONS] COMMAND [ARGS]..."
    for command in ("generate", "score", "profile", "status", "merge", "doctor", "config"):
        assert any(line.startswith(f"  {command} ") for line in lines)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("generate in.jsonl", "Missing argument 'OUTPUT'"),
        ("status --json", "Missing argument 'OUTPUT'"),
        ("merge --quiet", "Missing argument 'PART... OUTPUT'"),
        ("profile", "Missing option '--model' / '-m' (env var: 'PAGECLI_MODEL')"),
    ],
)
def test_a_command_without_what_it_needs_says_what_and_shows_its_usage(pagecli, command, says):
    done = pagecli(*command.split())
    command = command.split()[0]
    assert (done.code, done.out) == (2, "")
    error, hint = done.err.splitlines()
    assert error == f"error: {says}"
    assert hint.startswith(f"hint: usage: pagecli {command} ")
    assert hint.endswith(f"; see pagecli {command} --help")


def help_of(command: str, width: int, monkeypatch, capsys) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main([*command.split(), "--help=all" if command else "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("command", ["", "generate", "score", "profile", "status", "merge", "models", "doctor", "config"])
def test_help_cuts_no_flag_and_no_number_at_any_width(command, width, monkeypatch, capsys):
    """Every name, choice, default and word of the help texts is whole, and no line is longer than the terminal."""
    text = help_of(command, width, monkeypatch, capsys)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "\x1b" not in text
    found = get_command(app)
    parameters = (found.commands[command] if command else found).params
    words = set(re.split(r"[\s\[\],;|]+", text))
    for parameter in parameters:
        for name in (*parameter.opts, *parameter.secondary_opts):
            assert not name.startswith("-") or name in words, name
        for word in re.split(r"[\s\[\],;|]+", getattr(parameter, "help", None) or ""):
            assert word in words, word
        if isinstance(parameter.default, (int, float)) and not isinstance(parameter.default, bool):
            assert str(parameter.default) in words


def test_a_command_of_many_flags_shows_its_most_used_ones_first_and_where_the_others_are(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in (["generate", "--help"], ["help", "generate"], ["generate"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        assert ended.value.code == (0 if len(arguments) == 2 else 2)
        text = said.out or said.err
        assert len(text.splitlines()) < 50
        assert "--max-tokens N" in text
        assert "--swap-memory" not in text
        assert "--help=all" in text
        assert "pagecli generate in.jsonl out.parquet" in text


@pytest.mark.parametrize("command", ["generate", "profile"])
def test_the_groups_of_flags_together_are_all_flags(command, monkeypatch, capsys):
    whole = help_of(command, 80, monkeypatch, capsys)
    groups = [group_name(line.rstrip(":")) for line in whole.splitlines() if re.fullmatch(r"[A-Z][a-z ]+:", line)]
    assert "sampling" in groups or command == "profile"
    shown = ""
    for group in groups:
        with pytest.raises(SystemExit):
            main([command, f"--help={group}"])
        shown += capsys.readouterr().out
    flags = r"(?m)^  (?:-\w, )?--[\w-]+"
    assert re.findall(flags, shown) == re.findall(flags, whole)


def test_an_unknown_group_of_flags_or_command_names_those_there_are(capsys):
    for arguments, named in ((["generate", "--help=nonsense"], "sampling"), (["help", "nonsense"], "pagecli --help")):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert named in capsys.readouterr().err


def test_bounds_are_said_in_words(monkeypatch, capsys):
    assert not re.search(r"<\w+ range>|<=|x>", help_of("generate", 80, monkeypatch, capsys))


_FILES = ["in.jsonl", "out.jsonl", "-m", "x"]
GIVEN = {"generate": _FILES, "score": _FILES, "profile": ["-m", "x"], "merge": ["a", "b"]}


def wrong_values() -> list[tuple[str, str, str]]:
    """(command, flag, value) for every flag that does not take every text."""
    cases = []
    for command, found in get_command(app).commands.items():
        for option in found.params:
            if option.param_type_name == "option" and not getattr(option, "is_flag", False) and command != "config":
                cases += [(command, option.opts[0], value) for value in ("no-such-choice", "-99")]
    return cases


@pytest.mark.slow
def test_no_message_has_a_librarys_words(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    num_refused = 0
    for command, flag, value in wrong_values():
        given = GIVEN.get(command, ["x"])
        with pytest.raises(SystemExit) as ended:
            main([command, *given, f"{flag}={value}" if flag.startswith("--") else flag + value])
        said = capsys.readouterr().err
        assert ended.value.code != 1, (command, flag, value, said)
        assert not re.search(r"value error|input should|pydantic|assertion", said, re.IGNORECASE), said
        assert not any(not line.strip() or line == "error: " for line in said.splitlines()), said
        num_refused += ended.value.code == 2
    assert num_refused > 40


def test_help_of_generate_groups_every_flag_and_documents_exit_codes(monkeypatch, capsys):
    text = help_of("generate", 200, monkeypatch, capsys)
    for panel in ("Input and output", "Prompts", "Sampling", "Samples and beams", "Model", "Engine", "Reporting"):
        assert panel in text
    flags = (
        "--model --load-format --dtype --block-size --kv-memory --max-num-seqs --max-batch-tokens --max-model-len --threads "
    )
    flags += "--max-tokens --min-tokens --temperature --top-k --top-p --min-p --repetition-penalty --presence-penalty "
    flags += "--frequency-penalty --seed --stop --stop-token-id --ignore-eos --logprobs --prompt-logprobs --speculate "
    flags += "--prompt-column --system --chat "
    flags += "--n --best-of --beam-width --length-penalty --early-stopping --no-prefix-caching --preemption --swap-memory "
    flags += "--no-cuda-graphs --progress-json --metrics-file --log-file --log-json --no-config "
    flags += "--no-chat --token-ids --order --overwrite --stats --limit --quiet --verbose"
    for flag in flags.split():
        assert re.search(rf"(?<![\w-]){flag}(?![\w-])", text), flag
    assert "Exit codes" in text
    for code in ("0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "130", "143"):
        assert code in text.split("Exit codes")[1]


def cpu_seconds_of(command: list[str]) -> float:
    """The best of five, of the processor's time: a busy machine disturbs it least."""
    best = 60.0
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


@pytest.mark.slow
def test_version_and_help_are_quick_beside_python_itself():
    """0.03 s and 0.07 s where `python -c pass` takes 0.01 s."""
    bare = cpu_seconds_of([sys.executable, "-c", "pass"])
    assert cpu_seconds_of([*PROGRAM, "--version"]) < 5 * bare
    assert cpu_seconds_of([*PROGRAM, "--help"]) < 12 * bare


def modules_of(*args: str) -> set[str]:
    """What is imported by the end of a run of the program."""
    code = (
        f"import sys\nfrom pagecli.cli.app import main\ntry: main({list(args)})\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.split())


@pytest.mark.slow
def test_help_imports_nothing_slow():
    assert modules_of("--help").isdisjoint({"torch", "transformers", "pyarrow", "numpy", "rich"})
    assert modules_of("--version").isdisjoint({"typer", "logging", "ctypes"})


@pytest.mark.slow
def test_a_command_imports_no_other():
    homes = {f"pagecli.cli.{source.module}" for source in COMMANDS.values()}
    for args, expected in ([("--help",), set()], [("merge", "--help"), {"merge"}], [("status", "x"), {"status"}]):
        assert modules_of(*args) & homes == {f"pagecli.cli.{name}" for name in expected}


def test_the_programs_help_says_of_each_command_how_its_own_help_begins():
    commands = get_command(app).commands
    for name, source in COMMANDS.items():
        assert source.summary == " ".join(commands[name].help.split("\n\n")[0].split())


@pytest.mark.slow
@pytest.mark.parametrize(("args", "code"), [(["--version"], 0), (["generat"], 2)])
def test_the_end_is_quick_and_loses_nothing(args, code):
    """Objects are not taken apart one by one; what is registered for the end runs, what was said is written."""
    program = (
        "import atexit, os, sys\n"
        "from pagecli.cli.app import main\n"
        "class Slow:\n"
        "    def __del__(self): os.write(2, b'taken apart')\n"
        "kept = Slow()\n"
        "atexit.register(lambda: os.write(2, b'registered'))\n"
        "sys.stdout.write('said before ')\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert done.stdout.startswith("said before ")
    assert "registered" in done.stderr
    assert "taken apart" not in done.stderr


@pytest.mark.slow
def test_a_profiler_of_the_same_process_gets_to_write_what_it_saw():
    done = subprocess.run([sys.executable, "-m", "cProfile", "-m", "pagecli", "--version"], capture_output=True, text=True)
    assert "function calls" in done.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["generate", "in.jsonl", "out.jsonl"], "Missing option '--model'"),
        (["generate", "-m", "x", "in.jsonl"], "Missing argument"),
        (["generat"], "No such command 'generat'"),
        (["generate", "in.jsonl", "out.jsonl", "-m", "x", "--top_p", "1"], "No such option: --top_p"),
        (["generate", "in.jsonl", "out.jsonl", "-m", "x", "--max-tokens", "many"], "--max-tokens"),
        (["generate", "in.jsonl", "out.jsonl", "-m", "x", "--dtype", "int3"], "--dtype"),
        (["generate", "in.jsonl", "out.jsonl", "-m", "x", "--top-p", "2"], "--top-p is 2.0"),
        (["generate", "in.jsonl", "out.jsonl", "-m", "x", "--kv-memory", "lots"], "--kv-memory is 'lots', not a size"),
        (["generate", "in.jsonl", "out.jsonl", "-m", "x", "--block-size", "0"], "block_size is 0"),
        (["generate", "in.jsonl", "out.xlsx", "-m", "x"], "out.xlsx: unknown output format"),
        (["generate", "in.jsonl", "out.jsonl", "-m", "x", "--n", "0"], "--n is 0"),
        (["generate", "in.jsonl", "out.jsonl", "-m", "x", "--n", "3", "--best-of", "2"], "--best-of is 2"),
        (["generate", "in.jsonl", "out.jsonl", "-m", "x", "--n", "3", "--beam-width", "2"], "--n is 3"),
        (["generate", "in.jsonl", "out.jsonl", "-m", "x", "--beam-width", "2", "--temperature", "1"], "--temperature is 1.0"),
        (["generate", "in.jsonl", "out.jsonl", "-m", "x", "--early-stopping", "maybe"], "--early-stopping"),
        (["generate", "in.jsonl", "out.jsonl", "-m", "x", "--preemption", "swap"], "swap without --swap-memory"),
        (["generate", "in.jsonl", "out.jsonl", "-m", "x", "--swap-memory", "much"], "--swap-memory is 'much', not a size"),
        (["generate", "in.jsonl", ".", "-m", "x"], "unknown output format"),
    ],
)
def test_wrong_usage_is_one_line_with_a_hint_and_exit_code_2(pagecli, args, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = pagecli(*args)
    assert (done.code, done.out) == (2, ""), done.err
    error, hint = done.err.splitlines()
    assert error.startswith("error: ")
    assert says in error
    assert hint.startswith("hint: ")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["missing.jsonl", "out.jsonl"], 3, "missing.jsonl: no such file"),
        (["rows.xlsx", "out.jsonl"], 3, "unknown input format"),
        (["rows.jsonl", "none/out.jsonl"], 3, "none: no such directory"),
        (["rows.jsonl", "rows.jsonl"], 2, "OUTPUT rows.jsonl is a file that is read"),
        (["rows.jsonl", "out.jsonl", "--stats", "none/s.json"], 3, "none: no such directory"),
        (
            ["noprompt.parquet", "out.jsonl"],
            3,
            "noprompt.parquet has no column prompt, messages, prompt_token_ids; it has text",
        ),
    ],
)
def test_input_and_output_are_checked_before_any_model(pagecli, tmp_path, monkeypatch, args, code, says):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "rows.xlsx").write_text("prompt\na\n")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "noprompt.parquet")
    monkeypatch.chdir(tmp_path)
    done = pagecli("generate", *args, "--model", "no-such-model")
    assert done.code == code, done.err
    assert says in done.err
    assert "no-such-model" not in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize(("closed", "code"), [(1, 3), (2, 3), (0, 3)])
def test_closed_standard_descriptors_are_no_crash(tmp_path, closed, code):
    output = "-" if closed == 1 else "out.jsonl"
    command = f"{sys.executable} -m pagecli generate {'-' if closed == 0 else 'no.jsonl'} {output} -m x {closed}>&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "internal" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 4 * 2**30),
        ("512MB", 512 * 10**6),
        ("1.5g", 3 * 2**29),
        ("64 KiB", 2**16),
        ("100B", 100),
        ("auto", None),
        ("AUTO", None),
    ],
)
def test_memory_sizes(text, size):
    assert parse_memory_size("--kv-memory", text) == size


@given(st.text(max_size=10))
def test_memory_size_of_any_text_is_bytes_or_a_usage_error(text):
    try:
        size = parse_memory_size("--kv-memory", text)
    except UsageError:
        return
    assert size is None or size >= 1


def test_messages_stay_on_one_line_without_control_characters(capsys):
    Console().error("two\nlines \x1b[31m and \x07", "a\thint")
    assert capsys.readouterr().err == "error: two lines  [31m and  \nhint: a hint\n"
