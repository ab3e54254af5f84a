"""Checks of structured output: no schema, regex or grammar takes the server down, holds it up, or hurts a neighbour."""

import json
import threading
import time
from typing import Any

from flyweight.serving.doctor.finding import Trials
from flyweight.serving.doctor.judge import control_answer, expect_alive, judge
from flyweight.serving.doctor.subject import Subject

Schema = dict[str, Any]
MANY_SCHEMAS = 200
REGEXES = (
    "(a+)+$", "(a|a)*$", "(.*a){25}", "((a{1,100}){1,100}){1,100}", "(" * 10_000 + ")" * 10_000, "[", "(?P<x>", "\\",
    "a{1000000000}",
    "(?=a)b", "\\1", "(?R)", "[\\ud800]", "\x00", "a" * 1_000_000, "(a?){5000}a{5000}", "[^\\w\\W]", "",
)  # fmt: skip
GRAMMARS = (
    "", "start: start", "start: a\na: b\nb: a", "start: " + "(" * 10_000 + '"a"' + ")" * 10_000, "root ::= root",
    'start: "a"{1000000000}', "start: /(a+)+$/", "%import common.WORD", "%llguidance {}", "start: %json{", "\x00",
    'start: "' + "a" * 1_000_000 + '"', "\n".join(f"r{place}: r{place + 1}" for place in range(20_000)),
)  # fmt: skip
CHOICES: tuple[Any, ...] = ([], [""], ["a"] * 100_000, ["a" * 1_000_000], [1], "a", [None])


def _nested(depth: int) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def _schemas() -> dict[str, Any]:
    return {
        "an enum of 1 MB": {"enum": [f"{place:07d}" for place in range(100_000)]},
        "itself": {"$ref": "#"},
        "two that call each other": {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        },
        "a reference to nowhere": {"$ref": "#/$defs/none"},
        "a reference to a file": {"$ref": "file:///etc/passwd"},
        "a tree of itself": {
            "type": "object",
            "properties": {"l": {"$ref": "#"}, "r": {"$ref": "#"}},
            "required": ["l"],
        },
        "50 levels": _nested(20),
        "any of thousands": {"anyOf": [{"const": place} for place in range(20_000)]},
        "all of many": {"allOf": [{"anyOf": [{"type": "string"}, {"type": "integer"}]} for _ in range(40)]},
        "huge bounds": {"type": "string", "minLength": 10**9, "maxLength": 10**9},
        "many items": {"type": "array", "items": {"type": "integer"}, "minItems": 10**9},
        "bounds of numbers": {"type": "integer", "minimum": -(10**300), "maximum": 10**300},
        "a step of a number": {"type": "number", "multipleOf": 1e-300},
        "a bad pattern": {"type": "string", "pattern": "(a+)+$"},
        "a broken pattern": {"type": "string", "pattern": "["},
        "a lone surrogate": {"const": "\ud800"},
        "an unknown type": {"type": "tensor"},
        "true": True,
        "a list": [],
        "no type at all": {},
        "impossible": {"type": "integer", "minimum": 5, "maximum": 1},
        "never": {"not": {}},
        "unknown words": {"x-unknown": 1, "unevaluatedItems": False, "contains": {"type": "string"}},
    }


def grammar_denial_of_service(subject: Subject, trials: Trials) -> None:
    """vLLM CVE-2025-48942, -48943, -48944, CVE-2025-48887/GHSA-j828-28rj-hfhp (ReDoS), CVE-2026-55574,
    GHSA-85xf-c7hm-whqw, CVE-2025-29770 (outlines disk cache), GHSA-hf3c-wxg2-49q9 (xgrammar cache); xgrammar
    CVE-2025-57809 (infinite recursion), CVE-2025-58446 (huge enum/regex CPU), CVE-2026-25048 (nesting),
    CVE-2025-32381/GHSA-389x-67px-mjg3; llama.cpp CVE-2026-2069, #22234 (grammar OOB), #22606 (regex)."""
    target = subject.target
    before = control_answer(target)
    for name, more in _constraints():
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4, **more}
        answer = target.post("/v1/chat/completions", body)
        judge(trials, answer, f"{name} {str(more)[:500]}", allowed=(200, 400, 413))
        expect_alive(trials, target, before, name) if answer.status not in (200, 400, 413) else None
    expect_alive(trials, target, before, "hostile grammars")
    _neighbour(subject, trials, before)
    _many(subject, trials, before)


def _constraints() -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for name, schema in _schemas().items():
        whole = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        found.append((f"schema: {name}", {"response_format": whole}))
        tool = {"type": "function", "function": {"name": "x", "parameters": schema}}
        found.append((f"tool: {name}", {"tools": [tool], "tool_choice": "required"}))
    found += [(f"regex: {one[:40]}", {"structured_outputs": {"regex": one}}) for one in REGEXES]
    found += [(f"grammar: {one[:40]}", {"structured_outputs": {"grammar": one}}) for one in GRAMMARS]
    found += [(f"choice: {str(one)[:40]}", {"structured_outputs": {"choice": one}}) for one in CHOICES]
    found.append(("two at once", {"structured_outputs": {"regex": "a", "choice": ["a"]}}))
    found.append(("a tool without a name", {"tools": [{"type": "function", "function": {"name": ""}}]}))
    found.append(("100,000 tools", {"tools": [{"type": "function", "function": {"name": "x"}}] * 100_000}))
    return found


def _neighbour(subject: Subject, trials: Trials, before: str) -> None:
    """While bad schemas are compiled, others are answered, and soon."""
    is_over = threading.Event()

    def attack() -> None:
        own = type(subject.target)(subject.target.url, key=subject.target.other_key or subject.target.key)
        attacks = [one for one in _constraints() if "enum" in one[0] or "thousands" in one[0] or "grammar" in one[0]]
        while not is_over.is_set():
            for _, more in attacks:
                own.post(
                    "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4, **more}
                )
                if is_over.is_set():
                    break
        own.close()

    thread = threading.Thread(target=attack, daemon=True)
    thread.start()
    slowest = 0.0
    for _ in range(5):
        began = time.monotonic()
        now = control_answer(subject.target)
        slowest = max(slowest, time.monotonic() - began)
        trials.expect(now == before, tried="a neighbour of bad grammars", found=now, wanted=before)
    is_over.set()
    thread.join()
    trials.expect(
        slowest < 10, tried="a neighbour of bad grammars", found=f"{slowest:.1f} s", wanted="an answer within 10 s"
    )


def _many(subject: Subject, trials: Trials, before: str) -> None:
    """Distinct schemas, more than any cache should hold."""
    count = 10_000 if subject.full else MANY_SCHEMAS
    for place in range(count):
        schema = {"type": "object", "properties": {f"a{place}": {"const": place}}, "required": [f"a{place}"]}
        whole = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "response_format": whole}
        answer = subject.target.ask("POST", "/v1/chat/completions", json.dumps(body).encode())
        judge(trials, answer, f"schema {place} of {count}", allowed=(200, 400))
    expect_alive(trials, subject.target, before, f"{count} schemas")
