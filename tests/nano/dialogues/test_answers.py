"""What is answered is right, by another way to find it."""

from __future__ import annotations

import calendar
import itertools
import json
import random
import re

import pytest

from ling.nano.dialogues import (
    arithmetic,
    copying,
    dates,
    definitions,
    facts,
    identity,
    knowledge,
    lists,
    memory,
    numbers,
    smalltalk,
    tools_time,
    tools_values,
    unknown,
    words,
    writing,
)
from ling.nano.dialogues.draw import Draw, with_typo
from ling.nano.dialogues.turns import is_held_out, turn

OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
MANY = 600


def turns(make, split="train", count=MANY):
    for n in range(count):
        yield make(Draw(random.Random(n), split))


def of(kind, kinds):
    (found,) = [k for k in kinds if k.kind == kind]
    return found


def called(kind, count=300):
    for n in range(count):
        rng = random.Random(n)
        yield kind.ask(Draw(rng, "train"), kind.offer(rng, "train"))


def test_sums_are_right_and_of_the_numbers_that_are_asked():
    seen = set()
    for asked in turns(arithmetic.arithmetic):
        answer = asked.answers[0]
        if answer.startswith("That is too large"):
            assert max(map(int, re.findall(r"\d+", asked.text)), default=11) > 10
            continue
        a, operator, b, result = re.fullmatch(r"(\d+) (.) (\d+) = (-?\d+)\.", answer).groups()
        assert OPERATIONS[operator](int(a), int(b)) == int(result)
        for number in (a, b):
            text = asked.text.lower()
            assert number in text or arithmetic.in_words(int(number)) in text or "half" in text
        seen.add(operator)
    assert seen == set(OPERATIONS)


def test_a_calculator_returns_what_python_does():
    for asked in called(of("tool-calculator", tools_values.VALUES)):
        expression, value = asked.answers[0].removesuffix(".").split(" = ")
        assert eval(expression) == int(value)
        assert [*asked.call.arguments.values()] == [expression]
        assert str(value) in json.dumps(asked.call.result)
        assert set(re.findall(r"\d+", expression)) == set(re.findall(r"\d+", asked.text))


IN_BASE = {
    "km": 1000, "m": 1, "cm": 0.01, "mm": 0.001, "miles": 1609, "inches": 0.0254, "feet": 0.3048,
    "kg": 1000, "g": 1, "pounds": 453.6, "ounces": 28.35, "h": 3600, "min": 60, "s": 1, "l": 1,
    "ml": 0.001, "gallons": 3.785,
}  # fmt: skip


def test_units_are_converted():
    for asked in called(of("tool-units", tools_values.VALUES)):
        n, unit, _, value, other = asked.answers[0].removesuffix(".").split()
        exact = int(n) * IN_BASE[unit] / IN_BASE[other]
        assert float(value) == pytest.approx(exact, abs=6e-4, rel=1e-3)
    for asked in turns(dates.units, count=200):
        n, _, _, many, _ = asked.answers[0].split()
        assert int(many) % int(n) == 0


def test_days_and_months_follow_each_other():
    order = [[*calendar.day_name], [*calendar.month_name][1:]]
    checked = 0
    for asked in turns(dates.dates):
        answer = asked.answers[0].removesuffix(".")
        if found := re.fullmatch(r"(\w+) comes (after|before) (\w+)", answer):
            to, side, at = found.groups()
            (names,) = [names for names in order if at in names]
            step = 1 if side == "after" else -1
            assert names[(names.index(at) + step) % len(names)] == to
        elif found := re.fullmatch(r"(\d) days (after|before) (\w+) is (\w+)", answer):
            n, side, at, to = found.groups()
            step = int(n) if side == "after" else -int(n)
            assert order[0][(order[0].index(at) + step) % 7] == to
        elif found := re.fullmatch(r"(\w+) has (\d+) days.*", answer):
            month = order[1].index(found[1]) + 1
            assert calendar.monthrange(2023, month)[1] == int(found[2])
        elif found := re.fullmatch(r"(\d+) hours? (\w+) (\d+) o'clock is (\d+) o'clock", answer):
            n, at, to = (int(found[i]) for i in (1, 3, 4))
            assert (at + (n if found[2] == "after" else -n) - to) % 12 == 0
            assert 1 <= to <= 12
        else:
            continue
        checked += 1
    assert checked > MANY / 2


