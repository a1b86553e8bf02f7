"""Chat templates: rendered as transformers renders them, in a sandbox that hostile ones neither leave nor keep running."""

import copy
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from jinja2 import TemplateError

from pagecli.errors import ErrorCode, RowError
from pagecli.model.tokenizer.templates import limits, process
from pagecli.model.tokenizer.templates.chat_template import ChatTemplate
from pagecli.model.tokenizer.templates.process import TemplateProcess, TemplateRefused
from pagecli.model.tokenizer.tokenizer import TransformersTokenizer, parts_of

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


@pytest.mark.slow
def test_sample_models_own_template_renders_as_transformers_renders_it(sample_model):
    from pagecli.model.tokenizer.loading import load_tokenizer, load_with_transformers

    ours, theirs = load_tokenizer(sample_model), load_with_transformers(sample_model.tokenizer_path)
    for chat in (CHAT, CHAT[1:2]):
        assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]


def cpu_seconds() -> float:
    """Of this process and those that it has waited for: whatever else the machine does."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


@pytest.mark.slow
@pytest.mark.parametrize("template", ENDLESS)
def test_endless_template_ends_as_a_row_error(tiny_tokenizer, monkeypatch, template):
    monkeypatch.setattr(limits, "MAX_STEPS", 20_000)
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.3)
    started = cpu_seconds()
    error = refusal(tiny_tokenizer, monkeypatch, template)
    assert "without an end" in error.message
    assert error.code == ErrorCode.NOT_TOKENIZABLE
    assert cpu_seconds() - started < 5


@pytest.mark.parametrize("template", HOSTILE)
def test_template_cannot_leave_the_sandbox_or_fill_memory(template):
    asks_for_a_file = "include" in template or "import" in template
    with pytest.raises(TypeError if asks_for_a_file else TemplateError):
        ChatTemplate(template, {}).render(CHAT)


@pytest.mark.slow
@pytest.mark.parametrize("template", HOSTILE)
def test_what_a_template_must_not_do_is_its_rows_error(tiny_tokenizer, monkeypatch, template):
    error = refusal(tiny_tokenizer, monkeypatch, template)
    assert error.message.startswith("the chat template refuses these messages: ")
    assert "\n" not in error.message


def refusal(tokenizer, monkeypatch, template) -> RowError:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(RowError) as caught:
        TransformersTokenizer(parts_of(tokenizer)).apply_chat_template(CHAT)
    return caught.value


# Each holds the interpreter for minutes, or fills the memory, in one operation.
TOO_LARGE = [
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (10 ** 9, 1) }}",
    "{{ '%.1000000000f' | format(1.0) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10 ** 9) }}",
    "{{ 7 ** 9999999 % 3 }}",
    "{% set ns = namespace(n=7) %}{% for i in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}{{ ns.n % 3 }}",
    "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% set ns = namespace(s=[1, 2]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{{ ([1, 2] * 5000000) | sort }}",
    "{{ messages | slice(10 ** 9) | list }}",
    "{{ messages | batch(10 ** 9, 'x') | list }}",
    "{{ messages | tojson(indent=10 ** 9) }}",
    "{{ 'a' | center(10 ** 9) }}{{ 'a'.ljust(10 ** 9) }}",
    "{{ '\t'.expandtabs(10 ** 9) }}",
    "{{ 'a' | indent(10 ** 9, first=true) }}",
    "{{ ('a' * 10 ** 6).replace('a', 'b' * 10 ** 6) }}",
    "{{ ('a' * 10 ** 6) | replace('', 'b' * 10 ** 6) }}",
    "{{ ('a' * 10 ** 6) | join('b' * 10 ** 6) }}{{ ('b' * 10 ** 6).join(['a'] * 10 ** 6) }}",
    "{{ (1).to_bytes(10 ** 10, 'big') }}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
]
UNSEEN = "{% if messages[0].content == 'run' %}{{ ([[1]] * 1000000) | sum(start=[]) }}{% endif %}fine"


@pytest.mark.parametrize("template", TOO_LARGE)
def test_what_would_hold_the_interpreter_or_fill_memory_is_refused_before_it_is_made(template, monkeypatch):
    monkeypatch.setattr(limits, "MAX_TEXT", 1 << 22)  # as texts of 128 MiB are, by the same sums
    started = cpu_seconds()
    with pytest.raises((TemplateError, RecursionError, ValueError)):
        ChatTemplate(template, {}).render(CHAT)
    assert cpu_seconds() - started < 10


def process_of(template):
    return TemplateProcess("chat", text=template, special_tokens={}, now=datetime(2026, 1, 1))


@pytest.mark.slow
def test_what_no_bound_sees_is_killed_and_the_next_row_is_rendered(monkeypatch):
    """The sum copies 10^12 bytes in one call, in which Python heeds no signal; other threads run meanwhile."""
    monkeypatch.setattr(limits, "MAX_SECONDS", 1.0)
    rendered, ticks, over = process_of(UNSEEN), [], threading.Event()

    def tick():
        while not over.wait(0.02):
            ticks.append(None)

    thread = threading.Thread(target=tick)
    assert rendered.render(CHAT) == "fine"
    thread.start()
    try:
        with pytest.raises(TemplateRefused, match="ran more than 1 seconds without an end"):
            rendered.render([{"role": "user", "content": "run"}])
    finally:
        over.set()
    thread.join()
    assert len(ticks) > 5  # of about 50, on a machine that does nothing else
    assert rendered.render(CHAT) == "fine"


@pytest.mark.slow
def test_a_template_that_never_compiles_is_tried_once(monkeypatch):
    rendered = process_of("{% for %}")
    for _ in range(2):
        with pytest.raises(TemplateRefused, match="Expected an expression"):
            rendered.render(CHAT)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(TemplateRefused, match="Expected an expression"):
        rendered.render(CHAT)


@pytest.mark.slow
def test_memory_that_no_bound_sees_is_the_rows_error():
    rendered = process_of("{{ (['a' * 10 ** 7] * 10 ** 4) | join }}")
    with pytest.raises(TemplateRefused, match=r"needs too much memory|was ended by"):
        rendered.render(CHAT)


@pytest.mark.slow
def test_a_process_that_ended_while_it_had_nothing_to_do_is_started_again():
    rendered = process_of("fine")
    assert rendered.render(CHAT) == "fine"
    rendered._process.kill()
    rendered._process.wait()
    assert rendered.render(CHAT) == "fine"


@pytest.mark.slow
def test_a_conversation_that_was_broken_off_does_not_answer_the_next_row(monkeypatch):
    template = process_of("{{ messages[0].content }}")
    assert template.render([{"content": "first"}]) == "first"
    with monkeypatch.context() as patch:
        patch.setattr(TemplateProcess, "_read", broken_off)
        with pytest.raises(OSError, match="broken off"):
            template.render([{"content": "second"}])
    assert template.render([{"content": "third"}]) == "third"


def broken_off(*args):
    raise OSError("broken off")


def test_where_no_process_can_be_started_templates_are_rendered_all_the_same(monkeypatch):
    def fail(*args, **settings):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", fail)
    rendered = process_of("{{ messages | length }}")
    assert [rendered.render(CHAT), rendered.render(CHAT[:1])] == ["4", "1"]
    for template, said in {"{{ messages.append({}) }}": "is unsafe", "{% for %}": "Expected an expression"}.items():
        refused = process_of(template)
        for _ in range(2):
            with pytest.raises(TemplateRefused, match=said):
                refused.render(CHAT)


@pytest.mark.slow
def test_surrogates_dates_and_long_texts_go_there_and_back():
    rendered = process_of("{{ messages[0].content }}|{{ messages[0].day.year }}|{{ strftime_now('%d') }}")
    text = "\ud800 🙂\n" * 300_000
    assert rendered.render([{"role": "user", "content": text, "day": datetime(2020, 1, 1)}]) == f"{text}|2020|01"


@pytest.mark.slow
def test_the_process_ends_with_the_one_that_started_it():
    code = (
        "import os, sys; from datetime import datetime; from pagecli.model.tokenizer.templates.process import TemplateProcess\n"
        "t = TemplateProcess('chat', text='{{ ([[1]] * 1000000) | sum(start=[]) if messages else 1 }}', special_tokens={})\n"
        "t.render([]); print(t._process.pid, flush=True); t.render([1])"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "it runs on"
        time.sleep(0.05)


def test_of_two_templates_the_one_for_tools_is_that_of_transformers(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = {
        "default": "plain {{ messages[0].content }}",
        "tool_use": "{{ tools | tojson }} {{ messages[0].content }}",
    }
    ours = TransformersTokenizer(parts_of(tokenizer))
    messages, tools = [{"role": "user", "content": "the fox"}], [{"type": "function", "function": {"name": "f"}}]
    for given in (None, tools):
        ids = tokenizer.apply_chat_template(messages, tools=given, add_generation_prompt=True, return_dict=False)
        assert ours.apply_chat_template(messages, {"tools": given}) == ids


@pytest.mark.slow
def test_a_process_that_was_stopped_for_long_refuses_no_row(monkeypatch):
    """As where a machine is suspended, or a job is put into the background: seconds pass in which nothing is computed."""
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.2)
    rendered = process_of("{{ messages[0].content }}")
    rendered.render(CHAT)
    os.kill(rendered._process.pid, signal.SIGSTOP)
    going_on = threading.Timer(3.5, os.kill, (rendered._process.pid, signal.SIGCONT))
    going_on.start()
    started = time.monotonic()
    assert rendered.render(CHAT) == CHAT[0]["content"]
    assert time.monotonic() - started > 3
    going_on.join()


@pytest.mark.slow
def test_a_process_that_never_goes_on_is_given_up(monkeypatch):
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.2)
    monkeypatch.setattr(process, "MOST_IDLE_WAITS", 2)
    rendered = process_of("fine")
    rendered.render(CHAT)
    os.kill(rendered._process.pid, signal.SIGSTOP)
    with pytest.raises(TemplateRefused, match="without an end"):
        rendered.render(CHAT)
    assert rendered.render(CHAT) == "fine"
