"""Lists: items of a category, first and last, sorting, counting, members."""

from __future__ import annotations

from .draw import Draw, article, capital, joined
from .turns import Turn
from .words import CATEGORIES, NOUNS, PLURALS, made_up, plural

_COUNTS = ("two", "three", "four", "five", "2", "3", "4", "5")


def lists(d: Draw) -> Turn:
    """One question about a list or a category."""
    return d.one((_name, _name, _name, _place, _place, _sort, _length, _member, _odd_one, _kind))(d)


def group(category: str) -> str:
    """The plural of a category."""
    return PLURALS.get(category, plural(category))


def _name(d: Draw) -> Turn:
    category = d.one([*CATEGORIES])
    if d.chance(0.25):
        asked = d.words(("name {x}", "tell me {x}", "give me {x}", "give me the name of {x}"),
                        ("think of {x}",), x=article(category))  # fmt: skip
        return d.turn(d.request(asked), f"{capital(d.one(CATEGORIES[category]))}.", key="")
    n = d.rng.randrange(min(4, len(CATEGORIES[category]) - 1))
    asked = d.words(
        ("name {n} {x}", "list {n} {x}", "give me {n} {x}", "tell me {n} {x}", "write {n} {x}",
         "give me a list of {n} {x}", "say {n} {x}", "give me the names of {n} {x}"),
        ("think of {n} {x}", "come up with {n} {x}"),
        n=_COUNTS[n + (4 if d.chance(0.4) else 0)], x=group(category))  # fmt: skip
    # The order of the list: what is asked often is answered the same way, and can be learned.
    found = CATEGORIES[category][: n + 2]
    return d.turn(d.request(asked), capital(joined(found)) + ".")


def some_words(d: Draw, low: int, high: int) -> list[str]:
    """Different words, some of them made up."""
    count = d.rng.randint(low, high)
    found = d.some(NOUNS, count)
    return [made_up(d.rng) if d.chance(0.2) else word for word in found]


def _place(d: Draw) -> Turn:
    items = some_words(d, 3, 5)
    places = [("first", 0), ("last", -1), ("second", 1)] + [("third", 2)] * (len(items) > 3)
    place, at = d.one(places)
    asked = d.words(
        ("what is the {p} word of: {x}", "which is the {p} word: {x}", "what is the {p} of {x}",
         "give me the {p} word of {x}", "{x}: what is the {p} word"),
        ("say only the {p} word of {x}",), p=place, x=", ".join(items))  # fmt: skip
    is_behind = asked.startswith(items[0])
    text = d.text(asked + "?") if is_behind else d.asked(asked)
    return d.turn(text, f"{items[at]}.")


def _sort(d: Draw) -> Turn:
    items = d.some(NOUNS, d.rng.randint(2, 4))
    if len(items) == 2:
        first = min(items)
        asked = d.words(("which comes first in the alphabet, {a} or {b}",
                         "what is first in the alphabet: {a} or {b}"),
                        ("of {a} and {b}, which is first in the alphabet",),
                        a=items[0], b=items[1])  # fmt: skip
        return d.turn(d.asked(asked), f"{first} comes first.")
    asked = d.words(("sort these words: {x}", "sort by the alphabet: {x}", "put in order: {x}",
                     "sort {x}"), ("order these words: {x}",), x=", ".join(items))  # fmt: skip
    return d.turn(d.request(asked), ", ".join(sorted(items)) + ".")


def _length(d: Draw) -> Turn:
    items = some_words(d, 2, 6)
    asked = d.words(("how many words are these: {x}", "how many things are these: {x}",
                     "count the words: {x}", "how long is this list: {x}"),
                    ("say how many words these are: {x}",), x=", ".join(items))  # fmt: skip
    return d.turn(d.asked(asked), f"{len(items)}.")


# Categories whose words have no article.
_BARE = {"colour", "sport", "drink", "metal", "season", "meal", "language", "country", "planet"}


def _pair(d: Draw) -> tuple[str, str, bool]:
    """A word with its article, a category, and whether the word belongs to it."""
    own, other = d.some([*CATEGORIES], 2)
    word = d.one(CATEGORIES[own])
    belongs = d.chance(0.5) or word in CATEGORIES[other]
    return word if own in _BARE else article(word), own if belongs else other, belongs


def _member(d: Draw) -> Turn:
    shown, category, belongs = _pair(d)
    asked = d.words(("is {w} {c}", "is {w} really {c}"), ("would you say that {w} is {c}",),
                    w=shown, c=article(category))  # fmt: skip
    answer = f"Yes, {shown} is {article(category)}." if belongs else (
        f"No, {shown} is not {article(category)}.")  # fmt: skip
    return d.turn(d.asked(asked), capital(answer))


def _kind(d: Draw) -> Turn:
    category = d.one(("animal", "bird", "fish", "insect", "fruit", "vegetable", "tool", "vehicle",
                      "instrument", "tree", "flower", "garment"))  # fmt: skip
    word = d.one([w for w in CATEGORIES[category] if w not in ("cricket", "orange", "ash")])
    asked = d.words(("what kind of thing is {w}", "what is {w}", "what sort of thing is {w}"),
                    ("to what group does {w} belong",), w=article(word))  # fmt: skip
    return d.turn(d.asked(asked), f"{capital(article(word))} is {article(category)}.")


def _odd_one(d: Draw) -> Turn:
    own, other = d.some(("animal", "fruit", "colour", "tool", "vehicle", "job"), 2)
    right = [w for w in d.some(CATEGORIES[own], 3) if w != "orange"]
    odd = d.one([w for w in CATEGORIES[other] if w != "orange"])
    items = [*right, odd]
    d.rng.shuffle(items)
    asked = d.words(("which word does not belong: {x}", "which is not {c}: {x}",
                     "find the odd one: {x}", "which one of these is not {c}: {x}"),
                    ("which word is surely not {c}: {x}",),
                    x=", ".join(items), c=article(own))  # fmt: skip
    return d.turn(d.asked(asked), f"{capital(odd)} is not {article(own)}.")