def test_numbers_are_counted_compared_and_sorted():
    for asked in turns(numbers.numbers):
        answer = asked.answers[0]
        shown = [int(n) for n in re.findall(r"\d+", answer)]
        given = [int(n) for n in re.findall(r"\d+", asked.text)]
        if re.fullmatch(r"(\d+, )+\d+\.", answer):
            steps = {b - a for a, b in itertools.pairwise(shown)}
            assert steps in ({1}, {-1}) or shown == sorted(given)
        elif " is " in answer and " than " in answer:
            assert (shown[0] > shown[1]) == ("smaller" not in answer)
        elif answer.endswith((" is even.", " is odd.")):
            assert ("even" in answer) == (shown[0] % 2 == 0)
            assert answer.startswith("Yes" if answer[-5:-1] in asked.text.lower() else "No") or (
                "odd" in answer
            )


def test_lists_are_of_their_category_and_sorted():
    for asked in turns(lists.lists):
        answer, text = asked.answers[0].removesuffix("."), asked.text.lower()
        if re.search("sort (?!of)", text) or "in order" in text:
            found = answer.split(", ")
            assert found == sorted(found)
            assert all(word in text for word in found)
        elif answer.endswith(" comes first"):
            given = re.findall(r"[a-z]+", text.split("alphabet")[1])
            assert answer.split()[0] in given
    known = {w for found in words.CATEGORIES.values() for w in found}
    assert len(known) > 200


def test_what_is_said_again_was_said():
    for asked in turns(copying.copying):
        text, answer = asked.text.lower(), asked.answers[0].lower()
        if "-" in answer or "letter" in text or "letters" in answer:
            continue
        assert all(word.strip('".') in text for word in answer.split())


def test_facts_answer_with_what_the_text_has():
    truths = 0
    for asked in turns(facts.facts):
        text, answer = asked.text.lower(), asked.answers[0].lower().removesuffix(".")
        if answer.startswith(("yes, ", "no, ")):
            # Said of the thing that is asked for, in the sentence that tells it.
            truths += 1
            answer = answer.split(", ", 1)[1]
        assert set(re.findall(r"\w+", answer)) - {"the", "is"} <= set(re.findall(r"\w+", text))
    assert truths > MANY / 6


def test_definitions_are_short_and_of_words_that_people_use():
    glosses = [
        ("dog", "n", "a tame animal (of the genus Canis); it barks"),
        ("dog", "n", "another sense of it"),
        ("cat", "n", "x" * 80),
        ("zyzzyva", "n", "a tropical weevil"),
        ("red", "a", "of the colour of blood"),
        ("up", "r", "too short a word"),
        ("walk", "v", "to walk on foot"),
    ]
    found = definitions.chosen(glosses)
    assert [(f.word, f.part, f.gloss) for f in found] == [
        ("dog", "noun", "a tame animal"),
        ("red", "adjective", "of the colour of blood"),
        ("zyzzyva", "noun", "a tropical weevil"),
    ]
    for asked in turns(lambda d: definitions.definition(d, found), count=100):
        word = asked.answers[0].split(":")[0].lower().split()[-1].strip(".")
        assert word in asked.text.lower()


@pytest.mark.parametrize(
    "make",
    [
        smalltalk.greeting,
        smalltalk.smalltalk,
        memory.introduction,
        identity.identity,
        knowledge.knowledge,
        unknown.unknown,
        writing.writing,
    ],
)
def test_tables_are_filled_in(make):
    for split in ("train", "held_out"):
        for asked in turns(make, split, 300):
            shown = asked.text + "".join(asked.answers)
            assert asked.text.strip() == asked.text
            assert all(asked.answers)
            assert not set(shown) & set("{}~|")
            assert "=>" not in shown


def test_what_a_tool_of_time_returns_is_told():
    for kind in tools_time.TIME:
        for asked in called(kind, 50):
            for value in asked.call.arguments.values():
                assert str(value) in asked.answers[0]


def test_one_in_sixteen_is_held_out_whatever_its_case_and_punctuation():
    held = [n for n in range(4000) if is_held_out(turn(f"What is {n}?", "x"))]
    assert 0.05 < len(held) / 4000 < 0.075
    assert all(is_held_out(turn(f"what is {n}", "x")) for n in held)
    assert not is_held_out(turn(f"What is {held[0]}?", "x", is_always_trained=True))


def test_a_typo_is_in_one_longer_word():
    rng = random.Random(0)
    assert with_typo(rng, "how is it") == "how is it"
    changed = {with_typo(rng, "what is your favourite colour") for _ in range(50)}
    assert all(text.startswith("what is ") for text in changed)
    assert len(changed) > 10
