"""`pagecli profile --html --plots`, and the advice at its end, in this process."""

import json

import pytest

from pagecli.cli.app import main
from pagecli.cli.profile.report import Section, advice_section
from pagecli.profiler.recording.records import KVShares, PolicyResult

PLAN = ("profile", "--model", "opt-13b", "--gpu", "a100-40gb", "--num-requests", "100")


@pytest.fixture
def profile(tmp_path, monkeypatch, capfd):
    """profile(*flags) -> (exit code, stdout, stderr), in a directory of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*flags: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*PLAN, *flags])
        return ended.value.code, *capfd.readouterr()

    return run


@pytest.mark.slow
def test_the_page_and_the_pictures_are_written(profile, tmp_path):
    code, out, err = profile("--html", "report.html", "--plots", "plots", "--json")
    assert code == 0
    assert json.loads(out)["schema_version"] == 2
    assert "written: report.html" in err
    assert "opt-13b" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "plots" / "memory-layout.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--html", "missing/report.html"), "--html missing/report.html: not a file in a directory that exists"),
        (("--html", "."), "--html .: not a file"),
        (("--plots", "file"), "--plots file: not a directory"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(profile, tmp_path, flags, message):
    (tmp_path / "file").write_text("")
    code, out, err = profile(*flags)
    assert (code, out) == (3, "")
    assert message in err


def test_the_advice_is_of_all_sections_together():
    shares = KVShares(96.0, 0.0, 2.0, 2.0)
    result = PolicyResult("paged", "continuous", 16, False, shares, 30.0, 1000, 5000, 40, 120.0, 1500.0)
    section = advice_section([Section(), Section(results=[result])])
    assert section.fields["advice"].startswith("KV memory limits this workload: 40 preemptions")
    assert section.shown[0].plain.startswith("Advice: KV memory limits")


def test_without_a_cause_nothing_is_said():
    section = advice_section([Section()])
    assert (section.fields, section.shown) == ({"advice": None}, [])


@pytest.mark.parametrize(("flag", "value"), [("--html", "report.html"), ("--plots", "plots")])
def test_charts_without_matplotlib_are_refused_before_anything_is_done(profile, monkeypatch, flag, value):
    monkeypatch.setattr("pagecli.cli.profile.report.find_spec", lambda name: None)
    code, out, err = profile(flag, value)
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"error: {flag}: its charts need matplotlib, which is not installed",
        "hint: pip install 'pagecli[report]'",
    ]
