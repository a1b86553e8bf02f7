"""Charts of few, many and no steps, and the numbers beside them."""

import re
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from made_recordings import full_recording, policy_result, policy_results, recording, steps
from matplotlib.text import Text

from pagecli.profiler.recording.downsampling import NUM_BUCKETS, bucketed
from pagecli.profiler.recording.latency import latencies
from pagecli.profiler.recording.records import BlockMap, HardwareSample, MemoryPart, RequestRecord
from pagecli.profiler.report import block_charts, hardware_charts, memory_charts, run_charts
from pagecli.profiler.report.chart_style import Chart, bytes_text, number_text, png, seconds_text, style, svg
from pagecli.profiler.report.sweep_chart import speed_by_batch

SVG = "{http://www.w3.org/2000/svg}"
OVER_TIME = [run_charts.kv_over_time, run_charts.batch_over_time, run_charts.step_time]


@pytest.fixture(autouse=True)
def _styled():
    with style():
        yield


def drawn(chart: Chart) -> ElementTree.Element:
    """The chart's SVG, which must be well-formed, with ids of its own."""
    root = ElementTree.fromstring(svg(chart))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(name.startswith(f"{chart.name}-") for name in ids)
    return root


def words(chart: Chart) -> set[str]:
    """All that is written in the picture."""
    return {text.get_text() for text in chart.figure.findobj(Text)}


def group(root: ElementTree.Element, chart: Chart, gid: str) -> ElementTree.Element:
    found = root.find(f".//*[@id='{chart.name}-{gid}']")
    assert found is not None, gid
    return found


@pytest.mark.slow
@pytest.mark.parametrize("draw", OVER_TIME, ids=lambda f: f.__name__)
@pytest.mark.parametrize("num_steps", [1, 40])
def test_a_run_is_drawn_whatever_its_length(draw, num_steps):
    chart = draw(full_recording(num_steps))
    paths = list(drawn(chart).iter(f"{SVG}path"))
    assert len(paths) > 5
    assert chart.rows
    assert all(len(row) == len(chart.columns) for row in chart.rows)


@pytest.mark.parametrize("draw", OVER_TIME, ids=lambda f: f.__name__)
def test_a_run_without_steps_has_no_chart(draw):
    assert draw(recording([])) is None


@pytest.mark.slow
@pytest.mark.parametrize("draw", OVER_TIME, ids=lambda f: f.__name__)
def test_a_long_run_makes_a_small_picture_that_keeps_its_extremes(draw):
    spike = steps(3000, blocks_used=lambda i: 990 if i == 1234 else 600, num_running=lambda i: 99 if i == 1234 else 32)
    chart = draw(recording(spike))
    assert len(svg(chart)) < 200_000
    assert len(chart.rows) <= run_charts.TABLE_ROWS
    if draw is not run_charts.step_time:
        assert re.search("99 at most|at most 99.0 %", chart.description)


def test_buckets_keep_the_mean_and_the_range():
    x = np.arange(10_000.0)
    y = np.where(x == 4321, 50.0, 1.0)
    points = bucketed(x, y)
    assert len(points.x) == NUM_BUCKETS
    assert points.high.max() == 50.0
    assert points.low.min() == 1.0
    assert points.mean.mean() == pytest.approx(y.mean(), rel=0.01)
    assert bucketed(x[:600], y[:600]).mean is not None
    assert not bucketed(x[:600], y[:600]).is_reduced


def test_used_blocks_are_drawn_above_filled_slots():
    chart = run_charts.kv_over_time(full_recording())
    assert {"used blocks", "filled slots", "shared blocks", "cached, in no block table"} <= words(chart)
    assert "Used blocks at most 60.0 %, 60.0 % on average, filled slots 58.1 % on average" in chart.description
    assert chart.rows[0] == ("0 ms", "600", "50", "100", "300", "9,300")


def test_without_the_block_size_there_are_no_filled_slots():
    made = full_recording()
    made.block_maps.clear()
    made.metadata.clear()
    assert "filled slots" not in words(run_charts.kv_over_time(made))


def test_preemptions_and_the_limit_of_the_batch_are_marked():
    chart = run_charts.batch_over_time(full_recording())
    assert "1 preemptions" in chart.description
    assert "preemption" in words(chart)
    shown = words(run_charts.batch_over_time(recording(steps(100, num_running=120))))
    assert "max_num_seqs 128" in shown
    assert "preemption" not in shown


@pytest.mark.parametrize("is_slow", [True, False])
def test_what_a_slow_step_has_above_the_picture_is_said_in_it(is_slow):
    made = recording(steps(400, forward_seconds=lambda i: 2.0 if is_slow and i == 3 else 0.02))
    chart = run_charts.step_time(made)
    top, cut = chart.figure.axes[0].get_ylim()[1], [text for text in words(chart) if "cut off at the top" in text]
    assert (top < 2000, len(cut)) == (True, int(is_slow))
    assert not is_slow or "up to 2" in cut[0]


