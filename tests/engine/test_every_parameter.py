"""Whatever a row's parameters are, the row ends with output or is refused by name before the engine runs it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.core.engine_config import EngineConfig
from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.engine import Engine
from pagecli.errors import ErrorCode, RowError
from pagecli.jobs.rows.row import InputRow
from pagecli.jobs.rows.row_parameters import SAMPLING_FIELDS
from pagecli.jobs.rows.row_preparer import PromptOptions, RowPreparer

BORDERS = (0, 1, 2, 31, 383, 384, 999_999, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, 10**400)
numbers = (
    st.sampled_from(BORDERS)
    | st.sampled_from(BORDERS).map(lambda n: -n)
    | st.floats()
    | st.sampled_from([1e-45, 1e-40, 2.9e-39, 1e-10, 1e-5, 3.5e38, 1e308, 0.5, 1.0, 1.5])
    | st.integers(0, 5)
)
texts = st.sampled_from(["", "a", "<|im_start|>", "false", "never", "\ud800", "x" * 300])
values = numbers | texts | st.booleans() | st.lists(numbers | texts, max_size=3)
EXPECTED = {ErrorCode.INVALID_PARAMETER, ErrorCode.KV_TOO_SMALL, ErrorCode.UNSUPPORTED}


@pytest.fixture(scope="module")
def engine(tiny_model):
    return Engine(EngineConfig(str(tiny_model("llama")), dtype="float32", kv_memory_bytes=2 << 20, threads=1, max_num_seqs=64))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    columns=st.dictionaries(st.sampled_from(SAMPLING_FIELDS), values, max_size=3)
    | st.fixed_dictionaries({}, optional=dict.fromkeys(SAMPLING_FIELDS, numbers))
)
def test_a_row_with_any_parameters_runs_or_is_refused(engine, columns):
    base = SamplingParams(max_tokens=3)
    preparer = RowPreparer(engine.tokenizer, engine.model_config.vocab_size, PromptOptions(chat=False), base)
    prepared = preparer.prepare(InputRow(0, {"prompt": "hello", **columns}))
    if prepared.error is not None:
        assert prepared.error_code in EXPECTED, prepared.error
        assert len(prepared.error) < 300
        return
    refusal = None
    try:
        engine.add_request(0, prepared.prompt_token_ids, prepared.params)
    except RowError as error:
        refusal = error
    if refusal is not None:
        assert refusal.code in EXPECTED, refusal.message
        return
    outputs = []
    for _ in range(40):  # a long output is cut short
        outputs += engine.step()
    if engine.has_unfinished():
        engine.abort(0)
        return
    assert outputs[0].error is None
    for sequence in outputs[0].sequences:
        assert all(0 <= token_id < 384 for token_id in sequence.token_ids)
        assert sequence.score is None or sequence.score == sequence.score
