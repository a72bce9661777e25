"""Questions about what the prompt says: one to three facts, answered in a word or by yes and no."""

from __future__ import annotations

from typing import NamedTuple

from . import words
from .draw import Draw, article, capital
from .turns import Turn


class Fact(NamedTuple):
    """A sentence with the questions that it answers."""

    text: str
    asked: tuple[tuple[str, str], ...]
    """(question, answer)"""
    yes_no: tuple[str, str, str]
    """A question that is right with the first value and wrong with the second, and the true text"""
    other: str


def facts(d: Draw) -> Turn:
    """Facts of one form, about different people and things, and a question about one of them."""
    told, asked, answer = told_and_asked(d)
    shown = _laid_out(d, told, asked)
    return d.turn(shown.lower() if d.is_lower else shown, answer)


def told_and_asked(d: Draw) -> tuple[str, str, str]:
    """The facts, the question, and its answer."""
    people = _people(d, d.one((1, 1, 1, 2, 2, 3)))
    make = d.one(_FORMS)
    found = [make(d, who, n) for n, who in enumerate(people)]
    told, about = " ".join(f.text for f in found), d.one(found)
    if d.chance(0.3):
        is_true = d.chance(0.5)
        asked, right, sentence = about.yes_no
        text = asked.format(x=right if is_true else about.other)
        answer = f"{'Yes' if is_true else 'No'}, {sentence}."
    else:
        text, answer = d.one(about.asked)
    return (told.lower(), text.lower(), _in_small(answer)) if d.is_lower else (told, text, answer)


def _in_small(answer: str) -> str:
    """Names stay as they were typed."""
    small = answer.lower()
    return capital(small) if small.startswith(("no,", "yes,", "the ")) else small


def _laid_out(d: Draw, told: str, asked: str) -> str:
    if d.split == "held_out" and d.chance(0.2):
        d.is_new = True
        return f"{asked} Here is what I know: {told}"
    return d.one((
        f"{told} {asked}", f"{told} {asked}", f"{told}\n{asked}", f"{asked} {told}",
        f"Read this: {told} {asked}", f"{told} Question: {asked}",
        f"Text: {told}\nQuestion: {asked}",
    ))  # fmt: skip


