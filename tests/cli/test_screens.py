"""Terminals of 60, 80 and 120 columns: no number and no flag is cut or broken, and nothing is too wide."""

import fcntl
import io
import os
import pty
import re
import shlex
import shutil
import struct
import sys
import termios
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console as RichConsole

from pagecli.cli.app import main
from pagecli.cli.generate.reporting import BarProgress, fitting_metrics
from pagecli.cli.profile.tables import Column, CommandLines, FittingTable
from pagecli.cli.terminal.console import Console, name_value_lines
from pagecli.core.engine_config import EngineConfig
from pagecli.engine.engine import Engine
from pagecli.jobs.monitoring.monitor import JobSnapshot
from pagecli.profiler.plan import local_device, measured_rates

WIDTHS = [60, 80, 120]


def words_of(text: str) -> set[str]:
    """Numbers with their units' signs, and flags; list layouts put commas behind them."""
    return {word.strip(".,;:()") for word in text.split() if re.search(r"\d", word) or word.startswith("--")}


def printed(part, width: int) -> str:
    screen = io.StringIO()
    RichConsole(file=screen, width=width, highlight=False).print(part)
    return screen.getvalue()


@pytest.mark.parametrize(
    "flags",
    [
        "-m opt-13b --gpu a100-40gb --num-requests 12 --compare --block-sizes 1,16",
        "-m llama-3.1-8b --gpu l4 --num-requests 12 --policies paged,reserve-oracle/static",
        "-m smollm2-135m --num-requests 12 --workload alpaca",
        "-m opt-175b --gpu t4",
        "-m smollm2-135m --num-requests 12 --all",
    ],
)
def test_a_profile_says_the_same_at_every_width(flags, monkeypatch, capsys):
    monkeypatch.setenv("PAGECLI_CPU_ISA", "avx2")
    monkeypatch.setattr(local_device, "available_bytes", lambda: 20 * 2**30)
    monkeypatch.setattr(measured_rates, "_measure_host", lambda: None)

    def shown(columns: int) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit):
            main(["profile", *flags.split()])
        return capsys.readouterr().out

    wide = words_of(shown(400))
    for width in WIDTHS:
        text = shown(width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        assert wide <= words_of(text), width


@pytest.mark.parametrize("flags", ["-m opt-125m", "-m opt-13b --gpu a100-80gb", "-m opt-13b --gpu a100-40gb --workload alpaca"])
def test_the_papers_figures_stand_only_beside_a_plan_of_its_model_and_gpu(flags, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        main(["profile", *flags.split(), "--num-requests", "10", "--compare"])
    out = capsys.readouterr().out
    is_papers = "a100-40gb" in flags
    assert ("Orca" in out) == ("A100-40GB" in out) == ("SOSP" in out) == is_papers


names = st.text("abc,-d 0", min_size=1, max_size=20).map(str.strip).filter(bool)
numbers = st.integers(0, 10**9).map(lambda n: f"{n:,}")
texts = st.lists(st.text("abc0123--", min_size=1, max_size=9), max_size=8).map(" ".join)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(names, numbers, numbers, texts, numbers), min_size=1, max_size=4),
    width=st.integers(34, 140),
)
def test_a_table_of_any_content_is_whole_at_any_width(rows, width):
    columns = [Column("name", "name"), Column("first\nnumber"), Column("second"), Column("note", "text"), Column("third")]
    text = printed(FittingTable(columns, rows, "A table"), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for _, *values, note, last in rows:
        for word in (*values, last, *note.split()):
            assert any(re.search(rf"(?<![\w,-]){re.escape(word)}(?!\w|,\w)", line) for line in lines), word


@pytest.mark.slow
@given(
    parts=st.lists(st.from_regex(r"--[a-z-]{3,20} [a-z0-9]{1,12}", fullmatch=True), max_size=8),
    width=st.integers(45, 150),
)
def test_a_command_over_several_lines_is_the_same_command(parts, width):
    lines = CommandLines(["pagecli generate INPUT OUTPUT", *parts]).lines(width)
    assert max(map(len, lines)) <= width
    assert re.sub(r" \\\n +", " ", "\n".join(lines)) == " ".join(["pagecli generate INPUT OUTPUT", *parts])


@pytest.mark.slow
@given(
    pairs=st.lists(st.tuples(st.text("ab c", max_size=10), st.lists(numbers, max_size=9).map(" of ".join)), max_size=5),
    width=st.integers(40, 100),
)
def test_values_are_broken_between_words_only_and_on_terminals_only(pairs, width):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        lines = name_value_lines(pairs, Terminal())
    assert max(map(len, lines), default=0) <= width
    assert [word for line in lines for word in line.split()] == [word for pair in pairs for word in " ".join(pair).split()]
    assert len(name_value_lines(pairs, io.StringIO())) == len(pairs)


@given(
    name=st.text(st.characters(codec="utf-8") | st.sampled_from("\x1b\x07\r\n\x9b\udcff"), max_size=9).map(lambda x: x + "a")
)
def test_names_of_files_and_models_move_no_cursor(name):
    bar = BarProgress(Console())
    bar.on_event("start", JobSnapshot(model=name))
    bar.on_loading(1, 2)
    for shown in (*name_value_lines([("output", name)], io.StringIO()), bar.description):
        assert shown.isprintable()
        shown.encode("utf-8")


@given(
    job=st.builds(
        JobSnapshot,
        num_error_rows=st.integers(0, 99),
        num_running=st.integers(0, 999),
        num_waiting=st.integers(0, 999),
        kv_usage=st.floats(0, 1),
        eta_seconds=st.just(78.0),
    ),
    room=st.integers(0, 80),
)
def test_the_progress_bar_leaves_figures_out_rather_than_cut_them(job, room):
    whole, text = fitting_metrics(job, 1000).split("  "), fitting_metrics(job, room)
    assert len(text) <= max(room, len("1:18 left"))
    assert set(filter(None, text.split("  "))) <= set(whole)
    assert "1:18 left" in text
    assert not ("KV" in text and "running" not in text)


def on_a_terminal(command: list[str], columns: int, cwd) -> list[tuple[float, str]]:
    """(seconds since the start, text) of each piece that the program writes to a terminal of so many columns."""
    process, screen = pty.fork()
    if process == 0:
        os.chdir(cwd)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"TERM": "xterm"}
        os.execve(sys.executable, [sys.executable, "-m", "pagecli", *command], environment)
    started, pieces = time.monotonic(), []
    while True:
        try:
            piece = os.read(screen, 65536)
        except OSError:  # its end, on Linux
            break
        pieces.append((time.monotonic() - started, piece.decode()))
    os.close(screen)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, pieces
    return pieces


