"""What was asked for is data: frozen when it is built, and the same when the job has ended."""

import dataclasses
import pickle
from pathlib import PurePath

import pytest

from pagecli.cli.generate import run as job_module

PROMPTS = [{"prompt": "The quick", "id": 1}, {"prompt": "brown fox", "temperature": 0.5}]


def mutable_parts(value, path="job"):
    """Paths of what could be changed in place."""
    if dataclasses.is_dataclass(value):
        if not value.__dataclass_params__.frozen:
            yield path
        for field in dataclasses.fields(value):
            yield from mutable_parts(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from mutable_parts(item, f"{path}[{i}]")
    elif value is not None and not isinstance(value, str | int | float | bytes | PurePath | frozenset):
        yield path


@pytest.mark.parametrize("flags", [(), ("--n", "2", "--temperature", "0.7", "--logprobs", "1")])
def test_a_job_is_frozen_and_running_it_changes_nothing_of_it(generate, monkeypatch, flags):
    jobs, run_generate = [], job_module.run_generate

    def kept(job, console):
        jobs.append((job, pickle.dumps(job)))
        return run_generate(job, console)

    monkeypatch.setattr(job_module, "run_generate", kept)
    assert generate(PROMPTS, "out.jsonl", "--stop", "zz", *flags)[0] == 0
    ((job, before),) = jobs
    assert list(mutable_parts(job)) == []
    assert pickle.dumps(job) == before
