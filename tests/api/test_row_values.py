"""Rows of a program: a value is what it means in JSON, whichever library holds it, and so are the text and what is returned."""

import json
from collections import UserDict

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pagecli
from pagecli.api.rows import source_of
from pagecli.api.values import plain
from pagecli.jobs.rows.row import MAX_DEPTH, is_too_deep

NUMBERS = {
    "int": (np.int8, np.int64, np.uint16, lambda x: np.array(x), lambda x: torch.tensor(x), pa.scalar),
    "float": (np.float16, np.float32, np.float64, np.longdouble, lambda x: np.array(x), lambda x: torch.tensor(x), pa.scalar),
    "bool": (np.bool_, lambda x: np.array(x), lambda x: torch.tensor(x), pa.scalar),
    "str": (np.str_, lambda x: np.array(x), pa.scalar),
    "list": (tuple, np.array, lambda x: pa.scalar(x, pa.list_(pa.int64())), lambda x: torch.tensor(x, dtype=torch.int64)),
}
SCALARS = (
    st.integers(0, 100) | st.sampled_from([0.0, 0.5, -2.25]) | st.booleans() | st.text(st.characters(codec="ascii"), min_size=1)
)
VALUES = st.recursive(
    SCALARS | st.none() | st.lists(st.integers(0, 100), min_size=1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def llm(tiny_model):
    return pagecli.LLM(str(tiny_model("llama")), kv_memory="8MiB", threads=1)


def disguised(value, draw):
    """The value as another library holds it, inside of lists and dicts too."""
    if isinstance(value, dict):
        return UserDict({np.str_(name): disguised(item, draw) for name, item in value.items()})
    if isinstance(value, list) and not (value and all(type(item) is int for item in value)):
        return tuple(disguised(item, draw) for item in value)
    if value is None or (isinstance(value, str) and "\0" in value):  # numpy's texts end at a null
        return value
    return draw(st.sampled_from(NUMBERS[type(value).__name__]))(value)


@given(st.data(), VALUES)
def test_a_value_is_the_same_whichever_library_holds_it(data, value):
    found = plain(disguised(value, data.draw))
    assert json.dumps(found) == json.dumps(value)  # numpy's float64 equals a float, but is none
    assert repr(found) == repr(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.datetime64("2020-01-02T03:04:05"), "2020-01-02T03:04:05"),
        (np.array(["2020-01-02"], "M8[ns]"), ["2020-01-02T00:00:00.000000000"]),
        (np.timedelta64(1500, "ms"), 1.5),
        (np.datetime64("NaT"), None),
        (np.array([[1, 2], [3, 4]], np.int32), [[1, 2], [3, 4]]),
        (np.array([{"role": "user"}, None], object), [{"role": "user"}, None]),
        ({(1, 2): np.int8(3)}, {(1, 2): 3}),
    ],
)
def test_times_are_as_in_an_arrow_table_and_arrays_are_lists(value, expected):
    assert repr(plain(value)) == repr(expected)


def test_nulls_of_pandas_are_null(llm):
    pandas = pytest.importorskip("pandas")
    row = {"prompt": "the quick", "max_tokens": pandas.NA, "lora": pandas.NaT, "seen": pandas.Timestamp(0)}
    (found,) = llm.generate([row], max_tokens=2)
    assert (found["error"], found["max_tokens"], found["output_tokens"]) == (None, None, 2)
    assert found["seen"] == row["seen"]  # JSON has no form for it


def test_a_row_has_its_text_whichever_library_its_numbers_are_of(llm):
    own = {"id": 3, "prompt": "the quick", "temperature": 1.0, "seed": 5, "max_tokens": 8, "ignore_eos": True, "stop": ["zz"]}
    of_numpy = {"id": np.int64(3), "prompt": np.str_("the quick"), "temperature": np.float32(1), "seed": np.uint8(5)}
    of_numpy |= {"max_tokens": np.int16(8), "ignore_eos": np.bool_(True), "stop": np.array(["zz"])}
    assert list(llm.generate([of_numpy])) == list(llm.generate([own]))
    ids = [5, 6, 7]
    for given_ids in (ids, tuple(ids), np.array(ids), torch.tensor(ids), [np.int32(5), 6, 7]):
        (found,) = llm.generate([{"prompt_token_ids": given_ids}], max_tokens=4)
        assert (found["prompt_tokens"], found["error"], found["prompt_token_ids"]) == (3, None, ids)


def test_columns_alone_are_texts(llm):
    pandas = pytest.importorskip("pandas")
    texts = ["the quick", "brown fox"]
    expected = list(llm.generate(texts, max_tokens=2))
    for column in (pa.array(texts), pa.chunked_array([texts[:1], texts[1:]]), pandas.Series(texts), np.array(texts)):
        assert list(llm.generate(column, max_tokens=2)) == expected, type(column)
    for scalars in (pa.array(texts), np.array(texts)):
        assert list(llm.generate((scalar for scalar in scalars), max_tokens=2)) == expected


def test_a_frame_that_is_no_table_is_refused_in_a_sentence(llm):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(pagecli.UsageError) as caught:
        llm.generate(pandas.DataFrame({"prompt": ["a", 3]}))
    assert str(caught.value).startswith("rows of type DataFrame are no Arrow table: Conversion failed for column prompt")
    assert "to_dict('records')" in caught.value.hint


@settings(deadline=None)
@given(
    st.integers(-3, 3).map(MAX_DEPTH.__add__), st.sampled_from([list, tuple, dict, UserDict]), st.sampled_from([1, np.int8(1)])
)
def test_rows_are_as_deep_as_those_of_files(depth, kind, value):
    for _ in range(depth):
        value = kind({"x": value}) if kind in (dict, UserDict) else kind([value])
    (row,) = source_of([{"x": value}])
    expected = 1
    for _ in range(depth):
        expected = [expected] if kind in (list, tuple) else {"x": expected}
    assert (row.error_code == "row_too_large") == is_too_deep({"x": expected}) == (not row.columns)
