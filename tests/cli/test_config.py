"""Settings: flag over environment over project's file over user's file over default; what is wrong is named with its place."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.main import get_command

from pagecli.cli.app import main
from pagecli.cli.commands import app
from pagecli.cli.flags.engine_and_sampling import SAMPLING_DEFAULTS
from pagecli.cli.settings import KeyLines, key_of, options_of, read_settings
from pagecli.errors import PagecliError


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty project directory as the current one, an empty home, no variables."""
    for name in os.environ:
        if name.startswith(("PAGECLI_", "XDG_")):
            monkeypatch.delenv(name)
    (tmp_path / "home" / ".config" / "pagecli").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "project")
    former = os.umask(0o022)  # with a group's right to write, the files below would be ignored
    yield tmp_path
    os.umask(former)


def project(text: str) -> None:
    with open("pagecli.toml", "w") as file:
        file.write(text)


def user(place, text: str) -> None:
    (place / "home" / ".config" / "pagecli" / "config.toml").write_text(text)


@pytest.fixture
def run(capsys):
    def run(*args) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*args])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def effective(run):
    def effective() -> dict[str, dict]:
        code, out, err = run("config", "--json")
        assert code == 0, err
        return json.loads(out)["settings"]

    return effective


@pytest.fixture
def job(run, monkeypatch):
    """job(*flags): what `pagecli generate` would run."""
    jobs = []
    monkeypatch.setattr("pagecli.cli.generate.run.run_generate", lambda job, console: jobs.append(job) or 0)

    def start(*flags):
        code, _, err = run("generate", "in.jsonl", "out.jsonl", *flags)
        assert code == 0, err
        return jobs.pop()

    return start


def test_each_source_wins_over_the_next(place, job, effective, monkeypatch):
    user(place, 'model = "m"\nmax-tokens = 1\nmin_tokens = 1\ntop-k = 1\nseed = 1\n')
    project("max_tokens = 2\ntop-k = 2\nseed = 2\n")
    monkeypatch.setenv("PAGECLI_TOP_K", "3")
    monkeypatch.setenv("PAGECLI_SEED", "3")
    params = job("--seed", "4").params
    assert (params.min_tokens, params.max_tokens, params.top_k, params.seed) == (1, 2, 3, 4)
    assert params.top_p == 1.0
    found = effective()
    assert found["max_tokens"] == {"value": 2, "source": "project", "place": "pagecli.toml:1"}
    assert found["top_k"] == {"value": 3, "source": "environment", "place": "PAGECLI_TOP_K"}
    assert found["min_tokens"]["source"] == "user"
    assert found["min_tokens"]["place"].endswith("config.toml:3")
    assert found["length_penalty"] == {"value": 1.0, "source": "default", "place": None}
    assert found["top_p"] == {"value": None, "source": "default", "place": None}  # the model's


def test_a_table_for_the_command_wins_over_the_keys_for_all(job):
    project('model = "m"\nseed = 1\ntemperature = 0.5\n[generate]\nseed = 2\n')
    params = job().params
    assert (params.seed, params.temperature) == (2, 0.5)


def test_lists_switches_and_choices(job, monkeypatch):
    project('model = "m"\nstop = ["a b", "c"]\nchat = false\ndtype = "float32"\nprefix-caching = false\nstats = "s.json"\n')
    found = job()
    assert found.params.stop == ("a b", "c")
    assert (found.prompts.chat, found.engine.dtype, found.engine.prefix_caching) == (False, "float32", False)
    monkeypatch.setenv("PAGECLI_STOP", "x y\nz")
    monkeypatch.setenv("PAGECLI_PREFIX_CACHING", "1")
    found = job("--chat")
    assert found.params.stop == ("x y", "z")
    assert (found.prompts.chat, found.engine.prefix_caching) == (True, True)
    project('model = "m"\nstop = "one"')
    monkeypatch.delenv("PAGECLI_STOP")
    assert job().params.stop == ("one",)


