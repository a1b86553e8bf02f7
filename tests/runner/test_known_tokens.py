"""What penalties act on is what the sequences hold, however their steps come: tokens by one or several, sequences that enter,
leave, sit out, or have the same tokens."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecli.core.sampling_params import SamplingParams
from pagecli.core.step_plan import SampleSpec
from pagecli.devices.cpu import sampler
from pagecli.devices.known_tokens import WIDTH_MULTIPLE, KnownTokens

TOKENS = st.integers(0, 2 * WIDTH_MULTIPLE)
STEP = st.lists(st.tuples(st.integers(0, 4), st.lists(TOKENS, max_size=3)), max_size=5, unique_by=lambda pair: pair[0])


@pytest.mark.slow
@given(
    prompts=st.lists(st.lists(TOKENS, min_size=2, max_size=2 * WIDTH_MULTIPLE), min_size=5, max_size=5),
    steps=st.lists(STEP, max_size=12),
    num_unseen=st.sampled_from([0, 1]),
)
def test_entries_are_those_of_the_tokens(prompts, steps, num_unseen):
    known = KnownTokens()
    sequences = [(list(prompt), len(prompt)) for prompt in prompts]
    for step in [[(i, [i]) for i in range(5)], *steps]:
        for i, more in step:
            sequences[i][0].extend(more)
        asked = [sequences[i] for i, _ in step]
        ids, counts = known.update(asked, num_unseen)
        assert ids.shape == counts.shape
        assert len(ids) == len(step)
        for row, (tokens, num_prompt) in enumerate(asked):
            seen = tokens[: len(tokens) - num_unseen]
            output = Counter(seen[num_prompt:])
            found = {token: count for token, count in zip(ids[row].tolist(), counts[row].tolist(), strict=True) if token >= 0}
            assert found == {token: output[token] for token in seen}
            assert (ids[row] >= 0).sum() == len(set(seen)) < ids.shape[1]


def test_penalties_and_log_probabilities_of_a_row_are_those_it_has_alone():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((12, 300), dtype=np.float32) * 4
    specs = [
        (
            SampleSpec(
                SamplingParams(
                    repetition_penalty=1 + 0.1 * (i % 3), presence_penalty=0.5 * (i % 2), frequency_penalty=0.25 * (i % 4),
                    logprobs=[None, 0, 5, 20][i % 4], temperature=0.7 * (i % 2),
                ), i, 0, rng.integers(0, 300, 5 + 20 * i).tolist(), 5, (),
            ),
        )
        for i in range(12)
    ]  # fmt: skip
    together = sampler.choose(logits.copy(), specs)
    assert together == [sampler.choose(logits[i : i + 1].copy(), [spec])[0] for i, spec in enumerate(specs)]
    expected = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
    for row, result in enumerate(together):
        if specs[row][0].params.logprobs is not None:
            assert abs(result.logprob - expected[row, result.token_id]) < 1e-5
            top = sorted(range(300), key=lambda t: -logits[row, t])[: specs[row][0].params.logprobs]
            assert [token_id for token_id, _ in result.top] == top
