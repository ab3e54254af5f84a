"""The invented world: people with fixed facts, and how these facts are stated and asked for.

The facts are a pure function of ``WORLD_SEED``, so training text, questions and golden answers agree. Knows nothing
about tokens or models.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from examples.demo_model.words import Split, split_of

WORLD_SEED = 20
NUM_PEOPLE = 80

FIRST_NAMES = ("Alda", "Bram", "Cora", "Dorin", "Elma", "Falk", "Greta", "Hugo", "Ines", "Jorin")
LAST_NAMES = ("Ashdown", "Birch", "Calder", "Dunmore", "Elstow", "Farrow", "Gale", "Hollis", "Iveson", "Jessop")
TOWNS = (
    "Amberford",
    "Bexhollow",
    "Coldmere",
    "Dunwick",
    "Eastlow",
    "Fernhill",
    "Greyport",
    "Highmoor",
    "Inkwell",
    "Juniper",
    "Kingsley",
    "Lowbridge",
    "Millbrook",
    "Northgate",
    "Oakham",
    "Pinecrest",
)
JOBS = (
    "baker",
    "miller",
    "weaver",
    "potter",
    "smith",
    "teacher",
    "gardener",
    "fisher",
    "painter",
    "printer",
    "tailor",
    "carpenter",
    "doctor",
    "farmer",
    "pilot",
    "clerk",
)
INSTRUMENTS = ("flute", "drum", "harp", "fiddle", "horn", "lute", "organ", "bell")
COLORS = ("red", "blue", "green", "yellow", "white", "black", "orange", "purple")

ATTRIBUTES = ("town", "job", "instrument", "color")
_VALUES = {"town": TOWNS, "job": JOBS, "instrument": INSTRUMENTS, "color": COLORS}
_STATEMENTS = {
    "town": ("{name} lives in {value}.", "The home of {name} is in {value}.", "You can find {name} in {value}."),
    "job": ("{name} works as a {value}.", "The job of {name} is {value}.", "{name} earns a living as a {value}."),
    "instrument": ("{name} plays the {value}.", "The instrument of {name} is the {value}.", "{name} owns a {value}."),
    "color": ("{name} likes the color {value}.", "The favourite color of {name} is {value}.", "{name} wears {value}."),
}
_QUESTIONS = {
    "town": ("Where does {name} live?", "In which town does {name} live?"),
    "job": ("What is the job of {name}?", "What does {name} work as?"),
    "instrument": ("What does {name} play?", "Which instrument does {name} play?"),
    "color": ("Which color does {name} like?", "What is the favourite color of {name}?"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """One person: a full name and one value for each of ``ATTRIBUTES``."""

    name: str
    facts: dict[str, str]


@cache
def people() -> tuple[Person, ...]:
    """Returns the fixed inhabitants of the world, in a fixed order."""
    rng = random.Random(WORLD_SEED)
    names = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
    rng.shuffle(names)
    return tuple(Person(name=name, facts=draw_facts(rng)) for name in names[:NUM_PEOPLE])


def draw_facts(rng: random.Random) -> dict[str, str]:
    """Draws one value for every attribute."""
    return {attribute: rng.choice(_VALUES[attribute]) for attribute in ATTRIBUTES}


def state(rng: random.Random, name: str, attribute: str, value: str) -> str:
    """Returns one sentence that states the fact; the wording is drawn."""
    return rng.choice(_STATEMENTS[attribute]).format(name=name, value=value)


def ask(rng: random.Random, name: str, attribute: str) -> str:
    """Returns one question for the attribute; the wording is drawn."""
    return rng.choice(_QUESTIONS[attribute]).format(name=name)


def answer(name: str, attribute: str, value: str) -> str:
    """Returns the one exact answer to any wording of the question."""
    return _STATEMENTS[attribute][0].format(name=name, value=value)


@cache
def askable(split: Split) -> tuple[tuple[Person, str], ...]:
    """Returns the (person, attribute) pairs that may be asked in ``split``: train text states every fact, and asks
    only for those of its own split."""
    return tuple(
        (person, attribute)
        for person in people()
        for attribute in ATTRIBUTES
        if split_of(f"{person.name}/{attribute}") == split
    )