def test_no_config_leaves_files_but_not_the_environment(place, job, run, monkeypatch):
    user(place, "max-tokens = 1")
    project("this is no TOML")
    assert run("generate", "in.jsonl", "out.jsonl", "-m", "x")[0] == 2
    monkeypatch.setenv("PAGECLI_MAX_TOKENS", "7")
    assert job("-m", "x", "--no-config").params.max_tokens == 7
    monkeypatch.setenv("PAGECLI_NO_CONFIG", "1")
    monkeypatch.delenv("PAGECLI_MAX_TOKENS")
    assert job("-m", "x").params.max_tokens == SAMPLING_DEFAULTS["max_tokens"]


def test_xdg_config_home_is_where_it_says_unless_it_is_relative(place, effective, monkeypatch):
    user(place, "seed = 1")
    (place / "xdg" / "pagecli").mkdir(parents=True)
    (place / "xdg" / "pagecli" / "config.toml").write_text("seed = 2")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place / "xdg"))
    assert effective()["seed"]["value"] == 2
    monkeypatch.setenv("XDG_CONFIG_HOME", "xdg")
    assert effective()["seed"]["value"] == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('max_tokens = "many"', "pagecli.toml:1: max-tokens is 'many': "),
        ("# a\n\nmax_tokens = 5.5", "pagecli.toml:3: max-tokens is 5.5: "),
        ("max_tokens = true", "pagecli.toml:1: max-tokens is true, and the flag takes a value"),
        ("[generate]\nmax_tokens = [1]", "pagecli.toml:2: max-tokens is a list"),
        ("max_token = 5", "pagecli.toml:1: max-token is no setting of pagecli; did you mean max-tokens"),
        ("quiet = 1", "pagecli.toml:1: quiet is 1"),
        ("no-chat = true", "pagecli.toml:1: no-chat is written the other way round"),
        ("overwrite = true", "pagecli.toml:1: overwrite is a flag only"),
        ("no-config = true", "pagecli.toml:1: no-config is a flag only"),
        ("limit = 0", "pagecli.toml:1: limit is 0: "),
        ('dtype = "int4"', "pagecli.toml:1: dtype is 'int4': "),
        ("model = 1979-05-27", "pagecli.toml:1: model is a date"),
        ("[generat]\nseed = 1", "pagecli.toml:2: [generat] is no command of pagecli; did you mean generate?"),
        ("generate.x.seed = 1", "[generate.x] is no command"),
        ("[config]\nmax_tokens = 1", "pagecli.toml:2: max-tokens is no setting of pagecli config"),
        ("seed = 1\nx =", "pagecli.toml:2: Invalid value"),
        ("seed = 1\nseed = 2", "pagecli.toml:2: Cannot overwrite a value"),
        ('top-p = 2\nmodel = "m"', "--top-p is 2.0 (set by pagecli.toml:1)"),
        ('kv-memory = "lots"\nmodel = "m"', "--kv-memory is 'lots', not a size (set by pagecli.toml:1)"),
        ("x = " + "[" * 5000, "pagecli.toml: nested too deeply"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_place_and_a_hint(run, text, says):
    project(text)
    code, out, err = run("generate", "in.jsonl", "out.jsonl", "-m", "x")
    assert (code, out) == (2, ""), err
    error, hint = err.splitlines()
    assert error.startswith(f"error: {says}" if says.startswith("p") else "error: ")
    assert says in error
    assert hint.startswith("hint: ")


def test_a_wrong_variable_is_named_and_an_unknown_one_is_a_warning(run, job, monkeypatch, capsys):
    monkeypatch.setenv("PAGECLI_MAX_TOKENS", "many")
    code, _, err = run("generate", "in.jsonl", "out.jsonl", "-m", "x")
    assert code == 2
    assert err.startswith("error: PAGECLI_MAX_TOKENS is 'many': ")
    monkeypatch.delenv("PAGECLI_MAX_TOKENS")
    monkeypatch.setenv("PAGECLI_MAXTOKENS", "5")
    monkeypatch.setenv("PAGECLI_CPU_ISA", "generic")
    code, _, err = run("config")
    assert code == 0
    assert err.startswith(
        "warning: PAGECLI_MAXTOKENS in the environment is no setting of pagecli; did you mean PAGECLI_MAX_TOKENS"
    )
    assert len(err.splitlines()) == 2  # the other one: that nothing else is set
    assert "nothing is set; " in err


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("PAGECLI_MAX_TOKEN", "PAGECLI_MAX_TOKENS"),
        ("PAGECLI_TEMPERATUR", "PAGECLI_TEMPERATURE"),
        ("PAGECLI_HOME", None),  # of other programs' habits: the common prefix makes no name of ours like it
        ("PAGECLI_LOG", None),
        ("PAGECLI_DEBUG", None),
    ],
)
def test_names_are_compared_by_what_follows_the_prefix(run, monkeypatch, name, near):
    monkeypatch.setenv(name, "1")
    _, _, err = run("config")
    said = next(line for line in err.splitlines() if name in line)
    assert ("did you mean" in said) == (near is not None), said
    assert near is None or f"did you mean {near}" in said


