"""Templates are bounded: whatever they ask for, they render or are refused within the time and memory allowed."""

import time

import pytest

from flyweight.chat_template import ChatTemplate, TemplateLimits
from flyweight.errors import CheckpointError, UsageError

MESSAGES = [{"role": "user", "content": "x"}]


def render(source: str, limits: TemplateLimits | None = None) -> str:
    return ChatTemplate(source, origin="here", limits=limits).render(MESSAGES, variables={})


def test_steps_are_counted_wherever_they_are_made():
    limits = TemplateLimits(steps=1000)
    for source in (
        "{% for i in range(2000) %}{% endfor %}",
        "{% for i in range(50) %}{% for j in range(50) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(12) }}",
        "{{ range(2000) | map('upper') | list }}",
        "{{ 1 }}" * 1001,
    ):
        with pytest.raises(UsageError, match="more than 1000 steps"):
            render(source, limits)
    assert render("{% for i in range(900) %}{% endfor %}done", limits) == "done"


def test_time_is_bounded():
    began = time.thread_time()
    with pytest.raises(UsageError, match=r"more than 0\.05 s"):
        render(
            "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
            TemplateLimits(seconds=0.05),
        )
    assert time.thread_time() - began < 0.5


@pytest.mark.parametrize(
    "join", ["{% set a = a ~ a %}", "{% set a = a + a %}", "{% set a %}{{ a }}{{ a }}{% endset %}"]
)
def test_a_string_cannot_double_without_end(join):
    with pytest.raises(UsageError, match="makes a value of"):
        render("{% set a = '12345678' %}" + join * 60, TemplateLimits(value_size=10_000))
    assert render("{% set a = '12345678' %}" + join * 3 + "{{ a | length }}") == "64"


def test_what_is_made_on_the_way_is_bounded():
    with pytest.raises(UsageError, match="more than 5000 characters on the way"):
        render("{% for i in range(100) %}{% set a = 'a' * 99 %}{% endfor %}", TemplateLimits(total_size=5000))


def test_sources_are_bounded():
    with pytest.raises(CheckpointError, match="has 2000 characters; 1000 are allowed"):
        ChatTemplate("a" * 2000, origin="here", limits=TemplateLimits(source_size=1000))
    for source in ("{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}", "{% if 1 %}" * 2000 + "{% endif %}" * 2000):
        with pytest.raises(CheckpointError, match="nested too deeply"):
            ChatTemplate(source, origin="here")


def test_no_template_can_reach_its_budget():
    for source in ("{{ self._context }}", "{{ caller }}", "{% for name in dict() %}{{ name }}{% endfor %}"):
        assert "budget" not in render(source)


def test_loops_keep_what_templates_ask_of_them():
    assert render(
        "{% for c in 'abc' %}{{ loop.index }}/{{ loop.length }}{{ c }}{{ '' if loop.last else ',' }}{% endfor %}"
    ) == ("1/3a,2/3b,3/3c")
    assert render("{% for k, v in {'a': 1}.items() if v %}{{ k ~ v }}{% else %}none{% endfor %}") == "a1"
