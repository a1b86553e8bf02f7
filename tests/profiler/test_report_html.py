"""The report as a file: what stands in the page, what never does, and the PNG files beside it."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from made_recordings import full_recording, policy_result, policy_results, recording, steps

from pagecli.errors import InputError
from pagecli.profiler.plan.gpus import find_gpu
from pagecli.profiler.plan.plan import PlanSettings, make_plan
from pagecli.profiler.report.content import build_report
from pagecli.profiler.report.html import write_plots, write_report
from pagecli.profiler.workloads.workloads import built_in

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Reads a page: ids, links, text by element; fails on an element that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links, self.tags, self.open = [], [], [], []
        self.headings: list[str] = []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[name] for name in ("href", "xlink:href", "src") if name in found]
        assert not [name for name in found if name.startswith("on")], "a handler"

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in {"h1", "h2", "h3"}:
            self.headings.append(data.strip())


@pytest.fixture(scope="module")
def plan():
    from pagecli.model.registry import resolve_model

    return make_plan(
        PlanSettings("opt-13b", resolve_model("opt-13b", "dummy").config, find_gpu("a100-40gb")), built_in("sharegpt", 100)
    )


@pytest.fixture(scope="module")
def page_text(plan, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    results = policy_results() + [policy_result(block_size=size) for size in (8, 32)]
    write_report(path, plan, results, full_recording(), workload="sharegpt")
    return path.read_text()


@pytest.mark.slow
def test_the_page_answers_the_three_questions(page_text):
    page = Page(page_text)
    assert page.headings[0] == "a made-up run"
    assert [h for h in page.headings if h.startswith(("Plan", "Replayed", "Measured", "Hardware"))] == [
        "Plan: opt-13b on NVIDIA A100 40GB (SXM)",
        "Replayed: the same work under other memory policies",
        "Measured: what happened in the run",
        "Hardware",
        "Hardware over time",
    ]
    assert page.tags.count("svg") == 10
    for number in ("15,728", "819,200", "96.5", "57.3"):
        assert number in page_text


@pytest.mark.slow
def test_measured_policies_stand_apart_from_replayed_ones_and_beside_published_speedups(tmp_path):
    replayed = policy_results()
    measured = [replace(result, measured=True, output_tokens_per_second=result.mean_batch) for result in replayed]
    write_report(tmp_path / "r.html", None, replayed + measured, None, workload="sharegpt")
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert {"replay", "measured-policies"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("svg") == 4
    assert "4.29x</td><td>2-4x over FasterTransformer (paper, abstract)" in text


@pytest.mark.slow
def test_the_page_loads_nothing_and_runs_nothing(page_text):
    page = Page(page_text)
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'", page_text)
    assert not re.search(r"url\((?!#)", page_text)
    assert "@import" not in page_text
    assert len(page_text) < 2_000_000


@pytest.mark.slow
def test_ids_are_unique_and_links_inside_the_page_lead_somewhere(page_text):
    page = Page(page_text)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


@pytest.mark.slow
def test_every_picture_has_a_name_and_a_table(page_text):
    assert page_text.count('role="img" aria-label="') == page_text.count("<svg")
    assert page_text.count("<figure") == page_text.count("<summary>The numbers</summary>") == page_text.count("<figcaption>")


@pytest.mark.slow
def test_what_comes_from_data_is_escaped(tmp_path):
    nasty = '<script>alert("1")</script>&<img src=x onerror=alert(2)>'
    made = full_recording(40)
    made.title, made.hardware_note = nasty, nasty
    made.metadata |= {nasty: nasty, "model": {"name": nasty}}
    made.hardware.append(made.hardware[0].__class__(0.0, nasty, power_watts=3.0))
    write_report(tmp_path / "r.html", None, [policy_result()], made, workload=nasty)
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert nasty in page.headings[0] or nasty.startswith(page.headings[0])
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize("made", [None, recording([])], ids=["no run", "a run without steps"])
def test_a_report_of_nothing_says_so(tmp_path, made):
    if made:
        made.requests.clear()
    write_report(tmp_path / "r.html", None, None, made)
    text = (tmp_path / "r.html").read_text()
    assert "There is nothing to show" in text
    assert "svg" not in Page(text).tags


def test_the_advice_stands_at_the_top(tmp_path):
    write_report(tmp_path / "r.html", None, [policy_result(num_preemptions=30)], None)
    text = (tmp_path / "r.html").read_text()
    assert "<strong>Advice:</strong> KV memory limits this workload: 30 preemptions" in text
    assert text.index("Advice") < text.index("<main>")


def test_a_long_run_says_what_was_kept_of_it():
    made = recording(steps(100))
    made.step_stride = 8
    made.totals.update(num_steps=800, num_requests=5000)
    (run,) = build_report(None, None, made).sections
    assert run.note.startswith("Of 800 steps every 8th is drawn; of 5,000 requests 100 are")
    assert ("steps", "800") in run.metrics


def test_a_report_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"missing/r\.html cannot be written: No such file"):
        write_report(tmp_path / "missing" / "r.html", None, None, None)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_plots(tmp_path / "file", None, policy_results(), None)


def test_a_report_replaces_the_one_before_and_leaves_nothing_else(tmp_path):
    for _ in range(2):
        write_report(tmp_path / "r.html", None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.slow
def test_plots_are_png_files_named_by_their_subject(tmp_path, plan):
    paths = write_plots(tmp_path / "plots", plan, None, recording(steps(30)))
    names = ["memory-layout.png", "kv-over-time.png", "batch-over-time.png", "step-time.png", "latency.png"]
    assert [path.name for path in paths] == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_the_template_is_part_of_the_package():
    assert (files("pagecli.profiler.report") / "templates" / "report.html").is_file()
