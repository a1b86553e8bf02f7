"""The sweep of batch sizes: what is asked for, what is measured, and the table people know from llama-batched-bench."""

import pytest

from pagecli.core.engine_config import EngineConfig
from pagecli.errors import UsageError
from pagecli.profiler.measure.sweep import SweepPoint, SweepResult, parse_sweep, sweep, table


def test_every_combination_is_a_point_batches_last():
    points = parse_sweep("batch=1,8 prompt=128,256 output=64")
    assert points == [SweepPoint(b, p, 64) for p in (128, 256) for b in (1, 8)]
    assert [point.batch for point in parse_sweep("prompt=16")] == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("text", ["batch=0", "batch=1;8", "batch=", "sizes=3", "batch=1 batch=2", "8", "batch=1,,2"])
def test_what_is_not_understood_is_said_with_an_example(text):
    with pytest.raises(UsageError, match="is not understood") as caught:
        parse_sweep(text)
    assert "batch=1,8,32" in caught.value.hint


def test_the_table_has_llama_batched_benchs_columns():
    head, rule, row = table([SweepResult(SweepPoint(8, 128, 64), 2.0, 4.0)])
    assert head == "|     PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |"
    assert rule == "|--------|--------|------|--------|----------|----------|----------|----------|----------|----------|"
    assert row == "|    128 |     64 |    8 |   1536 |    2.000 |   512.00 |    4.000 |   128.00 |    6.000 |   256.00 |"


def test_a_sweep_runs_every_point(tiny_model):
    config = EngineConfig(str(tiny_model("llama")), dtype="float32", threads=1)
    results = list(sweep(config, parse_sweep("batch=1,4 prompt=48 output=16")))
    assert [(r.point.batch, r.num_kv) for r in results] == [(1, 64), (4, 256)]
    for result in results:
        assert result.prompt_seconds > 0
        assert result.output_seconds > 0
        assert result.tokens_per_second == pytest.approx(result.num_kv / result.seconds)


def test_what_is_longer_than_the_model_is_refused_before_anything_runs(tiny_model):
    with pytest.raises(UsageError, match="prompt=500 output=64 is longer than the 512"):
        next(sweep(EngineConfig(str(tiny_model("llama")), dtype="float32"), parse_sweep("batch=1 prompt=500 output=64")))
