"""A whole command-line job on a GPU that is out of memory at each of its allocations, or lost at each of its calls: one clear
line and exit code 4 or nothing at all, and the same command run again completes the same output. Nightly that is each of the
tensors that steps make, too, and each job is run again."""

import json
import logging

import pytest
from fake_device import FakeDevice
from nightly import NIGHTLY

from pagecli.cli.app import main
from pagecli.devices import base
from pagecli.devices.cuda.device import CudaDevice

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif("not __import__('gpu_tensors').EMULATED", reason="the stand-in device computes on the CPU"),
]
FLAGS = (
    *("--device", "cuda", "--dtype", "float32", "--block-size", "8", "--max-num-seqs", "4", "--max-batch-tokens", "12"),
    *("--max-model-len", "64", "--kv-memory", "64KiB", "--max-tokens", "3", "--no-chat", "--repetition-penalty", "1.2"),
)
# How many of each kind of call fail by default, spread from the last to the first; nightly all do.
MOST_CASES = {"empty": 100, "pinned": 100, "capture": 100, "activation": 6}
MOST_LOST = 3
AGAIN = 1 if NIGHTLY else 4  # one of so many jobs that ended is run again


@pytest.fixture
def job(tiny_model, tmp_path, monkeypatch, capfd):
    """job(device, name) -> (exit code, output or None, stderr) of `pagecli generate` with that GPU."""
    monkeypatch.setattr("pagecli.cli.generate.run.quieten", lambda *args, **settings: None)
    monkeypatch.chdir(tmp_path)
    rows = [{"id": i, "prompt": "ab c" * (1 + i % 3), "logprobs": [None, 2][i % 2]} for i in range(4)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    registered = base._registered["cuda"]

    def run(device: FakeDevice, name: str):
        base.register("cuda", lambda: CudaDevice(lambda: device))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["generate", "in.jsonl", name, "--model", str(tiny_model("llama")), *FLAGS])
        output = tmp_path / name
        return ended.value.code, output.read_text() if output.exists() else None, capfd.readouterr().err

    yield run
    base.register("cuda", registered)
    logging.disable(logging.NOTSET)


def spread(count: int, most: int) -> list[int]:
    """Up to `most` of range(count), the last and the first among them; nightly all."""
    most = count if NIGHTLY else min(count, most)
    return sorted({round(i * (count - 1) / max(1, most - 1)) for i in range(most)}, reverse=True)


def rows_of(output: str) -> list[dict]:
    """The leaves of its rows."""
    return [leaves(json.loads(line)) for line in output.splitlines()]


def leaves(value, path: str = "") -> dict:
    """The values of nested JSON by their paths."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for name, part in items for key, leaf in leaves(part, f"{path}/{name}").items()}
    return {path: value}


@pytest.mark.parametrize("what", ["memory", "lost"])
def test_a_job_ends_with_one_line_and_completes_when_it_is_run_again(job, what):
    device = FakeDevice()
    code, expected, err = job(device, "expected.jsonl")
    assert code == 0, err
    # the matrix products of the stand-in device are torch's: their last bits depend on how many rows a step has
    rows = [
        {name: pytest.approx(leaf, rel=1e-5) if isinstance(leaf, float) else leaf for name, leaf in row.items()}
        for row in rows_of(expected)
    ]
    most = MOST_CASES if what == "memory" else dict.fromkeys(device.calls, MOST_LOST)
    cases = [(kind, i) for kind, num in most.items() for i in spread(device.calls[kind], num)]
    assert len(cases) >= 25
    for number, (kind, at) in enumerate(cases):
        name = f"{number}.jsonl"
        code, output, err = job(FakeDevice(fail_at=(kind, at, what)), name)
        if code == 0:  # the step was done again, or no call came after it
            assert rows_of(output) == rows
            continue
        assert code == 4, (kind, at, err)
        errors = [line for line in err.splitlines() if line.startswith("error: ") and "finished rows" not in line]
        assert len(errors) == 1, err
        assert "GPU" in errors[0] or "does not fit" in errors[0], err
        if number % AGAIN:
            continue
        code, output, err = job(FakeDevice(), name)
        assert code == 0, (kind, at, err)
        assert rows_of(output) == rows, (kind, at)
