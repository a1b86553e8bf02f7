"""Prompts longer than the model takes: refused without being tokenized, or cut so that the rest still says something."""

import time

import pytest
from fake_engine import FakeTokenizer
from hypothesis import given
from hypothesis import strategies as st

from pagecli.core.sampling_params import SamplingParams
from pagecli.errors import ErrorCode
from pagecli.jobs.rows.row import InputRow
from pagecli.jobs.rows.row_preparer import PreparedRow, PromptLength, PromptOptions, RowPreparer
from pagecli.jobs.run.job_loop import Feeder


class Counting(FakeTokenizer):
    """One token a byte, and one in front, as many tokenizers have it; counts what it was given."""

    num_bytes = 0

    def encode(self, text):
        self.num_bytes += len(text)
        return [1, *text.encode()]

    def apply_chat_template(self, messages, variables=None):
        return [2, *"".join(f"<{m['role']}>{m['content']}" for m in messages).encode(), 3]


def preparer(max_model_len=100, too_long="error", max_tokens=20, chat=False):
    tokenizer = Counting(chat)
    length = PromptLength(
        max_model_len, lambda: 4, tokenizer.encode, lambda ids: bytes(ids).decode("utf-8", "replace"), too_long
    )
    return RowPreparer(tokenizer, 256, PromptOptions(), SamplingParams(max_tokens=max_tokens), length), tokenizer


def prepare(columns, **settings):
    return preparer(**settings)[0].prepare(InputRow(0, columns))


def test_prompt_of_10_mb_is_refused_at_once_and_never_tokenized():
    prepare_row, tokenizer = preparer(max_model_len=8192)
    started = time.perf_counter()
    for columns in ({"prompt": "x" * 10_000_000}, {"prompt": "\u00fc" * 5_000_000}):
        prepared = prepare_row.prepare(InputRow(0, columns))
        assert prepared.error_code == ErrorCode.PROMPT_TOO_LONG
        assert "10,000,000 bytes, too many for any 8,192 tokens" in prepared.error
    assert tokenizer.num_bytes == 0
    assert time.perf_counter() - started < 1


def test_chat_of_10_mb_is_refused_at_once_too():
    prepared = prepare({"messages": [{"role": "user", "content": "x" * 10_000_000}]}, chat=True)
    assert prepared.error_code == ErrorCode.PROMPT_TOO_LONG


@pytest.mark.parametrize("num_bytes", [98, 99, 100, 400, 401])
def test_what_fits_is_as_it_was_and_the_limit_is_the_models(num_bytes):
    prepared = prepare({"prompt": "x" * num_bytes})
    assert (prepared.error is None) == (num_bytes + 1 < 100)
    if prepared.error is not None:
        assert prepared.error_code == ErrorCode.PROMPT_TOO_LONG
        assert "--too-long truncate-left" in prepared.error


@pytest.mark.parametrize("size", [100, 1000, 100_000])
def test_cut_prompt_keeps_its_end_or_its_beginning_and_leaves_room_for_the_output(size):
    text = "".join(chr(97 + i % 26) for i in range(size))
    left, right = (prepare({"prompt": text}, too_long=f"truncate-{side}").prompt_token_ids for side in ("left", "right"))
    assert len(left) == len(right) == 80
    assert left == [1, *text[-79:].encode()], "the special token in front is kept"
    assert right == [1, *text[:79].encode()]
    assert len(prepare({"prompt": text}, too_long="truncate-left", max_tokens=10**6).prompt_token_ids) == 50
    assert prepare({"prompt_token_ids": [7] * size}, too_long="truncate-right").prompt_token_ids == [7] * 80


@pytest.mark.parametrize("side", ["left", "right"])
def test_cut_chat_keeps_its_template_whole(side):
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "abcdefghij" * 100}]
    prepared = prepare({"messages": messages}, too_long=f"truncate-{side}", chat=True)
    text = bytes(prepared.prompt_token_ids)
    assert len(text) <= 80
    assert text.startswith(b"\x02<system>be kind<user>")
    assert text.endswith(b"\x03")
    assert b"abcdefghij" in text
    assert text.endswith(b"j\x03") == (side == "left")


def test_chat_of_nothing_but_template_cannot_be_cut():
    messages = [{"role": "user" * 10, "content": ""}] * 10
    prepared = prepare({"messages": messages}, too_long="truncate-left", chat=True)
    assert prepared.error_code == ErrorCode.PROMPT_TOO_LONG
    assert "cannot be cut" in prepared.error


@given(text=st.text(max_size=300), too_long=st.sampled_from(["error", "truncate-left", "truncate-right"]), chat=st.booleans())
def test_whatever_comes_out_fits_or_is_an_error(text, too_long, chat):
    prepared = prepare({"prompt": text}, too_long=too_long, chat=chat)
    if prepared.error is None:
        assert 0 < len(prepared.prompt_token_ids) < 100
    else:
        assert prepared.error_code == ErrorCode.PROMPT_TOO_LONG
        assert too_long == "error"


class Rows:
    name, schema, column_names = "rows", None, None

    def __init__(self, sizes):
        self._sizes = sizes
        self.num_read = 0

    def __iter__(self):
        for index, size in enumerate(self._sizes):
            self.num_read += 1
            yield InputRow(index, {}, num_bytes=size)

    def estimate(self):
        return None

    def check_unchanged(self): ...

    def interrupt(self): ...

    def close(self): ...


def test_reading_ahead_is_bounded_in_bytes_and_a_larger_row_goes_alone():
    source = Rows([40] * 10 + [1000] + [1] * 10)

    def prepare_row(row):
        return PreparedRow(row, [], SamplingParams(), 0)

    with Feeder(source, prepare_row, max_rows=100, max_bytes=100) as feeder:
        found = []
        while not feeder.exhausted:
            time.sleep(0.005)
            held = source.num_read - len(found) - 1  # one is in the reader's hands
            assert held <= (2 if len(found) < 10 else 100)
            row = feeder.take(1.0)
            if row is not None:
                found.append(row.row.index)
    assert found == list(range(21))


def test_bound_on_a_tokens_bytes_is_never_passed(tiny_tokenizer):
    from pagecli.model.tokenizer.token_bytes import longest_token_bytes

    longest = longest_token_bytes(tiny_tokenizer.backend_tokenizer)
    assert longest is not None
    for text in ("The capital of France is Paris. " * 50, " " * 500, "ü" * 300, "\u1112\u1161\u11ab" * 100):
        num_tokens = len(tiny_tokenizer.backend_tokenizer.encode(text).ids)
        assert num_tokens * longest >= len(text.encode())


def test_bound_is_unknown_where_text_may_vanish():
    from tokenizers import Tokenizer, decoders, models, normalizers

    from pagecli.model.tokenizer.token_bytes import longest_token_bytes

    backend = Tokenizer(models.BPE({"a": 0, "ab": 1}, [], byte_fallback=True))
    backend.decoder = decoders.ByteFallback()
    assert longest_token_bytes(backend) == 2
    for normalizer, bound in ((normalizers.NFC(), 6), (normalizers.Strip(), None), (normalizers.Replace("aa", ""), None)):
        backend.normalizer = normalizer
        assert longest_token_bytes(backend) == bound
        backend.normalizer = normalizers.Sequence([normalizer, normalizers.Prepend("_")])
        assert longest_token_bytes(backend) == bound
    assert longest_token_bytes(Tokenizer(models.WordLevel({"a": 0}, "a"))) is None