def test_phases_sum_to_the_steps_time():
    made = recording(steps(50, outside_seconds=0.006))
    made.totals.update(num_steps=5000, forward_seconds=80.0)
    rows = {name: (total, share) for name, total, share, _ in run_charts.step_time(made).rows}
    assert rows["forward"] == ("80 s", "99.4 %")  # of all steps, not of those that were kept
    assert rows["outside the step"][0] == "300 ms"
    assert rows["together"] == ("80.5 s", "100.0 %")


@pytest.mark.slow
def test_latencies_of_requests():
    made = [RequestRecord(i, 10, 11, 0.0, 1.0 + i, 2.0 + i) for i in range(5)] + [RequestRecord(9, 10, 0, 0.0, None, 3.0)]
    first, per_token, whole = latencies(made)
    assert (first.percentile(50), first.seconds[-1]) == (3.0, 5.0)
    assert per_token.mean == pytest.approx(0.1)
    assert len(whole.seconds) == 6
    assert first.percentile(90) == pytest.approx(float(np.percentile(first.seconds, 90)))
    chart = run_charts.latency_percentiles(made)
    assert [row[0] for row in chart.rows] == ["time to first token", "time per output token", "end to end"]
    assert "p50 3 s · p95 4.8 s · p99 4.96 s" in words(chart)


def test_requests_without_tokens_have_only_an_end():
    (whole,) = latencies([RequestRecord(0, 10, 0, 0.0, None, 3.0)])
    assert whole.name == "end to end"
    assert run_charts.latency_percentiles([]) is None


def test_the_waste_of_policies_stands_beside_the_papers():
    chart = memory_charts.waste(policy_results())
    root = drawn(chart)
    labels = [row[0] for row in chart.rows]
    assert labels[:2] == ["paged · continuous", "paper: vLLM"]
    assert labels[-2:] == ["paper: Orca (Max)", "reserve-max · static"]
    assert chart.rows[-2][1:] == ("20.4", "13.3", "57.3", "8.9", "not given")
    assert group(root, chart, "share-0-0").find(f"{SVG}title").text == "paged · continuous: token states 96.5 %"
    assert memory_charts.waste([]) is None


def test_results_that_differ_in_one_thing_are_named_by_it():
    pair = [policy_result(), policy_result(prefix_caching=True)]
    assert [memory_charts.label_of(result, pair) for result in pair] == [
        "paged · continuous · no sharing",
        "paged · continuous · sharing",
    ]
    pair = [policy_result(), policy_result("reserve-max", measured=True)]
    assert memory_charts.label_of(pair[1], pair) == "reserve-max · continuous · measured"


def test_the_papers_mean_batch_is_marked_only_on_its_own_workloads():
    assert "paper" in words(memory_charts.policies(policy_results(), "sharegpt"))
    assert "paper" not in words(memory_charts.policies(policy_results(), "mine.jsonl"))


def test_a_policy_that_was_cut_off_says_how_many_requests_it_finished():
    cut = policy_result("reserve-max", details={"num_finished": 18, "cut_off": 1})
    rows = memory_charts.policies([policy_result(), cut]).rows
    assert [row[3] for row in rows] == ["1,000", "18 of 1,000"]


def test_waste_by_block_size_needs_two_sizes():
    assert memory_charts.block_sizes(policy_results()) is None
    chart = memory_charts.block_sizes([policy_result(block_size=size) for size in (64, 8, 16)])
    assert [row[0] for row in chart.rows] == ["8", "16", "64"]


def test_memory_is_divided_in_proportion():
    parts = [MemoryPart("weights", 24 << 30, "params"), MemoryPart("KV cache", 12 << 30), MemoryPart("unused", 4 << 30)]
    chart = memory_charts.memory_layout(parts, 40 << 30, "A100-40GB")
    assert [row[:3] for row in chart.rows] == [
        ("weights", "24.0 GiB", "60.0 %"),
        ("KV cache", "12.0 GiB", "30.0 %"),
        ("unused", "4.0 GiB", "10.0 %"),
    ]
    root = drawn(chart)
    assert {"60 %", "30 %", "10 %"} <= words(chart)
    assert width(group(root, chart, "part-0")) == pytest.approx(2 * width(group(root, chart, "part-1")), rel=0.01)
    assert memory_charts.memory_layout([], 0, "nothing") is None


def width(bar: ElementTree.Element) -> float:
    xs = [float(x) for x in re.findall(r"[ML] (\S+) ", bar.find(f"{SVG}path").get("d"))]
    return max(xs) - min(xs)


def test_memory_that_does_not_fit_says_how_much_is_missing():
    chart = memory_charts.memory_layout([MemoryPart("weights", 50 << 30)], 40 << 30, "A100-40GB")
    assert "end of memory, 10.0 GiB missing" in words(chart)
    assert "10.0 GiB are missing" in chart.caption


def test_a_block_is_a_cell_coloured_by_fill_and_sharing():
    colours = block_charts.cell_colours(BlockMap(3, 16, (16, 4, 16, -1, -2), (1, 1, 2, 0, 0)))
    full, part, shared, free, cached = (tuple(colour) for colour in colours)
    assert len({full, part, shared, free, cached}) == 5
    assert sum(part[:3]) > sum(full[:3])  # emptier is lighter
    assert free[3] < 0.5 < cached[3]