def test_unreadable_files_are_one_line(run, place):
    for make in (lambda: os.mkdir("pagecli.toml"), lambda: Path("pagecli.toml").write_bytes(b"\xff\xfe")):
        make()
        code, _, err = run("generate", "in.jsonl", "out.jsonl", "-m", "x")
        assert (code, len(err.splitlines())) == (3, 2), err
        os.rmdir("pagecli.toml") if os.path.isdir("pagecli.toml") else os.unlink("pagecli.toml")
    os.mkfifo("pagecli.toml")
    assert run("generate", "in.jsonl", "out.jsonl", "-m", "x")[0] == 3


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
@pytest.mark.parametrize("which", ["project", "user"])
def test_a_file_that_others_may_write_is_ignored_with_a_warning(run, job, place, which, mode):
    text = 'model = "/tmp/theirs"\nseed = 3\nprofile = "/etc/cron.d"\nnot even = a setting'
    path = Path("pagecli.toml") if which == "project" else place / "home" / ".config" / "pagecli" / "config.toml"
    path.write_text(text)
    path.chmod(mode)
    started = job("-m", "mine")
    assert (started.engine.model, started.params.seed, started.profile) == ("mine", 0, None)
    for args in (("config",), ("generate", "in.jsonl", "out.jsonl"), ("merge", "part.jsonl"), ("doctor",)):
        _code, out, err = run(*args)
        assert f"{path} is ignored: others than its owner may write to it" in " ".join((out + err).split()), args
    assert "is ignored" not in run("generate", "in.jsonl", "out.jsonl", "--no-config")[2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("owned", ["file", "link", "pipe"])
def test_a_file_of_another_user_is_ignored_with_a_warning(run, job, owned):
    if owned == "pipe":
        os.mkfifo("pagecli.toml")
    else:
        Path("real.toml").write_text("seed = 3\n")
        os.link("real.toml", "pagecli.toml") if owned == "file" else os.symlink("real.toml", "pagecli.toml")
    assert owned == "pipe" or job("-m", "m").params.seed == 3
    os.lchown("pagecli.toml", 12345, 12345)
    assert job("-m", "m").params.seed == 0
    assert "pagecli.toml is ignored: it belongs to another user" in run("config")[2]


def test_help_works_beside_a_broken_file_and_secrets_are_not_shown(run, monkeypatch):
    monkeypatch.setenv("PAGECLI_MODEL", "https://user:opensesame@host/m")
    code, out, _ = run("config", "--all")
    assert code == 0
    assert "https://***@host/m" in out
    assert "opensesame" not in out
    project("broken")
    assert run("generate", "--help")[0] == 0


@pytest.mark.parametrize("command", ["generat", "doctor"])
def test_a_command_without_settings(run, command):
    code, _, err = run("config", command)
    assert code == 2
    assert f"{command}: no such command, or one without settings" in err


def test_other_commands_take_settings_too(run):
    project('model = "m"\nseed = 1\n[profile]\nmax-tokens = 9\n')
    code, out, _ = run("config", "profile", "--json")
    assert code == 0
    found = json.loads(out)["settings"]
    assert (found["model"]["value"], found["max_tokens"]["value"]) == ("m", 9)
    assert "seed" not in found


@pytest.mark.slow
def test_without_home_and_terminal_nothing_is_asked(place):
    done = subprocess.run(
        [sys.executable, "-m", "pagecli", "generate", "in.jsonl", "out.jsonl"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "Missing option '--model'" in done.stderr


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=60), st.text("ab=[]\"'.\n #1", max_size=60)))
def test_any_text_as_a_file_is_settings_or_one_clear_error(text):
    with open("pagecli.toml", "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(text)
    try:
        read_settings()
    except PagecliError as error:
        assert error.message.startswith("pagecli.toml")  # noqa: PT017
        assert error.hint  # noqa: PT017


def test_lines_of_keys():
    lines = KeyLines('a = 1\n "b c" = 2\n[t] # comment\na= 3\nd.e = 4\n[ t . u ]\nf = """\n"""\n[[x]]\n')
    assert lines.find((), "a") == 1
    assert lines.find((), "b c") == 2
    assert lines.find(("t",), "a") == 4
    assert lines.find(("t", "d"), "e") == 5
    assert lines.find(("t", "u"), "f") == 7
    assert lines.find((), "f") is None


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("sample = 100", "sample", "100"),
        ("sample = 0.25", "sample", "0.25"),
        ("temperature = 1", "temperature", 1.0),
        ('max-tokens = "7"', "max_tokens", 7),
        ("system = 5", "system", "5"),
        ("stop-token-id = [1, 2]", "stop_token_id", [1, 2]),
        ("stop = [1, 'x']", "stop", ["1", "x"]),
        ("kv-memory = 1024", "kv_memory", "1024"),
        ('stats = "s.json"', "stats", "s.json"),
    ],
)
def test_a_value_is_read_as_its_flag_would_read_it(effective, text, key, value):
    project(text)
    assert effective()[key]["value"] == value
    assert type(effective()[key]["value"]) is type(value)


