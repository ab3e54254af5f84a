"""Checks of chat templates: none leaves the sandbox, none takes time or memory without end."""

import time

from flyweight.chat_template import ChatTemplate
from flyweight.errors import UsageError
from flyweight.serving.doctor.finding import Trials
from flyweight.serving.doctor.judge import control_answer, expect_alive, judge
from flyweight.serving.doctor.subject import Subject

LONGEST = 2.5  # seconds of processor time
SECRET = "root:"  # of /etc/passwd
DOUBLING = "{% set a = 'aaaaaaaa' %}"

ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ().__class__.__base__.__subclasses__() }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__.__builtins__.open('/etc/passwd').read() }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__.os }}",
    "{{ self.__init__.__globals__ }}",
    "{{ request.application.__globals__ }}",
    "{{ messages | attr('__class__') | attr('__mro__') }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ messages | map('attr', '__class__') | list }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ '{0.__class__}'.format_map({'0': messages}) }}",
    "{{ ('{0.__class__.__mro__}' | replace('x', 'y')).format(1) }}",
    "{% set f = '{0.__class__.__mro__}'.format %}{{ f(1) }}",
    "{{ ['{0.__class__.__mro__}'] | map('format', 1) | list }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ messages.pop() }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.popen('id').read() }}",
    "{% extends '/etc/passwd' %}",
    "{{ lipsum.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ ''|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "{{ messages.__getitem__.__self__.__class__.__base__ }}",
    "{{ (messages | first).items.__self__.__class__ }}",
    "{{ strftime_now.__code__ }}",
)
EXHAUSTING = (
    "{% for i in range(10 ** 9) %}{% endfor %}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{{ 'a' * 1000000000 }}",
    "{{ ([0] * 1000000000) | length }}",
    "{{ 10 ** 1000000000 }}",
    "{% set ns = namespace(x=3) %}{% for i in range(100) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "{{ 'a' | center(2000000000) }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ '1'.zfill(1000000000) }}",
    "{{ ('\t' * 100000).expandtabs(100000) }}",
    "{{ ('a\n' * 10000) | indent(1000000) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ '{:>{w}}'.format(1, w=1000000000) }}",
    "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}",
    "{{ range(100000) | join('a' * 1000000) }}",
    "{{ ('a' * 1000000).join(['b'] * 100000) }}",
    "{{ messages | tojson(indent=1000000000) }}",
    "{{ range(3) | batch(1000000000, 0) | list }}",
    "{{ range(3) | slice(1000000000) | list }}",
    "{{ ([[0] * 1000] * 10000) | sum(start=[]) | length }}",
    "{{ (65).to_bytes(1000000000, 'big') }}",
    "{{ lipsum(1000000, max=100000) }}",
    "{{ ('http://' * 100000) | urlize }}",
    DOUBLING + "{% set a = a ~ a %}" * 60,
    DOUBLING + "{% set a = a + a %}" * 60,
    DOUBLING + "{% set a %}{{ a }}{{ a }}{% endset %}" * 60,
    "{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}",
    "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
    "{{ " + "[" * 5000 + "]" * 5000 + " }}",
)
GIVEN_BY_REQUESTS = (
    {"chat_template": "{{ ''.__class__ }}"},
    {"chat_template": "x"},
    {"chat_template_kwargs": {"chat_template": "{{ 7 * 7 }}"}},
    {"chat_template_kwargs": {"tokenize": True, "messages": []}},
    {"chat_template_kwargs": {"a": {"b": [1] * 1000}}},
    {"template": "x"},
)


def chat_template(subject: Subject, trials: Trials) -> None:
    """vLLM CVE-2025-61620 (template DoS), CVE-2025-62426 (`chat_template_kwargs`); llama-cpp-python CVE-2024-34359
    (SSTI→RCE); SGLang CVE-2026-5760 (GGUF template SSTI via /v1/rerank); Jinja sandbox escape CVE-2024-56326."""
    for source in ESCAPES:
        text = _render(source)
        trials.expect(
            not any(word in text for word in ("<class", "subclasses", "<module", "builtin", SECRET, "uid=", "<code")),
            tried=source,
            found=text,
            wanted="a refusal, or nothing of Python's insides",
        )
    for source in EXHAUSTING:
        began = time.thread_time()
        text = _render(source)
        seconds = time.thread_time() - began
        trials.expect(
            seconds < LONGEST and len(text) < 1000,
            tried=source,
            found=f"{seconds:.1f} s, {len(text)} characters",
            wanted=f"a refusal within {LONGEST:g} s",
        )
    if subject.server is not None:
        _given_by_requests(subject, trials)


def _given_by_requests(subject: Subject, trials: Trials) -> None:
    before = control_answer(subject.target)
    for more in GIVEN_BY_REQUESTS:
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, **more}
        answer = subject.target.post("/v1/chat/completions", body)
        is_own = "chat_template" in more or "template" in more
        judge(trials, answer, f"chat with {more}", allowed=(400,) if is_own else (200, 400))
    for content in ("{{ 7 * 7 }}", "{% raw %}", "{{ ''.__class__ }}", "}}{{ 1 }}", "{#"):
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
        judge(trials, subject.target.post("/v1/chat/completions", body), f"a message {content!r}", allowed=(200,))
    expect_alive(trials, subject.target, before, "templates")


def _render(source: str) -> str:
    try:
        return ChatTemplate(source, origin="template").render([{"role": "user", "content": "x"}], variables={})
    except UsageError:
        return ""
