"""Token ids and chat prompts are those of transformers; what a row cannot have is the row's error."""

import json
import shutil
import threading
from dataclasses import replace

import pytest
from test_gguf import write_gguf
from tiny_models import make_tokenizer

from pagecli.errors import ErrorCode, ModelError, RowError
from pagecli.model.registry import resolve_model
from pagecli.model.tokenizer.loading import load_tokenizer
from pagecli.model.tokenizer.tokenizer import TokenizerPanic, TransformersTokenizer, parts_of

TEXTS = [
    "",
    "The quick brown fox",
    " leading and trailing ",
    "naïve café 東京 🙂",
    "<|im_start|>user\nhi<|im_end|>",
    "a\n\n\tb",
    "x" * 300,
]
CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "Hi 🙂"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
]


def assert_equal_to(theirs, ours) -> None:
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs(text)["input_ids"]
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)
    for chat in CHATS:
        assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert ours.vocab_size == len(theirs)


def test_a_directorys_tokenizer_equals_transformers(tiny_model):
    from transformers import AutoTokenizer

    ours = load_tokenizer(resolve_model(str(tiny_model("qwen3"))))
    assert_equal_to(AutoTokenizer.from_pretrained(tiny_model("qwen3")), ours)
    assert ours.has_chat_template
    assert ours.eos_token_ids == (2,)


@pytest.mark.parametrize(("name", "architecture"), [("llama", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")])
def test_a_gguf_files_tokenizer_equals_transformers(tiny_model, tmp_path, name, architecture):
    from transformers import AutoTokenizer

    path = write_gguf(tmp_path / "tiny.gguf", tiny_model(name), architecture)
    ours = load_tokenizer(resolve_model(str(path)))
    assert_equal_to(AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name), ours)
    assert ours.eos_token_ids == (2, 1)


@pytest.mark.slow
def test_smollm2s_tokenizer_equals_transformers(sample_model):
    from transformers import AutoTokenizer

    path, ours = sample_model.weights_path, load_tokenizer(sample_model)
    assert_equal_to(AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name), ours)
    assert ours.decode(ours.apply_chat_template(CHATS[0]), skip_special_tokens=False).endswith("<|im_start|>assistant\n")


def test_beginning_of_text_is_added_once_where_the_tokenizer_adds_it(tiny_model, tmp_path):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    theirs = make_tokenizer()
    theirs.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    shutil.copytree(tiny_model("llama"), tmp_path, dirs_exist_ok=True)
    theirs.save_pretrained(tmp_path)
    ours = load_tokenizer(resolve_model(str(tmp_path)))
    assert_equal_to(AutoTokenizer.from_pretrained(tmp_path), ours)
    assert ours.encode("a")[0] == 0
    assert 0 not in ours.apply_chat_template(CHATS[0])


def test_truncation_saved_with_a_tokenizer_never_cuts_a_prompt():
    theirs = make_tokenizer()
    theirs.backend_tokenizer.enable_truncation(4)
    theirs.backend_tokenizer.enable_padding(length=8)
    ours = TransformersTokenizer(parts_of(theirs))
    assert len(ours.encode("The quick brown fox jumps over the lazy dog")) > 8
    assert ours.encode("") == []


def test_without_a_chat_template_messages_are_the_rows_error(tiny_model, tmp_path):
    shutil.copytree(tiny_model("opt"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").unlink()
    ours = load_tokenizer(resolve_model(str(tmp_path)))
    assert not ours.has_chat_template
    with pytest.raises(RowError, match="no chat template") as caught:
        ours.apply_chat_template(CHATS[0])
    assert "--no-chat" in caught.value.hint


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content.missing.attribute }}",
        "{% for m in messages %}{{ m['content'] + 1 }}{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% unclosed",
    ],
)
def test_a_template_that_fails_or_reaches_out_is_the_rows_error(template):
    theirs = make_tokenizer()
    theirs.chat_template = template
    with pytest.raises(RowError, match="the chat template refuses these messages") as caught:
        TransformersTokenizer(parts_of(theirs)).apply_chat_template(CHATS[0])
    assert "\n" not in caught.value.message


def test_text_that_is_no_unicode_is_the_rows_error(tiny_tokenizer):
    with pytest.raises(RowError, match="cannot be tokenized"):
        TransformersTokenizer(parts_of(tiny_tokenizer)).encode("half a pair: \ud83d")


def test_one_thread_may_encode_while_another_decodes(tiny_tokenizer):
    ours, failures = TransformersTokenizer(parts_of(tiny_tokenizer)), []
    text = "The capital of France is Paris. " * 20
    expected = ours.encode(text)

    def repeat(work, result) -> None:
        try:
            assert all(work() == result for _ in range(200))
        except BaseException as error:
            failures.append(error)

    jobs = [(lambda: ours.encode(text), expected), (lambda: ours.decode(expected), text)]
    threads = [threading.Thread(target=repeat, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_bytes_stand_for_tokens_when_a_dummy_model_has_no_tokenizer():
    ours = load_tokenizer(resolve_model("opt-125m", "dummy"))
    assert ours.encode("é") == [0xC3, 0xA9]
    assert ours.decode(ours.encode("naïve 東京")) == "naïve 東京"
    assert ours.decode([0xC3, 256 + 65]) == "\ufffdA"
    assert (ours.vocab_size, ours.eos_token_ids, ours.has_chat_template) == (50272, (2,), False)
    with pytest.raises(RowError, match="no tokenizer"):
        ours.apply_chat_template(CHATS[0])


def test_a_model_without_usable_tokenizer_files_is_refused_in_one_line(tiny_model, tmp_path):
    shutil.copytree(tiny_model("opt"), tmp_path, dirs_exist_ok=True)
    for content in ("{", json.dumps({"version": "1.0"}), None):
        (tmp_path / "tokenizer.json").unlink()
        if content is not None:
            (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ModelError, match="no usable tokenizer") as caught:
            load_tokenizer(resolve_model(str(tmp_path)))
        assert "\n" not in caught.value.message


@pytest.mark.slow
def test_a_text_that_the_tokenizer_panics_on_is_the_rows_error_and_the_next_one_is_tokenized():
    """A split that backtracks without end: the regular expression engine gives up, and PyO3 raises a BaseException."""
    from tokenizers import Regex, pre_tokenizers

    tokenizer = make_tokenizer()
    split = pre_tokenizers.Split(Regex(r"(a+)+$"), "isolated")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False)])
    ours = TransformersTokenizer(parts_of(tokenizer))
    for encode in (ours.encode, lambda text: ours.apply_chat_template([{"role": "user", "content": text}])):
        with pytest.raises(RowError, match="gives up on this text") as refused:
            encode("a" * 60 + "!")
        assert refused.value.code is ErrorCode.NOT_TOKENIZABLE
        assert encode("a! b") == encode("a! b")


def test_a_panic_while_decoding_is_an_exception_like_others(monkeypatch):
    class PanicException(BaseException):
        pass

    PanicException.__module__ = "pyo3_runtime"

    def decode(*args, **settings):
        raise PanicException("index out of bounds")

    ours = TransformersTokenizer(replace(parts_of(make_tokenizer()), own_decode=decode))
    with pytest.raises(TokenizerPanic, match="index out of bounds"):
        ours.decode([1])
