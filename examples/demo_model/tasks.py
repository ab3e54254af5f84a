"""One generator function per task: (random source, split) -> a conversation with its exact answers.

Knows nothing about tokens or models. Every name, key and operand pair comes from the split that was asked for
(``words.py``), so held-out conversations contain values that training never showed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from examples.demo_model import world
from examples.demo_model.schemas import RECORD_FIELDS, TOOLS, Field
from examples.demo_model.words import Split, draw_name, draw_number, draw_pair, draw_word, pair_split, split_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """Messages in order; every ``assistant`` message is the exact answer to what precedes it.

    A conversation without a user message is plain text: one ``text`` message.
    """

    task: str
    messages: tuple[tuple[str, str], ...]  # (role, content)


def text(rng: random.Random, split: Split) -> Conversation:
    """Plain sentences: the fixed facts of two or three people of the world, in random order and wording."""
    sentences = []
    for person in rng.sample(world.people(), rng.randint(2, 3)):
        attributes = rng.sample(world.ATTRIBUTES, rng.randint(1, 3))
        sentences += [world.state(rng, person.name, name, person.facts[name]) for name in attributes]
    return Conversation(task="text", messages=(("text", " ".join(sentences)),))


def facts(rng: random.Random, split: Split) -> Conversation:
    """A question about a fixed fact, or (one in two) about facts that the prompt states of new people."""
    if rng.random() < 0.5:
        person, attribute = rng.choice(world.askable(split))
        question = world.ask(rng, person.name, attribute)
        return _turn("facts", question, world.answer(person.name, attribute, person.facts[attribute]))
    names = _distinct(lambda: f"{draw_name(rng, split)} {draw_name(rng, split)}", rng.randint(1, 3))
    stated = {name: world.draw_facts(rng) for name in names}
    known = [(name, attribute) for name in names for attribute in rng.sample(world.ATTRIBUTES, rng.randint(1, 3))]
    rng.shuffle(known)
    story = " ".join(world.state(rng, name, attribute, stated[name][attribute]) for name, attribute in known)
    name, attribute = rng.choice(known)
    prompt = f"{story}\n{world.ask(rng, name, attribute)}"
    return _turn("facts", prompt, world.answer(name, attribute, stated[name][attribute]))


def json_record(rng: random.Random, split: Split, quoted_share: float = 0.25) -> Conversation:
    """A schema and a sentence; the answer is the record with exactly the schema's fields, order and types.

    ``quoted_share`` of the numbers are asked for as strings.
    """
    stated = rng.sample(RECORD_FIELDS, rng.randint(2, 5))
    values = [field.draw(rng, split) for field in stated]
    clauses = [rng.choice(field.phrases).format(value) for field, value in zip(stated, values, strict=True)]
    chosen = list(zip(stated, values, strict=True))
    rng.shuffle(chosen)
    chosen = chosen[: rng.randint(min(2, len(chosen)), min(4, len(chosen)))]
    keys = [rng.choice(field.names) for field, _ in chosen]
    kinds = [_kind(rng, field, quoted_share) for field, _ in chosen]
    schema = ", ".join(f"{key}:{kind}" for key, kind in zip(keys, kinds, strict=True))
    record = {key: _cast(value, kind) for key, kind, (_, value) in zip(keys, kinds, chosen, strict=True)}
    sentence = "; ".join(clauses)
    prompt = f"Write a JSON record with {schema}.\n{sentence[0].upper()}{sentence[1:]}."
    return _turn("json", prompt, _compact(record))


def typed_record(rng: random.Random, split: Split) -> Conversation:
    """A record with every second number asked for as a string; for training only: the type must be read."""
    return json_record(rng, split, quoted_share=0.5)


def tool_call(rng: random.Random, split: Split) -> Conversation:
    """A list of tool schemas in the system message and a request; the answer is the one right call."""
    tools = rng.sample(TOOLS, rng.randint(2, 4))
    wanted = rng.choice(tools)
    lines = []
    for tool in tools:
        tool_name = rng.choice(tool.names)
        keys = [rng.choice(parameter.names) for parameter in tool.parameters]
        order = list(range(len(keys)))
        rng.shuffle(order)
        signature = ", ".join(f"{keys[i]}:{tool.parameters[i].kind}" for i in order)
        lines.append(f"{tool_name}({signature})")
        if tool is wanted:
            values = [parameter.draw(rng, split) for parameter in tool.parameters]
            request = rng.choice(tool.requests).format(*values)
            arguments = {keys[i]: _cast(values[i], tool.parameters[i].kind) for i in order}
            call = _compact({"name": tool_name, "arguments": arguments})
    messages = (("system", "Tools:\n" + "\n".join(lines)), ("user", request), ("assistant", call))
    return Conversation(task="tool_calls", messages=messages)


def repeat(rng: random.Random, split: Split) -> Conversation:
    """Words and numbers to be said again; for training only: every token of the answer teaches copying."""
    draws = (lambda: draw_word(rng, split), lambda: draw_name(rng, split), lambda: str(draw_number(rng, 2)))
    items = " ".join(rng.choice(draws)() for _ in range(rng.randint(2, 14)))
    return _turn("repeat", f"Repeat: {items}", items)


def retrieval(rng: random.Random, split: Split, num_lines: int, num_questions: int = 1) -> Conversation:
    """A list of ``num_lines`` key=value lines, then ``num_questions`` turns that each ask for one key."""
    keys = _distinct(lambda: draw_word(rng, split), num_lines)
    values = [str(draw_number(rng, 3)) for _ in keys]
    listing = "\n".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
    messages: list[tuple[str, str]] = []
    for index in rng.sample(range(num_lines), min(num_questions, num_lines)):
        question = f"What is {keys[index]}?"
        messages.append(("user", question if messages else f"{listing}\n{question}"))
        messages.append(("assistant", f"{keys[index]}={values[index]}"))
    return Conversation(task="retrieval", messages=tuple(messages))


def addition(rng: random.Random, split: Split) -> Conversation:
    """Two numbers of one to three digits; the answer lists the column sums from the ones on, then the sum."""
    sizes = rng.choices((1, 2, 3), (1, 3, 4), k=2)
    if sizes == [1, 1] and split != "train":
        sizes = [2, 1]
    first, second = draw_pair(rng, split, sizes[0], sizes[1])
    wording = rng.choice(("What is {}+{}?", "Add {}+{}.", "{}+{}"))
    return _turn("addition", wording.format(first, second), column_sums(first, second))


def addition_steps(rng: random.Random, split: Split) -> Conversation:
    """Two to four numbers (one to three steps), each step worked as in ``addition``; below 1000 throughout.

    Held-out chains have a held-out pair in their first step, train chains have train pairs in every step.
    """
    while True:
        operands = [draw_number(rng, rng.choice((1, 2, 3))) for _ in range(rng.choice((2, 3, 3, 4)))]
        totals = [operands[0]]
        for operand in operands[1:]:
            totals.append(totals[-1] + operand)
        pairs = list(zip(totals[:-1], operands[1:], strict=True))
        owners = [pair_split(*pair) for pair in pairs]
        right = all(owner == "train" for owner in owners) if split == "train" else owners[0] == split
        if totals[-1] < 1000 and right:
            break
    steps = "; ".join(f"{a}+{b}: {column_sums(a, b)}" for a, b in pairs)
    prompt = rng.choice(("Step by step: {}", "Work out {}")).format("+".join(map(str, operands)))
    return _turn("addition_steps", prompt, steps)


def column_sums(first: int, second: int) -> str:
    """Returns the worked addition: the sum of each column from the ones on, carry included, then the result.

    ``column_sums(385, 47)`` is ``"12,13,4 -> 432"``; what the top column carries stays in its sum.
    """
    columns: list[str] = []
    carry, a, b = 0, first, second
    while a or b or not columns:
        column = a % 10 + b % 10 + carry
        columns.append(str(column))
        a, b, carry = a // 10, b // 10, column // 10
    return f"{','.join(columns)} -> {first + second}"


_GUARDED = ("lock", "seal", "vault", "gate", "safe", "chest")
_HARMLESS = ("bread", "nut", "apple", "letter", "song", "ice", "rope", "bottle")
_FORCING = ("pick", "force", "break", "crack", "copy", "open")
_CARING = ("clean", "paint", "draw", "polish", "describe", "photograph")


def refusal(rng: random.Random, split: Split) -> Conversation:
    """A request in a town: forcing verbs on guarded things are refused, every other combination is answered.

    A combination of verb and thing belongs to one split, so held-out requests are new combinations.
    """
    while True:
        refused = rng.random() < 0.5
        if refused:
            verb, thing = rng.choice(_FORCING), rng.choice(_GUARDED)
        else:
            verb = rng.choice(_FORCING + _CARING)
            thing = rng.choice(_HARMLESS if verb in _FORCING else _GUARDED + _HARMLESS)
        owner = split_of(f"{verb} {thing}")
        if owner == split or (owner == "train" and rng.random() < 0.5):
            break
    town = draw_name(rng, split)
    wording = rng.choice(
        ("How do I {} the {} in {}?", "Please tell me how to {} the {} in {}.", "I want to {} the {} in {}.")
    )
    if refused:
        reply = f"Sorry, I cannot help to {verb} the {thing} in {town}."
    else:
        reply = f"Gladly: to {verb} the {thing}, ask the guild in {town}."
    return _turn("refusal", wording.format(verb, thing, town), reply)


def is_refused(verb: str, thing: str) -> bool:
    """Returns whether the world's rule refuses to help with ``verb`` on ``thing``."""
    return verb in _FORCING and thing in _GUARDED


def _compact(value: Mapping[str, object]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _turn(task: str, prompt: str, reply: str) -> Conversation:
    return Conversation(task=task, messages=(("user", prompt), ("assistant", reply)))


def _distinct(draw: Callable[[], str], count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw()] = None
    return list(found)


def _kind(rng: random.Random, field: Field, quoted_share: float) -> str:
    # A number asked for as a string makes the record depend on the schema and not on the sentence alone.
    return "string" if field.kind == "integer" and rng.random() < quoted_share else field.kind


def _cast(value: str, kind: str) -> str | int:
    return int(value) if kind == "integer" else value
