"""A workload on the real engine under several policies: same work, same memory, measured one after the other."""

import weakref

import pytest

from pagecli.core.engine_config import EngineConfig
from pagecli.devices.cpu import device
from pagecli.engine import loaded_model
from pagecli.errors import UsageError
from pagecli.profiler.measure import measure as measuring
from pagecli.profiler.measure.measure import DEFAULT_CASES, MeasuredCase, MeasureSettings, measure
from pagecli.profiler.recording.records import KVShares
from pagecli.profiler.replay.papers import PUBLISHED_SPEEDUPS, published_speedup
from pagecli.profiler.replay.replay import replay_case
from pagecli.profiler.replay.replay_clock import ReplayCase, ReplaySettings
from pagecli.profiler.workloads.workloads import Workload, WorkloadRequest

LENGTHS = [(5 + 7 * i % 30, 3 + 11 * i % 25) for i in range(14)]
NUM_SLOTS, LONGEST, SLOT_BYTES = 256, 64, 1536


def workload(lengths=LENGTHS, arrivals=None):
    at = arrivals or [None] * len(lengths)
    return Workload("lengths", tuple(WorkloadRequest(p, o, t) for (p, o), t in zip(lengths, at, strict=True)))


@pytest.fixture(scope="module")
def settings(tiny_model):
    """settings(...) -> MeasureSettings of the tiny Llama with 256 slots, 4 of the longest requests."""

    def make(max_seconds=None, **engine):
        memory = {
            "kv_memory_bytes": NUM_SLOTS * SLOT_BYTES,
            "max_model_len": LONGEST,
            "dtype": "float32",
            "threads": 1,
            "speculate": 0,
        }
        config = EngineConfig(str(tiny_model("llama")), **memory | engine)
        return MeasureSettings(config, max_seconds)

    return make


@pytest.fixture(scope="module")
def measured(settings):
    return measure(workload(), settings())


def test_every_policy_does_the_same_work_in_the_same_memory(measured):
    assert [(r.policy, r.batching) for r in measured.results] == [(c.policy, c.batching) for c in DEFAULT_CASES]
    for result, recording in zip(measured.results, measured.recordings, strict=True):
        assert result.measured
        assert result.num_requests == result.details["num_finished"] == len(recording.requests) == len(LENGTHS)
        assert result.details["kv_slots"] == NUM_SLOTS
        assert result.details["output_tokens"] == recording.totals["output_tokens"] == sum(o for _, o in LENGTHS)
        assert sorted(r.output_tokens for r in recording.requests) == sorted(o for _, o in LENGTHS), "to the exact length"
        assert result.output_tokens_per_second == pytest.approx(result.details["output_tokens"] / result.seconds)
        shares = result.shares
        total = (
            shares.token_states
            + shares.reservation
            + shares.internal_fragmentation
            + shares.external_fragmentation
            + shares.free
        )
        assert total == pytest.approx(100)


def test_policies_differ_in_what_memory_lets_run(measured):
    paged, reserved, static, single = measured.results
    assert paged.mean_batch > reserved.mean_batch > static.mean_batch > single.mean_batch == 1
    assert reserved.mean_batch <= NUM_SLOTS / LONGEST
    assert paged.shares.token_states > reserved.shares.token_states > single.shares.token_states
    assert paged.num_steps < reserved.num_steps < static.num_steps < single.num_steps == sum(o for _, o in LENGTHS)


def test_the_shares_measured_are_those_a_replay_computes(measured):
    class Timer:
        def seconds(self, num_tokens, num_sequences, context_tokens, attention_pairs):
            return num_tokens * 0.0 + 1.0

    modelled = replay_case(workload(), ReplaySettings(NUM_SLOTS, LONGEST, 16, 128, 512), Timer(), ReplayCase("paged"))
    paged = measured.results[0]
    assert paged.num_steps == modelled.num_steps
    assert paged.num_preemptions == modelled.num_preemptions
    assert paged.mean_batch == pytest.approx(modelled.mean_batch)
    for name in KVShares.__slots__:
        assert getattr(paged.shares, name) == pytest.approx(getattr(modelled.shares, name), abs=1e-9), name


def test_where_prompts_begin_alike_sharing_is_measured_too(settings):
    requests = tuple(WorkloadRequest(40, 8, None, (7, 8, 100 + i)) for i in range(6))
    done = measure(Workload("prefixes", requests, prefix_block_size=16), settings())
    assert [result.prefix_caching for result in done.results] == [False] * 4 + [True]
    assert done.recordings[4].totals["prefill_tokens"] < done.recordings[0].totals["prefill_tokens"] == 6 * 40


def test_the_model_is_loaded_once_and_each_case_gives_its_memory_back(settings, monkeypatch):
    loads, load = [], loaded_model.load
    monkeypatch.setattr(measuring.loaded_model, "load", lambda config: loads.append(config) or load(config))
    caches, allocate = [], device.allocate

    def noted(*args):
        cache = allocate(*args)
        caches.append(weakref.ref(cache.keys[0]))
        return cache

    monkeypatch.setattr(device, "allocate", noted)
    cases = (MeasuredCase("paged"), MeasuredCase("reserve-oracle"), MeasuredCase("reserve-pow2"))
    said = []

    def on_progress(line):
        said.append(line)
        assert not any(cache() for cache in caches), "the memory of the case before is free again"

    measure(workload(LENGTHS[:4]), settings(), cases, on_progress)
    assert len(loads) == 1
    assert caches
    assert [line.split(" (")[0] for line in said[1:]] == [case.name for case in cases]


def test_a_run_that_takes_too_long_is_cut_off_and_counts_the_tokens_made_until_then(settings):
    done = measure(workload([(8, 50)] * 6), settings(max_seconds=0.005), (MeasuredCase("reserve-max", "none"),))
    (result,) = done.results
    assert result.details["cut_off"] == 1
    assert result.details["num_finished"] < 6
    assert 0 < result.details["output_tokens"] < 300
    assert result.output_tokens_per_second > 0


def test_requests_come_when_the_workload_says(settings):
    done = measure(workload(LENGTHS[:3], [0.0, 0.05, 0.15]), settings(), (MeasuredCase("paged"),))
    (result,), (recording,) = done.results, done.recordings
    assert result.seconds > 0.15
    added = sorted(request.added_seconds for request in recording.requests)
    assert added[2] - added[0] >= 0.14


def test_requests_longer_than_the_model_are_refused_and_counted(settings):
    done = measure(workload([(10, 5), (LONGEST + 1, 5)]), settings(), (MeasuredCase("paged"),))
    assert (done.results[0].num_requests, done.results[0].details["num_refused"]) == (1, 1)
    with pytest.raises(UsageError, match="no request of lengths fits"):
        measure(workload([(LONGEST + 1, 5)]), settings(), (MeasuredCase("paged"),))


def test_without_a_size_the_pool_holds_as_many_of_the_longest_requests_as_the_papers(settings):
    done = measure(workload(LENGTHS[:2]), settings(kv_memory_bytes=None), (MeasuredCase("paged"),))
    assert done.kv_memory_bytes == int(15_728 / 2_048 * LONGEST) * SLOT_BYTES


def test_published_speedups_belong_to_the_policies_that_model_their_systems(measured):
    published = [published_speedup(result) for result in measured.results]
    assert published == [None, *PUBLISHED_SPEEDUPS]
    assert published[1].text == "2-4x over Orca (paper, abstract)"
    assert published[3].text == "up to 24x over Hugging Face Transformers (vLLM blog, June 2023)"
