"""Takes the README's pictures of reports: the page in headless Chromium with the sections and charts that were named, as PNG.

pagecli generate sample_data/prompts.jsonl out.jsonl -m smollm2-135m --max-tokens 64 --kv-memory 96MiB --profile recording
python benchmarks/report_screenshot.py recording/report.html benchmarks/results/profile-report.png
"""

import argparse
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver

WIDTH = 1000
CHARTS = "replay-kv-waste,kv-over-time,batch-over-time,block-maps"
# Leaves the title, the advice, key metrics and the chosen charts.
KEEP = """
const kept = new Set(arguments[0].split(","));
for (const figure of document.querySelectorAll("figure"))
  if (!kept.has(figure.querySelector("svg").id.replace(/-svg$/, ""))) figure.remove();
for (const section of document.querySelectorAll("section"))
  if (!section.querySelector("figure")) section.remove();
document.querySelectorAll("nav, details, footer, main .scroll").forEach(element => element.remove());
return document.documentElement.scrollHeight;
"""


def screenshot(page: Path, charts: str) -> Image.Image:
    """The page as far as it goes, in its light colours."""
    options = webdriver.ChromeOptions()
    with tempfile.TemporaryDirectory() as profile:
        for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"):
            options.add_argument(flag)
        options.add_argument(f"--user-data-dir={profile}")
        browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            browser.set_window_size(WIDTH, 1000)
            browser.get(page.absolute().as_uri())
            browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": WIDTH, "height": browser.execute_script(KEEP, charts), "deviceScaleFactor": 1, "mobile": False},
            )
            return Image.open(io.BytesIO(browser.get_screenshot_as_png()))
        finally:
            browser.quit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--charts", default=CHARTS, help=f"names, in the page's order (default: {CHARTS})")
    chosen = parser.parse_args()
    picture = screenshot(chosen.report, chosen.charts).convert("RGB").quantize(256)
    picture.save(chosen.picture, optimize=True)
    print(f"{chosen.picture}: {picture.width} x {picture.height}, {chosen.picture.stat().st_size:,} bytes")
