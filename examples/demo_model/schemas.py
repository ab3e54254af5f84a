"""The fields of JSON records and the tools with their parameters: data for the generators of ``tasks.py``."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from examples.demo_model import world
from examples.demo_model.words import Split, draw_name, draw_number, draw_word

Draw = Callable[[random.Random, Split], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One value of a record or one parameter of a tool.

    ``names`` are the spellings that a schema may use, ``phrases`` the clauses that state the value in a sentence.
    """

    names: tuple[str, ...]
    kind: str  # "string" or "integer"
    draw: Draw
    phrases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """One tool: the spellings of its name, its parameters, and requests with one ``{}`` per parameter in order."""

    names: tuple[str, ...]
    parameters: tuple[Field, ...]
    requests: tuple[str, ...]


def _one_of(values: tuple[str, ...]) -> Draw:
    return lambda rng, split: rng.choice(values)


def _number(*sizes: int) -> Draw:
    return lambda rng, split: str(draw_number(rng, rng.choice(sizes)))


def _full_name(rng: random.Random, split: Split) -> str:
    return f"{draw_name(rng, split)} {draw_name(rng, split)}"


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

RECORD_FIELDS = (
    Field(
        names=("name", "person", "full_name"),
        kind="string",
        draw=_full_name,
        phrases=("the name is {}", "this is about {}"),
    ),
    Field(
        names=("town", "city", "place"), kind="string", draw=draw_name, phrases=("the town is {}", "it happened in {}")
    ),
    Field(names=("age", "years"), kind="integer", draw=_number(2), phrases=("the age is {}", "{} years old")),
    Field(names=("job", "work"), kind="string", draw=_one_of(world.JOBS), phrases=("the job is {}", "works as a {}")),
    Field(
        names=("color", "shade"),
        kind="string",
        draw=_one_of(world.COLORS),
        phrases=("the color is {}", "painted in {}"),
    ),
    Field(
        names=("price", "cost"), kind="integer", draw=_number(2, 3), phrases=("the price is {}", "it costs {} coins")
    ),
    Field(
        names=("count", "amount"),
        kind="integer",
        draw=_number(1, 2),
        phrases=("there are {} of them", "the count is {}"),
    ),
    Field(names=("day", "date"), kind="string", draw=_one_of(_DAYS), phrases=("the day is {}", "due on {}")),
    Field(names=("code", "id"), kind="string", draw=draw_word, phrases=("the code is {}", "marked with {}")),
)

_TO = Field(names=("to", "person", "receiver"), kind="string", draw=draw_name)
_TOWN = Field(names=("town", "city", "place"), kind="string", draw=draw_name)
_DAY = Field(names=("day", "date"), kind="string", draw=_one_of(_DAYS))
_MINUTES = Field(names=("minutes", "duration"), kind="integer", draw=_number(1, 2))
_LABEL = Field(names=("label", "title"), kind="string", draw=draw_word)
_COUNT = Field(names=("count", "amount"), kind="integer", draw=_number(1, 2, 3))
_COLOR = Field(names=("color", "shade"), kind="string", draw=_one_of(world.COLORS))
_ITEM = Field(names=("item", "product"), kind="string", draw=draw_word)
_INSTRUMENT = Field(names=("instrument", "sound"), kind="string", draw=_one_of(world.INSTRUMENTS))

TOOLS = (
    Tool(
        names=("set_timer", "start_timer"),
        parameters=(_MINUTES, _LABEL),
        requests=("Set a timer of {} minutes called {}.", "Start a {} minute timer named {}."),
    ),
    Tool(
        names=("send_note", "send_message"),
        parameters=(_LABEL, _TO),
        requests=("Send the note {} to {}.", "Let the message {} go to {}."),
    ),
    Tool(
        names=("get_weather", "weather"),
        parameters=(_TOWN, _DAY),
        requests=("What is the weather in {} on {}?", "Will it rain in {} on {}?"),
    ),
    Tool(
        names=("buy_item", "order_item"),
        parameters=(_COUNT, _ITEM),
        requests=("Buy {} pieces of {}.", "Order {} of {}."),
    ),
    Tool(
        names=("paint_wall", "set_color"),
        parameters=(_ITEM, _COLOR),
        requests=("Paint the wall of {} in {}.", "Let the wall {} become {}."),
    ),
    Tool(
        names=("book_train", "book_ticket"),
        parameters=(_TOWN, _DAY, _COUNT),
        requests=("Book a train to {} on {} for {} people.", "I travel to {} on {} with {} seats."),
    ),
    Tool(
        names=("play_music", "play_song"),
        parameters=(_LABEL, _INSTRUMENT),
        requests=("Play the song {} on the {}.", "I want to hear {} on the {}."),
    ),
    Tool(names=("find_person", "search_person"), parameters=(_TO,), requests=("Find {}.", "Who is {}?")),
)
