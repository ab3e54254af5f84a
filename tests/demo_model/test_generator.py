"""The demo model's generator: a function of its seed, held-out values kept apart, exact answers right."""

import json
import random
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))  # examples/ is no installed package

from examples.demo_model import tasks, world  # noqa: E402
from examples.demo_model.documents import MAX_LINES, Mix, draw_conversation, draw_retrieval  # noqa: E402
from examples.demo_model.schemas import TOOLS  # noqa: E402
from examples.demo_model.words import draw_pair, pair_split, split_of, words_of  # noqa: E402

DRAWS = (
    tasks.facts,
    tasks.json_record,
    tasks.tool_call,
    tasks.addition,
    tasks.addition_steps,
    tasks.refusal,
    tasks.repeat,
)
MIX = Mix(max_lines=MAX_LINES, retrieval_share=0.0)


def drawn(draw, split, count=300):
    rng = random.Random(f"test/{split}")
    return [draw(rng, split) for _ in range(count)]


@pytest.mark.parametrize("draw", [*DRAWS, tasks.text])
def test_same_seed_same_conversations(draw):
    assert drawn(draw, "train", 20) == drawn(draw, "train", 20)
    assert drawn(draw, "train", 20) != drawn(draw, "golden", 20)


@pytest.mark.parametrize("draw", DRAWS)
def test_held_out_prompts_never_occur_in_training(draw):
    train = {one.messages[:-1] for one in drawn(draw, "train", 3000)}
    assert not train & {one.messages[:-1] for one in drawn(draw, "golden", 1000)}


def test_splits_are_disjoint_and_held_out_is_about_a_sixteenth():
    train, dev, golden = (set(words_of(split)) for split in ("train", "dev", "golden"))
    assert not train & dev
    assert not train & golden
    assert not dev & golden
    assert 0.05 < len(golden) / (len(train) + len(dev) + len(golden)) < 0.08


def test_training_uses_no_held_out_word_or_pair():
    rng = random.Random(0)
    held_out = set(words_of("golden")) | set(words_of("dev"))
    for index in range(3000):
        conversation = (draw_retrieval if index % 6 == 0 else draw_conversation)(rng, "train", MIX)
        for _, content in conversation.messages:
            words = set(re.findall(r"[a-z]+", content.lower()))
            assert not words & held_out, content
            for a, b in re.findall(r"(\d+)\+(\d+):", content):
                assert pair_split(int(a), int(b)) == "train", content


def test_pairs_are_split_whatever_their_order():
    rng = random.Random(0)
    for _ in range(200):
        first, second = draw_pair(rng, "golden", 2, 3)
        assert pair_split(first, second) == pair_split(second, first) == "golden"
    with pytest.raises(ValueError, match="single digits"):
        draw_pair(rng, "golden", 1, 1)


@pytest.mark.parametrize("split", ["train", "golden"])
def test_additions_are_right(split):
    for draw in (tasks.addition, tasks.addition_steps):
        for conversation in drawn(draw, split):
            (_, prompt), (_, answer) = conversation.messages
            assert answer.endswith(f" -> {sum(map(int, re.findall(r'[0-9]+', prompt)))}")
            for columns, total in re.findall(r"([0-9,]+) -> ([0-9]+)", answer):
                digits = columns.split(",")
                assert digits[-1] + "".join(column[-1] for column in digits[-2::-1]) == total


def test_column_sums_by_hand():
    assert tasks.column_sums(385, 47) == "12,13,4 -> 432"
    assert tasks.column_sums(5, 5) == "10 -> 10"
    assert tasks.column_sums(900, 100) == "0,0,10 -> 1000"


def test_records_follow_their_schema():
    for conversation in drawn(tasks.json_record, "golden"):
        (_, prompt), (_, answer) = conversation.messages
        schema = re.findall(r"(\w+):(string|integer)", prompt.splitlines()[0])
        record = json.loads(answer)
        assert [(key, "integer" if isinstance(value, int) else "string") for key, value in record.items()] == schema
        assert all(str(value).lower() in prompt.lower() for value in record.values())


def test_calls_follow_their_tool():
    for conversation in drawn(tasks.tool_call, "golden"):
        (_, tools), (_, request), (_, answer) = conversation.messages
        call = json.loads(answer)
        signatures = dict(re.findall(r"^(\w+)\((.*)\)$", tools, flags=re.MULTILINE))
        expected = [tuple(parameter.split(":")) for parameter in signatures[call["name"]].split(", ")]
        found = [(key, "integer" if isinstance(value, int) else "string") for key, value in call["arguments"].items()]
        assert found == expected
        assert all(str(value) in request for value in call["arguments"].values())


def test_tool_names_tell_tools_apart():
    names = [name for tool in TOOLS for name in tool.names]
    assert len(names) == len(set(names))


def test_retrieval_keys_are_distinct_and_answers_listed():
    rng = random.Random(0)
    for num_lines in (2, 30, MAX_LINES):
        conversation = tasks.retrieval(rng, "golden", num_lines, num_questions=3)
        listing = conversation.messages[0][1].splitlines()[:-1]
        assert len({line.split("=")[0] for line in listing}) == num_lines
        assert all(content in listing for role, content in conversation.messages if role == "assistant")


def test_refusals_depend_on_verb_and_thing_together():
    seen = set()
    for conversation in drawn(tasks.refusal, "train"):
        (_, prompt), (_, answer) = conversation.messages
        verb, thing = re.search(r"(\w+) the (\w+) in", prompt).groups()
        seen.add(tasks.is_refused(verb, thing))
        assert answer.startswith("Sorry, I cannot") == tasks.is_refused(verb, thing)
    assert seen == {True, False}
    assert tasks.is_refused("break", "vault")
    assert not tasks.is_refused("break", "bread")
    assert not tasks.is_refused("paint", "vault")


def test_facts_agree_with_the_world_and_questions_are_held_out():
    assert len(world.people()) == world.NUM_PEOPLE
    owners = [world.askable(split) for split in ("train", "dev", "golden")]
    assert sum(map(len, owners)) == world.NUM_PEOPLE * len(world.ATTRIBUTES)
    known = {
        world.answer(person.name, attribute, person.facts[attribute])
        for person in world.people()
        for attribute in world.ATTRIBUTES
    }
    fixed = [one for one in drawn(tasks.facts, "golden") if "\n" not in one.messages[0][1]]
    assert fixed
    assert all(one.messages[1][1] in known for one in fixed)


def test_split_is_pinned():
    """The golden files were written with this split; another hash would let their values into training."""
    assert [split_of(value) for value in ("bege", "bafir", "bafe", "385+47")] == [
        "train",
        "golden",
        "dev",
        "golden",
    ]