def _people(d: Draw, count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        who = words.name(d.rng)
        if who not in found:
            found.append(who)
    return found


def _owns(d: Draw, who: str, n: int) -> Fact:
    colour, other = d.some(words.COLOURS, 2)
    # Each a part of the list of its own, so that no two facts are about the same thing.
    thing = d.one(words.THINGS[n::3])
    verb = d.one(("has", "owns", "bought", "found", "sees"))
    ask = {"has": "have", "owns": "own", "bought": "buy", "found": "find", "sees": "see"}[verb]
    did = "did" if verb in ("bought", "found") else "does"
    return Fact(
        f"{who} {verb} {article(colour)} {thing}.",
        (
            (f"What colour is the {thing}?", f"The {thing} is {colour}."),
            (f"What colour is the {thing} of {who}?", f"The {thing} is {colour}."),
            (f"Who {verb} the {thing}?", f"{who} {verb} the {thing}."),
            (f"What {did} {who} {ask}?", f"{who} {verb} {article(colour)} {thing}."),
        ),
        (f"Is the {thing} {{x}}?", colour, f"the {thing} is {colour}"),
        other,
    )


def _owns_two(d: Draw, who: str, n: int) -> Fact:
    """Two things of one person: which of them is asked for decides."""
    colour, second = d.some(words.COLOURS[n::3], 2)
    thing, other = d.some(words.THINGS[n::3], 2)
    verb, ask = d.one((("has", "have"), ("owns", "own"), ("wants", "want"), ("sells", "sell")))
    both = f"{article(colour)} {thing} and {article(second)} {other}"
    return Fact(
        f"{who} {verb} {both}.",
        (
            (f"What colour is the {thing}?", f"The {thing} is {colour}."),
            (f"What colour is the {other}?", f"The {other} is {second}."),
            (f"Which of them is {colour}?", f"The {thing} is {colour}."),
            (f"What does {who} {ask}?", f"{who} {verb} {both}."),
        ),
        (f"Is the {thing} {{x}}?", colour, f"the {thing} is {colour}"),
        second,
    )


def _lives(d: Draw, who: str, n: int) -> Fact:
    city, other = words.city(d.rng), words.city(d.rng)
    other = other if other != city else "Nowhere"
    verb, ask = d.one((("lives", "live"), ("works", "work"), ("was born", "")))
    where = f"Where does {who} {ask}?" if ask else f"Where was {who} born?"
    return Fact(
        f"{who} {verb} in {city}.",
        (
            (where, f"{who} {verb} in {city}."),
            (f"Who {verb} in {city}?", f"{who} {verb} in {city}."),
        ),
        (
            f"Does {who} {ask} in {{x}}?" if ask else f"Was {who} born in {{x}}?",
            city,
            f"{who} {verb} in {city}",
        ),
        other,
    )


def _age(d: Draw, who: str, n: int) -> Fact:
    years, other = d.rng.sample(range(3, 99), 2)
    return Fact(
        f"{who} is {years} years old.",
        (
            (f"How old is {who}?", f"{who} is {years} years old."),
            (f"What is the age of {who}?", f"{who} is {years} years old."),
        ),
        (f"Is {who} {{x}} years old?", str(years), f"{who} is {years} years old"),
        str(other),
    )


def _job(d: Draw, who: str, n: int) -> Fact:
    job, other = d.some(words.CATEGORIES["job"][n::3], 2)
    return Fact(
        f"{who} is {article(job)}.",
        (
            (f"What is the job of {who}?", f"{who} is {article(job)}."),
            (f"What does {who} do?", f"{who} is {article(job)}."),
            (f"Who is {article(job)}?", f"{who} is {article(job)}."),
        ),
        (f"Is {who} {{x}}?", article(job), f"{who} is {article(job)}"),
        article(other),
    )


def _place(d: Draw, who: str, n: int) -> Fact:
    room, other = d.some(words.ROOMS[n::3], 2)
    thing = d.one(words.THINGS[n::3])
    where = d.one(("in", "in", "near"))
    return Fact(
        f"The {thing} is {where} the {room}.",
        (
            (f"Where is the {thing}?", f"The {thing} is {where} the {room}."),
            (f"What is {where} the {room}?", f"The {thing} is {where} the {room}."),
        ),
        (f"Is the {thing} {where} the {{x}}?", room, f"the {thing} is {where} the {room}"),
        other,
    )


def _price(d: Draw, who: str, n: int) -> Fact:
    price, other = d.rng.sample(range(2, 99), 2)
    thing = d.one(words.THINGS[n::3])
    unit = d.one(("euros", "dollars"))
    return Fact(
        f"The {thing} costs {price} {unit}.",
        (
            (f"How much is the {thing}?", f"The {thing} costs {price} {unit}."),
            (f"What does the {thing} cost?", f"The {thing} costs {price} {unit}."),
            (f"What is the price of the {thing}?", f"The {thing} costs {price} {unit}."),
        ),
        (f"Does the {thing} cost {{x}} {unit}?", str(price), f"the {thing} costs {price} {unit}"),
        str(other),
    )


def _likes(d: Draw, who: str, n: int) -> Fact:
    liked, other = d.some([*words.CATEGORIES["fruit"], *words.CATEGORIES["animal"]][n::3], 2)
    many = words.plural(liked)
    return Fact(
        f"{who} likes {many}.",
        (
            (f"What does {who} like?", f"{who} likes {many}."),
            (f"Who likes {many}?", f"{who} likes {many}."),
        ),
        (f"Does {who} like {{x}}?", many, f"{who} likes {many}"),
        words.plural(other),
    )


def _called(d: Draw, who: str, n: int) -> Fact:
    animal = d.one(words.CATEGORIES["animal"][n::3])
    other = words.name(d.rng)
    other = other if other != who else "Nobody"
    return Fact(
        f"The {animal} is called {who}.",
        (
            (f"What is the name of the {animal}?", f"The {animal} is called {who}."),
            (f"What is the {animal} called?", f"The {animal} is called {who}."),
            (f"Who is {who}?", f"{who} is the {animal}."),
        ),
        (f"Is the {animal} called {{x}}?", who, f"the {animal} is called {who}"),
        other,
    )


_FORMS = (_owns, _owns, _owns_two, _lives, _age, _job, _place, _price, _likes, _called)
