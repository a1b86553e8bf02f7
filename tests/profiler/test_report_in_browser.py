"""The report opened in headless Chromium: its charts are drawn, nothing is loaded, nothing is wrong on the console."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
from made_recordings import full_recording, policy_result, policy_results

from pagecli.profiler.report.html import write_report

pytestmark = pytest.mark.slow

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1100,900"),
)
CHARTS = {
    *(
        "replay-kv-waste",
        "replay-policies",
        "replay-block-sizes",
        "kv-over-time",
        "batch-over-time",
        "block-maps",
        "step-time",
        "latency",
    ),
    "hardware",
}
# Of every chart: its size on the page, how many paths and images in it are larger than nothing, and texts that leave it.
MEASURE = """
return [...document.querySelectorAll("svg[role=img]")].map(svg => {
  const box = svg.getBoundingClientRect();
  const size = element => element.getBoundingClientRect();
  const drawn = selector => [...svg.querySelectorAll(selector)].filter(e => size(e).width + size(e).height > 0).length;
  const outside = [...svg.querySelectorAll("text")].filter(text => {
    const own = size(text);
    return own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1 || own.bottom > box.bottom + 1;
  });
  return {
    name: svg.id.replace(/-svg$/, ""), width: box.width, height: box.height, paths: drawn("path"), images: drawn("image"),
    texts: drawn("text"), outside: outside.map(text => text.textContent), label: svg.getAttribute("aria-label"),
  };
});
"""
BARS = "return [0, 3].map(row => document.getElementById(`replay-kv-waste-share-${row}-0`).getBoundingClientRect().width)"
INK = "return getComputedStyle(document.querySelector('svg text')).fill"


def browser_programs() -> tuple[str, str]:
    """Chromium and its driver; without them the tests are skipped, or fail where REQUIRE_CHROMIUM is 1."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser, driver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    reason = "Chromium and chromedriver are not installed (on Debian: apt-get install chromium chromium-driver)"
    if os.environ.get("REQUIRE_CHROMIUM") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    from selenium import webdriver

    browser, driver = browser_programs()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield running
    running.quit()


@pytest.fixture(scope="module")
def opened(chromium, tmp_path_factory):
    """The page of a full report, opened, and what the browser said of it."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    results = policy_results() + [policy_result(block_size=size) for size in (8, 32, 64)]
    write_report(path, None, results, full_recording(), workload="sharegpt")
    chromium.get("about:blank")
    chromium.get_log("performance")  # what the browser itself loaded at its start
    chromium.get(path.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    requested = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return SimpleNamespace(
        browser=chromium,
        address=path.as_uri(),
        charts={chart["name"]: chart for chart in chromium.execute_script(MEASURE)},
        requests=[address for address in requested if not address.startswith("data:")],
        console=chromium.get_log("browser"),
    )


def test_every_chart_is_drawn(opened):
    assert set(opened.charts) == CHARTS
    for name, chart in opened.charts.items():
        assert chart["width"] > 600, name
        assert chart["height"] > 100, name
        assert chart["paths"] >= 10 or chart["images"], name
        assert chart["texts"] >= 3, name
    assert opened.charts["block-maps"]["images"] == 4


def test_no_text_leaves_its_chart(opened):
    assert {name: chart["outside"] for name, chart in opened.charts.items() if chart["outside"]} == {}


def test_bars_are_as_long_as_their_shares(opened):
    paged, reserve_max = opened.browser.execute_script(BARS)
    assert paged / reserve_max == pytest.approx(96.5 / 20.0, rel=0.02)


def test_nothing_is_loaded_and_the_console_is_silent(opened):
    assert opened.requests == [opened.address]
    assert opened.console == []


def test_charts_follow_the_readers_colour_scheme(opened):
    browser = opened.browser
    inks = {}
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        inks[scheme] = browser.execute_script(INK)
    assert inks == {"light": "rgb(36, 41, 47)", "dark": "rgb(230, 237, 243)"}


def test_the_page_is_no_wider_than_a_phone(opened):
    browser = opened.browser
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 390


def test_the_page_prints(opened):
    assert len(opened.browser.execute_cdp_cmd("Page.printToPDF", {})["data"]) > 50_000


def test_an_empty_report_opens_too(opened, tmp_path):
    write_report(tmp_path / "empty.html", None, None, None)
    opened.browser.get((tmp_path / "empty.html").as_uri())
    assert "nothing to show" in opened.browser.find_element("tag name", "main").text
    assert opened.browser.get_log("browser") == []
