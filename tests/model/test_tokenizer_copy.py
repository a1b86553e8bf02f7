"""A tokenizer read from the copy kept of it does what transformers' own does, on whatever text; else none is kept."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
import tiny_tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecli.model.tokenizer import loading
from pagecli.model.tokenizer.copy import faithful_copy
from pagecli.model.tokenizer.loading import load_parts, load_tokenizer, load_with_transformers
from pagecli.model.tokenizer.tokenizer import TransformersTokenizer, parts_of

HOSTILE = [
    " . , ! ? ' n't 'm 's 've 're",
    "it 's n't  so . they 're",
    "<s></s><unk><plain>a<left> b  <left><right>  c word wordy <|special|>",
    "[BOS] [EOS] [UNK] [CLS] the [SEP] quick",
    "▁ ▁▁ the <0x41><0xE2>",
    "naïve e\u0301 ﬁ Å \ufeff\u200d\u00a0\u3000",
    "\x00\r\n\t\x7f 東京 🙂👩‍👩‍👧 \U0010ffff",
    "the" * 500,
]
ADDED = ["<s>", "<left>", "<right>", "[BOS]", "[ BOS ]", "<|special|>"]
pieces = st.sampled_from([*HOSTILE, *tiny_tokenizers.WORDS, *ADDED, " ", "  "])
texts = st.lists(pieces | st.text(st.characters(exclude_categories=["Cs"])), max_size=8).map("".join)


@dataclass(frozen=True)
class Pair:
    theirs: Any  # transformers' own
    ours: TransformersTokenizer  # from a kept copy


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    made = {}

    def make(kind):
        if kind not in made:
            directory = tiny_tokenizers.build(kind, tmp_path_factory.mktemp("tokenizer"))
            made[kind] = Pair(load_with_transformers(directory), TransformersTokenizer(from_copy(directory)))
        return made[kind]

    return make


def from_copy(path):
    """Loaded a first time, and then without transformers."""
    load_parts(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_with_transformers", lambda path: pytest.fail("no copy was kept"))
        return load_parts(path)


def assert_equal_on(pair, text) -> None:
    ids = pair.theirs(text)["input_ids"]
    assert pair.ours.encode(text) == ids
    for skip in (True, False):
        assert pair.ours.decode(ids, skip) == pair.theirs.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
@given(text=texts)
@settings(max_examples=60, deadline=None)
def test_text_becomes_the_same_ids_and_ids_the_same_text(pair, kind, text):
    assert_equal_on(pair(kind), text)


@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_ids_become_the_same_text(pair, kind, data):
    num_tokens = len(pair(kind).theirs)
    assert pair(kind).ours.vocab_size == num_tokens
    ids = data.draw(st.lists(st.integers(0, num_tokens + 2), max_size=20))
    for skip in (True, False):
        assert pair(kind).ours.decode(ids, skip) == pair(kind).theirs.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
@given(contents=st.lists(texts, min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_chats_become_the_same_ids(pair, kind, contents):
    theirs, ours = pair(kind).theirs, pair(kind).ours
    assert ours.has_chat_template == bool(theirs.chat_template)
    if ours.has_chat_template:
        turns = zip(("user", "assistant", "user"), contents, strict=False)
        chat = [{"role": role, "content": content} for role, content in turns]
        assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]


@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
def test_the_token_that_ends_a_text_is_the_same(pair, kind):
    own = pair(kind).theirs.eos_token_id
    assert pair(kind).ours.eos_token_ids == (() if own is None else (own,))


@pytest.mark.parametrize("name", ["qwen3", "opt"])
def test_tiny_models_tokenizers_are_the_same(tiny_model, name):
    made = Pair(load_with_transformers(tiny_model(name)), TransformersTokenizer(from_copy(tiny_model(name))))
    for text in HOSTILE:
        assert_equal_on(made, text)


@pytest.mark.slow
def test_sample_models_tokenizer_is_the_same(sample_model):
    path = sample_model.tokenizer_path
    made = Pair(load_with_transformers(path), TransformersTokenizer(from_copy(path)))

    @given(text=texts)
    @settings(max_examples=300, deadline=None)
    def check(text) -> None:
        assert_equal_on(made, text)
        chat = [{"role": "user", "content": text}]
        theirs = made.theirs.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        assert made.ours.apply_chat_template(chat) == theirs

    check()


def test_templates_of_which_none_is_the_default_refuse_in_the_same_words(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(tiny_tokenizer, "chat_template", {"rag": "", "tool_use": ""})
    parts = parts_of(tiny_tokenizer)
    copy, _ = faithful_copy(tiny_tokenizer, parts)
    for each in (parts, copy):
        with pytest.raises(Exception, match=r"multiple chat templates with no default specified.*\['rag', 'tool_use'\]"):
            TransformersTokenizer(each).apply_chat_template([{"role": "user", "content": "a"}])


def test_a_token_the_rust_part_remembers_as_special_is_noticed():
    """Added as special and then as plain, it stays special; but that is not written down."""
    from tokenizers import AddedToken

    theirs = tiny_tokenizers.KINDS["byte-level BPE"][0]()
    theirs.backend_tokenizer.add_special_tokens([AddedToken("<twice>", special=True)])
    assert faithful_copy(theirs, parts_of(theirs)) is not None
    theirs.backend_tokenizer.add_tokens([AddedToken("<twice>", special=False)])
    assert faithful_copy(theirs, parts_of(theirs)) is None


def test_a_class_that_decodes_in_its_own_way_is_used_itself():
    """Even one whose way shows on few texts."""
    from transformers import PreTrainedTokenizerFast

    class Careful(PreTrainedTokenizerFast):
        __module__ = "transformers.models.careful"

        def _decode(self, *args, **kwargs):
            return super()._decode(*args, **kwargs).replace("foxes", "****")

    theirs = Careful(tokenizer_object=tiny_tokenizers.KINDS["byte-level BPE"][0]().backend_tokenizer)
    parts = parts_of(theirs)
    assert TransformersTokenizer(parts).decode(theirs("the foxes")["input_ids"]) == "the ****"
    assert faithful_copy(theirs, parts) is None


def test_classes_that_are_not_transformers_own_are_used_themselves():
    from transformers import PreTrainedTokenizerFast

    class Own(PreTrainedTokenizerFast):
        pass

    theirs = Own(tokenizer_object=tiny_tokenizers.KINDS["byte-level BPE"][0]().backend_tokenizer)
    assert faithful_copy(theirs, parts_of(theirs)) is None


def test_what_is_written_in_python_inside_the_rust_part_is_used_itself():
    from tokenizers import pre_tokenizers

    class Splitter:
        def pre_tokenize(self, pretok):
            pretok.split(lambda i, text: text.split("x"))

    theirs = tiny_tokenizers.KINDS["byte-level BPE"][0]()
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Splitter())
    assert faithful_copy(theirs, parts_of(theirs)) is None


@pytest.mark.slow
def test_a_start_that_finds_a_copy_imports_neither_transformers_nor_torch_nor_jinja2(tmp_path):
    import subprocess
    import sys

    directory = tiny_tokenizers.build("byte-level BPE", tmp_path)
    load_parts(directory)
    check = (
        "import sys, pathlib; from pagecli.model.tokenizer.loading import load_parts; load_parts(pathlib.Path(sys.argv[1]));"
        "from pagecli.model import tokenizer; print([m for m in ('torch', 'transformers', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check, str(directory)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_broken_tokenizer_is_the_same_error_whether_copies_are_kept_or_not(tmp_path, monkeypatch):
    from pagecli.errors import ModelError

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "opt"}))
    messages = set()
    for content in ("{", "[]"):
        (tmp_path / "tokenizer.json").write_text(content)
        for folder in (tmp_path / "cache", ""):
            monkeypatch.setenv("PAGECLI_CACHE_DIR", str(folder))
            with pytest.raises(ModelError, match="no usable tokenizer") as caught:
                load_parts(tmp_path)
            messages.add((content, caught.value.message))
    assert len(messages) == 2
    assert not (tmp_path / "cache").exists()


def test_with_an_empty_folder_name_nothing_is_kept(tiny_model, monkeypatch):
    monkeypatch.setenv("PAGECLI_CACHE_DIR", "")
    monkeypatch.setattr(loading, "write", lambda *args: pytest.fail("written"))
    source = type("Source", (), {"tokenizer_path": tiny_model("opt"), "config": type("C", (), {"eos_token_ids": ()})})
    assert load_tokenizer(source).encode("") == []
