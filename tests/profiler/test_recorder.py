"""A recorder beside a real engine: what it writes down agrees with what the engine itself counts."""

import itertools

import pytest

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.profiler.recording.recorder import Recorder
from pagecli.profiler.recording.steps_file import read_steps

SHARED = list(range(20, 60))


@pytest.fixture(scope="module")
def recorded(tiny_model, tmp_path_factory):
    """(recording, the engine's own stats, path of the steps) of a run with preemptions, samples and a shared prefix."""
    path = tmp_path_factory.mktemp("recorded") / "steps.parquet"
    engine = make_engine(tiny_model)
    engine.listener = recorder = Recorder("a run", {"model": "tiny"}, path)
    for i in range(12):
        prompt = [*SHARED, 100 + i] if i % 3 == 0 else [100 + i] * (15 + i)
        engine.add_request(i, prompt, SamplingParams(max_tokens=8 + i, ignore_eos=True, n=2 if i == 4 else 1))
    run_to_the_end(engine)
    return recorder.finish(), engine.stats(), path


def make_engine(tiny_model, **settings):
    from pagecli.engine.engine import Engine

    small = {"kv_memory_bytes": 1 << 18, "dtype": "float32", "max_num_seqs": 8, "block_size": 8} | settings
    return Engine(EngineConfig(model=str(tiny_model("llama")), check_integrity=True, **small))


def run_to_the_end(engine):
    outputs = []
    while engine.has_unfinished():
        outputs += engine.step()
    return {output.request_id: [s.token_ids for s in output.sequences] for output in outputs}


def test_totals_are_those_the_engine_counts(recorded):
    recording, stats, _ = recorded
    totals = recording.totals
    assert totals["num_steps"] == len(recording.steps) == stats["num_steps"]
    assert totals["num_requests"] == totals["num_finished"] == len(recording.requests) == stats["num_requests"]
    assert totals["prefill_tokens"] + totals["decode_tokens"] == stats["num_computed_tokens"]
    assert totals["prompt_tokens"] == stats["prompt_tokens"]
    assert totals["output_tokens"] == stats["output_tokens"]
    assert totals["num_preemptions"] == stats["num_preemptions"] > 0
    assert totals["num_copies"] == stats["num_copy_on_write"] > 0


def test_every_step_accounts_for_every_block(recorded):
    recording, stats, _ = recorded
    for step in recording.steps:
        assert step.blocks_used + step.blocks_cached + step.blocks_free == step.blocks_total == stats["kv_blocks_total"]
        assert 0 < step.slots_filled <= step.blocks_used * 8
        assert step.blocks_unshared >= step.blocks_used + step.blocks_shared
        assert step.prefill_tokens + step.decode_tokens >= step.num_running > 0
    assert any(step.blocks_shared for step in recording.steps), "the shared prefix and the samples share"
    used = sum(step.slots_filled / (step.blocks_used * 8) for step in recording.steps) / len(recording.steps)
    assert used == pytest.approx(stats["kv_slot_utilization"])


def test_the_parts_of_steps_fill_the_time_from_the_first_to_the_last(recorded):
    recording, stats, _ = recorded
    for before, step in itertools.pairwise(recording.steps):
        assert step.start_seconds == pytest.approx(before.start_seconds + before.seconds + step.outside_seconds)
        assert min(step.schedule_seconds, step.prepare_seconds, step.forward_seconds, step.sample_seconds) > 0
        assert min(step.commit_seconds, step.detokenize_seconds, step.outside_seconds) > 0
    inside = sum(step.seconds - step.detokenize_seconds for step in recording.steps)
    assert inside == pytest.approx(stats["step_seconds"])


def test_a_request_gets_its_first_token_in_the_step_that_computes_the_end_of_its_prompt(recorded):
    recording, _, _ = recorded
    ends = [step.start_seconds + step.seconds for step in recording.steps]
    for request in recording.requests:
        assert request.added_seconds < request.first_token_seconds < request.finished_seconds
        assert request.finished_seconds in [pytest.approx(end) for end in ends]
    assert recording.requests[0].first_token_seconds < ends[0]


def test_block_maps_show_the_pool_at_moments_of_the_run(recorded):
    recording, _, _ = recorded
    assert len(recording.block_maps) == 5
    by_number = {step.step: step for step in recording.steps}
    for block_map in recording.block_maps:
        step = by_number[block_map.step]
        used = [slots for slots in block_map.filled if slots >= 0]
        assert len(used) == step.blocks_used
        assert sum(used) == step.slots_filled
        assert block_map.filled.count(-1) == step.blocks_free
        assert block_map.filled.count(-2) == step.blocks_cached
        assert sum(count > 1 for count in block_map.ref_counts) == step.blocks_shared


def test_the_file_holds_the_same_steps(recorded):
    recording, _, path = recorded
    assert list(read_steps(path)) == recording.steps


def test_looking_on_changes_no_text_and_aborted_requests_leave_no_record(tiny_model):
    def run(listener):
        engine = make_engine(tiny_model)
        engine.listener = listener
        for i in range(6):
            engine.add_request(i, [30 + i] * 12, SamplingParams(max_tokens=6, ignore_eos=True))
        engine.step()
        engine.abort(3)
        return run_to_the_end(engine)

    recorder = Recorder("a run", {})
    assert run(recorder) == run(None)
    recording = recorder.finish()
    assert sorted(request.request_id for request in recording.requests) == [0, 1, 2, 4, 5]


def test_a_request_that_ends_with_its_first_token_has_both_times(tiny_model):
    engine = make_engine(tiny_model)
    engine.listener = recorder = Recorder("a run", {})
    engine.add_request(0, [30] * 12, SamplingParams(max_tokens=1))
    run_to_the_end(engine)
    (request,) = recorder.finish().requests
    assert request.output_tokens == 1
    assert request.added_seconds < request.first_token_seconds <= request.finished_seconds
