"""Chat templates: rendered as transformers renders them, in a sandbox that hostile ones neither leave nor keep running."""

import time

import pytest

from pagecli.errors import ErrorCode, RowError
from pagecli.model.tokenizer import chat_template
from pagecli.model.tokenizer.chat_template import ChatTemplate
from pagecli.model.tokenizer.parts import parts_of
from pagecli.model.tokenizer.tokenizer import TransformersTokenizer

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "<b> & 'ü'", "name": None},
    {"role": "assistant", "content": "Yes.", "reasoning": "because"},
    {"role": "user", "content": "Why?"},
]
HONEST = [
    "{% for m in messages %}{{ m.role }}: {{ m['content'] | trim }}{% if not loop.last %}\n{% endif %}{% endfor %}",
    "{{ bos_token }}{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ m | tojson }}{% else %}none{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content|length %}{% endfor %}{{ ns.n }}",
    "{%- macro turn(m) %}<{{ m.role }}>{{ caller() }}{% endmacro %}"
    "{% for m in messages %}{% call turn(m) %}x{% endcall %}{% endfor %}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}",
    "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|{{ loop.cycle('a', 'b') }};{% endfor %}",
    "{{ '-' * 8 }}{{ 2 ** 10 }}{% if tools %}tools{% endif %}{% if add_generation_prompt %}assistant{% endif %}",
    "{% for n in [[1, [2]], [3]] recursive %}{% if n is iterable %}{{ loop(n) }}{% else %}{{ n }}{% endif %}{% endfor %}",
]
ENDLESS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for x in range(9999) recursive %}{{ loop(range(9999)) if loop.depth < 5 }}{% endfor %}",
    "{% for i in range(99999) %}{% set y = range(99999) | list | sort %}{% endfor %}",
]
HOSTILE = [
    "{{ messages.__class__.__mro__ }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ raise_exception.__globals__ }}{{ raise_exception.__globals__['sys'] }}",
    "{{ (messages | map(attribute='__class__') | list)[0].__mro__ }}",
    "{{ '{0.__class__.__mro__[1]}'.format(messages) }}{{ messages.append(1) }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ namespace(**{'__class__': 1}) }}",
    "{{ messages.append({}) }}",
    "{{ 'a' * 10 ** 10 }}",
    "{{ [1] * 10 ** 10 }}",
    "{{ 10 ** (10 ** 10) }}",
    "{{ lipsum(n=1000000) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
]


@pytest.mark.parametrize("template", HONEST)
def test_template_renders_as_transformers_renders_it(tiny_tokenizer, template):
    theirs = tiny_tokenizer.apply_chat_template(CHAT, chat_template=template, tokenize=False, add_generation_prompt=True)
    assert ChatTemplate(template, tiny_tokenizer.special_tokens_map).render(CHAT) == theirs


def test_sample_models_own_template_renders_as_transformers_renders_it(sample_model):
    from pagecli.model.tokenizer.loading import load_with_transformers
    from pagecli.model.tokenizer.tokenizer import load_tokenizer

    ours, theirs = load_tokenizer(sample_model), load_with_transformers(sample_model.tokenizer_path)
    for chat in (CHAT, CHAT[1:2]):
        assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]


@pytest.mark.parametrize("template", ENDLESS)
def test_endless_template_ends_as_a_row_error(tiny_tokenizer, monkeypatch, template):
    monkeypatch.setattr(chat_template, "MAX_STEPS", 20_000)
    monkeypatch.setattr(chat_template, "MAX_SECONDS", 0.3)
    started = time.monotonic()
    error = refusal(tiny_tokenizer, monkeypatch, template)
    assert "without an end" in error.message
    assert error.code == ErrorCode.NOT_TOKENIZABLE
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("template", HOSTILE)
def test_template_cannot_leave_the_sandbox_or_fill_memory(tiny_tokenizer, monkeypatch, template):
    error = refusal(tiny_tokenizer, monkeypatch, template)
    assert error.message.startswith("the chat template refuses these messages: ")
    assert "\n" not in error.message


def refusal(tokenizer, monkeypatch, template) -> RowError:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(RowError) as caught:
        TransformersTokenizer(parts_of(tokenizer)).apply_chat_template(CHAT)
    return caught.value