@pytest.mark.parametrize("command", ["generate", "profile", "merge"])
def test_every_flag_is_a_setting_of_the_environment_under_its_own_name(command, run, monkeypatch):
    """Switches, choices, numbers, texts, paths: for each flag a value that it takes, through its variable alone."""
    found = json.loads(run("config", command, "--json")[1])["settings"]
    options = {key_of(option): option for option in options_of(get_command(app).commands[command]).values()}
    for key in found:
        choices = options[key].type_descriptor.choices
        value = "true" if options[key].is_flag else str(choices[-1]) if choices else "1"
        monkeypatch.setenv(f"PAGECLI_{key.upper()}", value)
    code, out, err = run("config", command, "--json")
    assert (code, err) == (0, "")
    for key, shown in json.loads(out)["settings"].items():
        assert (shown["source"], shown["place"]) == ("environment", f"PAGECLI_{key.upper()}")


def test_config_shows_what_is_set_and_with_all_the_rest(run, place):
    Path("pagecli.toml").write_text("max-tokens = 5\n")
    _, out, err = run("config")
    assert [line.split()[:2] for line in out.splitlines()] == [["max-tokens", "5"]]
    assert "more have their defaults: pagecli config generate --all" in err
    assert len(run("config", "--all")[1].splitlines()) > 50