def test_the_maps_table_counts_the_blocks():
    chart = block_charts.block_maps([BlockMap(3, 16, (16, 4, 16, -1, -2), (1, 1, 2, 0, 0))])
    assert chart.rows == [("3", "5", "3", "2", "1", "1", "1", "1")]
    assert len(list(drawn(chart).iter(f"{SVG}image"))) == 1
    assert block_charts.block_maps([]) is None


def test_of_many_maps_the_fullest_is_among_the_chosen():
    maps = [BlockMap(at, 16, (16,) * (at == 5) + (-1,) * 9, (1,) * 10) for at in range(12)]
    chosen = [block_map.step for block_map in block_charts.chosen_maps(maps)]
    assert len(chosen) == block_charts.MAX_MAPS
    assert 5 in chosen
    assert chosen == sorted(chosen)


@pytest.mark.parametrize("num_blocks", [1, 17, 1000, 150_001])
def test_a_pool_of_any_size_fits_the_picture(num_blocks):
    image = block_charts.cells_image(BlockMap(0, 16, (16,) * num_blocks, (1,) * num_blocks))
    height, width, _ = image.shape
    assert width <= 1000
    assert height <= 600
    cells = min(num_blocks, -(-num_blocks // block_charts._blocks_a_cell(num_blocks)))
    assert cells <= block_charts.MAX_CELLS


def test_hardware_has_a_panel_for_what_was_read():
    chart = hardware_charts.hardware(full_recording().hardware)
    assert {"Memory (GiB)", "Utilization (%)", "Power (W)", "gpu0, power", "host, this process"} <= words(chart)
    assert [row[0] for row in chart.rows] == ["gpu0", "host"]
    assert chart.rows[1][4] == "not read"
    host = hardware_charts.hardware([HardwareSample(0.0, "host", process_memory_bytes=1 << 30)])
    assert "Power (W)" not in words(host)
    assert hardware_charts.hardware([]) is None
    assert hardware_charts.hardware([HardwareSample(0.0, "gpu0")]) is None


def test_colours_are_the_pages_variables_and_text_stays_text():
    text = svg(run_charts.kv_over_time(full_recording()))
    assert "var(--blue)" in text
    assert "#0072b2" not in text
    assert 'role="img" aria-label="KV memory over time. Used blocks' in text
    assert "<metadata" not in text


def test_names_in_data_are_escaped_and_never_mathematics():
    parts = [MemoryPart('<script>alert("x")</script> $a_b$', 1 << 30)]
    chart = memory_charts.memory_layout(parts, 2 << 30, "<b>$x$</b>")
    text = svg(chart)
    assert "<script" not in text
    assert "<b>" not in text
    assert '<script>alert("x")</script> $a_b$, 1.0 GiB' in {word.text for word in drawn(chart).iter(f"{SVG}text")}


def test_a_png_has_the_title_and_a_white_ground(tmp_path):
    path = tmp_path / "chart.png"
    png(run_charts.kv_over_time(full_recording()), path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert int.from_bytes(data[16:20], "big") == 1350


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (1.5e-5, "15 µs"),
        (0.0213, "21.3 ms"),
        (0.9999, "1 s"),
        (61.2, "61.2 s"),
        (125, "2 min 5 s"),
        (4400, "1 h 13 min"),
    ],
)
def test_times_are_said_in_a_readable_unit(seconds, text):
    assert seconds_text(seconds) == text


def test_numbers_have_three_digits_or_more():
    assert [number_text(value) for value in (0.5, 9.999, 30.42, 99.96, 1234.5)] == ["0.50", "10.0", "30.4", "100", "1,234"]


def test_sizes_are_said_in_a_readable_unit():
    assert [bytes_text(size) for size in (0, 1023, 1536, 46080 << 20, 3 << 40)] == [
        "0 B",
        "1,023 B",
        "1.5 KiB",
        "45.0 GiB",
        "3.0 TiB",
    ]


def test_a_sweep_has_a_line_for_each_shape():
    def result(batch: int, prompt: int) -> SimpleNamespace:  # as of profiler.sweep, which loads torch
        point = SimpleNamespace(batch=batch, prompt=prompt, output=64)
        speeds = {"prompt_tokens_per_second": batch * prompt / 0.1, "output_tokens_per_second": batch * 64 / 2.0}
        return SimpleNamespace(point=point, prompt_seconds=0.1, output_seconds=2.0, **speeds)

    made = [result(batch, prompt) for prompt in (128, 512) for batch in (1, 8, 32)]
    chart = speed_by_batch(made)
    assert {"128 in, 64 out", "512 in, 64 out"} <= words(chart)
    assert chart.rows[1] == ("128", "64", "8", "0.100", "10,240.0", "2.000", "256.0")
    root = drawn(chart)
    assert group(root, chart, "output-512-64") is not None
    assert speed_by_batch([]) is None