@pytest.mark.slow
def test_a_job_on_a_narrow_terminal_says_what_it_does_from_its_start_to_its_end(tiny_model, tmp_path):
    """`starting` comes before what takes long to import, then rows with the time left, and the summary."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "a b c"}\n' * 3000)
    command = ["generate", "in.jsonl", "out.jsonl", "--no-chat", "--max-tokens", "20", "--ignore-eos", "--max-num-seqs", "2"]
    pieces = on_a_terminal([*command, "-m", str(tiny_model("llama")), "--kv-memory", "8MiB"], 60, tmp_path)
    assert pieces[0][1].startswith("starting\r")
    text = "".join(piece for _, piece in pieces)
    bar = [re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", line).strip() for line in re.split(r"[\r\n]", text)]
    rows = [line for line in bar if re.search(r"\d+/~?3000 rows", line)]
    assert rows
    assert all(line.endswith(" left") or "errors" in line for line in rows)
    assert max(map(len, bar)) <= 60
    assert "output tokens/s" in text


def test_the_bar_says_how_much_of_the_model_is_loaded_and_reading_until_the_rows_are_counted(tiny_model):
    bar = BarProgress(Console())
    bar.on_event("start", JobSnapshot(model="/models/of/mine/llama"))
    shown = []
    Engine(EngineConfig(str(tiny_model("llama")), kv_memory_bytes=2**20), on_loading=lambda *read: shown.append(read))
    for read in shown:
        bar.on_loading(*read)
    assert [read / of for read, of in shown] == sorted({read / of for read, of in shown})  # it grows to the whole
    assert shown[-1][0] == shown[-1][1]
    assert bar.description == "loading llama 100%"
    bar.on_event("progress", JobSnapshot(num_rows=17))
    assert bar.description == "17 rows, reading"
    bar.on_event("progress", JobSnapshot(num_rows=17, num_rows_total=120, total_is_exact=True))
    assert bar.description == "17/120 rows"


def test_a_message_of_any_length_is_a_line_that_can_be_read(capsys):
    """Its beginning says where and its end why, whatever a damaged file has for a name."""
    Console().error(f"model.safetensors: no tensor {'x' * 100_000}\n.weight", "y" * 100_000)
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: model.safetensors: no tensor xxx")
    assert error.endswith("xxx .weight")
    assert hint.startswith("hint: yyy")
    assert max(map(len, (error, hint))) < 4000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["my model", "it's", "a;b"])
@pytest.mark.parametrize("flags", [(), ("--engine", "vllm", "--gpu", "a100-40gb")])
def test_a_command_to_copy_is_one_for_a_shell(tmp_path, monkeypatch, capsys, tiny_model, name, flags):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(measured_rates, "_measure_host", lambda: None)
    shutil.copytree(tiny_model("llama"), name)
    with pytest.raises(SystemExit):
        main(["profile", "--model", name, *flags, "--num-requests", "2", "--no-replay"])
    begun = "vllm serve" if "vllm" in flags else "pagecli generate"
    printed = capsys.readouterr().out
    words = shlex.split(printed[printed.index(begun) :].split("\n\n")[0])
    assert name in words
