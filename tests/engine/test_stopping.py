"""How sequences end, and stop strings found in text that grows token by token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecli.core.sampling_params import SamplingParams
from pagecli.engine.generation.decoding import FinishCheck
from pagecli.engine.generation.stopping import StopSearch
from pagecli.engine.request import Request
from pagecli.errors import UsageError

EOS = 2


SPECIAL = {256: "<|end|>", 257: "<s>"}


def decode_bytes(ids, skip_special_tokens):
    """Token ids are bytes: characters of several tokens come up as they do in byte-level tokenizers."""
    special = {} if skip_special_tokens else SPECIAL
    return b"".join(bytes([i]) if i < 256 else special.get(i, "").encode() for i in ids).decode(errors="replace")


def finish_reasons(output_ids, **params):
    """finish_reason after each output token, fed one by one."""
    request = Request(0, [5, 6], SamplingParams(**params), row_key=0)
    sequence = request.live[0]
    check = FinishCheck(frozenset({EOS}))
    reasons = []
    for token_id in output_ids:
        sequence.token_ids.append(token_id)
        check(sequence)
        reasons.append(sequence.finish_reason)
    return reasons


def test_an_end_token_stops():
    assert finish_reasons([9, EOS]) == [None, "stop"]


def test_an_end_token_is_ordinary_with_ignore_eos():
    assert finish_reasons([9, EOS, 9], ignore_eos=True, max_tokens=3) == [None, None, "length"]


def test_a_stop_token_id_stops_even_with_ignore_eos():
    assert finish_reasons([9, 7], ignore_eos=True, stop_token_ids=(7,)) == [None, "stop"]


def test_nothing_stops_before_min_tokens():
    assert finish_reasons([EOS, 9, EOS], min_tokens=3) == [None, None, "stop"]


def test_the_length_limit_ends_with_length():
    assert finish_reasons([9, 9], max_tokens=2) == [None, "length"]


def test_text_before_min_tokens_is_not_searched():
    search = StopSearch(("b",), decode_bytes)
    assert not search.extend([ord("b")], ignore=True)
    assert not search.extend(list(b"ba"))
    assert search.extend(list(b"bab"))
    assert search.found_at == 2


@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=30),
    stops=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), min_size=1, max_size=3), min_size=1, max_size=3
    ),
)
def test_the_earliest_stop_string_is_found_with_the_first_token_that_completes_one(text, stops):
    search = StopSearch(tuple(stops), decode_bytes)
    data = list(text.encode())
    found = next((n for n in range(1, len(data) + 1) if search.extend(data[:n])), None)
    first = next((i for i in range(len(text) + 1) if any(s in text[:i] for s in stops)), None)
    if first is None:
        assert found is None
    else:
        assert found == len(text[:first].encode())
        assert search.found_at == min(text[:first].find(s) for s in stops if s in text[:first])


special_pieces = st.sampled_from(["a", "b", "<", "é", "<|end|>", "<s>", "\u4e16"])


@given(pieces=st.lists(special_pieces, max_size=12), stops=st.lists(special_pieces, min_size=1, max_size=2).map("".join))
def test_special_tokens_stop_as_other_text_does_and_are_in_no_output(pieces, stops):
    """A special token is one token, other text its bytes; the visible text ends where the stop string begins."""
    ids_of = {text: token_id for token_id, text in SPECIAL.items()}
    ids = [i for piece in pieces for i in ([ids_of[piece]] if piece in ids_of else piece.encode())]
    search = StopSearch((stops,), decode_bytes)
    found = next((n for n in range(1, len(ids) + 1) if search.extend(ids[:n])), None)
    text = "".join(pieces)
    assert (found is not None) == (stops in text)
    if found is not None:
        visible = text[: text.index(stops)]
        for special in SPECIAL.values():
            visible = visible.replace(special, "")
        assert search.text_before_stop(ids[:found]) == visible


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": 1e39},  # beyond float32, which devices compute with
        {"temperature": 10**400},
        {"top_p": -0.1},
        {"top_p": 1.5},
        {"top_p": float("nan")},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"top_k": -1},
        {"top_k": 2**31},
        {"max_tokens": 0},
        {"min_tokens": 300},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": 1e-40},
        {"repetition_penalty": 1e7},
        {"presence_penalty": 1e30},
        {"frequency_penalty": float("-inf")},
        {"length_penalty": 300.0},
        {"stop": ("",)},
        {"seed": -1},
        {"logprobs": 1000},
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SamplingParams(**wrong)


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {"temperature": 1e-45},
        {"temperature": 9e-6},
        *({"temperature": 2.0, **p} for p in ({"top_p": 0}, {"top_k": 1})),
    ],
)
def test_what_leaves_one_token_is_greedy(params):
    assert SamplingParams(**params).greedy
    assert not SamplingParams(temperature=1e-5, top_p=1e-9, top_k=2).greedy
