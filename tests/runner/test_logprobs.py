"""The likeliest tokens and their log probabilities, against a sort and float64; where no token can be chosen there are none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.core.outputs import TokenLogprobs
from pagecli.core.step_plan import NO_TOKEN
from pagecli.devices import logprobs

FINITE = st.integers(-3, 3).map(float) | st.floats(-20, 20, width=32)
ANY = FINITE | st.sampled_from([-np.inf, np.nan])


@st.composite
def rows_of_logits(draw, values=ANY):
    """[n, vocab], with many equal ones, and now and then -inf or NaN."""
    num, vocab = draw(st.integers(1, 5)), draw(st.sampled_from([1, 2, 7, 40]))
    flat = draw(st.lists(values, min_size=num * vocab, max_size=num * vocab))
    return np.array(flat, dtype=np.float32).reshape(num, vocab)


def sorted_ids(row, count):
    """Largest first, of equal ones the first; NaN last, as -inf."""
    return np.argsort(-np.nan_to_num(row, nan=-np.inf, neginf=-np.inf, posinf=np.inf), kind="stable")[:count]


@settings(deadline=None, max_examples=50)
@given(rows_of_logits(FINITE), st.data())
def test_tops_come_in_order_however_they_were_found(logits, data):
    counts = np.array(data.draw(st.lists(st.integers(0, min(4, logits.shape[1])), min_size=len(logits), max_size=len(logits))))
    largest, log_sums = logits.max(axis=1), np.log(np.exp(logits - logits.max(axis=1)[:, None]).sum(axis=1))
    in_order = [sorted_ids(row, count) for row, count in zip(logits, counts, strict=True)]
    flat = np.concatenate([np.sort(ids) for ids in in_order]).astype(np.int32)  # as the GPU's kernel gives them
    values = np.concatenate([row[np.sort(ids)] for row, ids in zip(logits, in_order, strict=True)])
    found = logprobs.tops(flat, values, counts, largest, log_sums.astype(np.float32))
    assert [[token_id for token_id, _ in top] for top in found] == [ids.tolist() for ids in in_order]
    for row, top in zip(logits.astype(np.float64), found, strict=True):
        exact = row - row.max() - np.log(np.exp(row - row.max()).sum())
        assert [value for _, value in top] == pytest.approx([exact[token_id] for token_id, _ in top], abs=1e-5)


@settings(deadline=None, max_examples=50)
@given(rows_of_logits(), st.booleans(), st.data())
def test_tokens_have_their_rows_log_probabilities(logits, will_change, data):
    rows = np.flatnonzero(np.array(data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits)))))
    tokens = [NO_TOKEN if np.isnan(row).any() or not np.isfinite(row).any() else int(row.argmax()) for row in logits]
    counts = np.array([data.draw(st.integers(0, 3)) for _ in rows], dtype=np.int64)
    if not len(rows):
        return
    with np.errstate(all="ignore"):
        given = logits.copy()
        before = logprobs.Before(given, rows, counts, will_change)
        given[:] = 0.0 if will_change else given
        found = before.with_logprobs(tokens)
    for row, token in enumerate(found):
        if row not in rows or tokens[row] == NO_TOKEN:
            assert token == tokens[row]
            assert type(token) is int
            continue
        values = logits[row].astype(np.float64)
        exact = values - values.max() - np.log(np.exp(values - values.max()).sum())
        assert isinstance(token, TokenLogprobs)
        assert token.token_id == tokens[row]
        assert token.logprob == pytest.approx(exact[tokens[row]], abs=1e-5)
        count = min(int(counts[rows.tolist().index(row)]), logits.shape[1])
        assert [token_id for token_id, _ in token.top] == sorted_ids(logits[row], count).tolist()
