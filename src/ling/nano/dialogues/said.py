"""Questions that have a fixed answer, from lists: several wordings, one or more answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from .draw import Draw, with_typo
from .turns import Turn


class Said(NamedTuple):
    """Wordings to train on and to hold out, each with its punctuation, and what is answered."""

    trained: tuple[str, ...]
    new: tuple[str, ...]
    answers: tuple[str, ...]


@cache
def read_said(table: str) -> tuple[Said, ...]:
    """Rows of `wording|wording|~held-out wording => answer|answer`, one a line."""
    rows = []
    for line in filter(None, map(str.strip, table.splitlines())):
        asked, answers = (part.strip().split("|") for part in line.split("=>"))
        trained = tuple(w.strip() for w in asked if not w.strip().startswith("~"))
        new = tuple(w.strip()[1:] for w in asked if w.strip().startswith("~"))
        rows.append(Said(trained, new, tuple(a.strip() for a in answers)))
    return tuple(rows)


def say(d: Draw, rows: Sequence[Said], greetings: Sequence[str]) -> Turn:
    """One of the rows, alone or behind a greeting. A wording alone is always trained on."""
    row = d.one(rows)
    words = d.words(row.trained, row.new)
    greeting = d.one(greetings) if d.chance(0.35) else ""
    text = d.text(greeting + words if words[:2] == "I " else greeting + _small(words, greeting))
    if d.split == "train" and d.chance(0.06):
        text = with_typo(d.rng, text)
    answers = [*row.answers]
    d.rng.shuffle(answers)
    is_bare = not greeting and not d.is_new
    return d.turn(text, *answers, key=greeting + words, is_always_trained=is_bare)


def _small(words: str, greeting: str) -> str:
    """A wording as it continues a greeting that ends in a comma."""
    if not greeting.endswith(", ") or words.startswith(("I'", "Ling")):
        return words
    return words[:1].lower() + words[1:]
