"""What words mean, from glosses that are given: those of WordNet, short ones of short words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from . import words
from .draw import Draw, article, capital
from .knowledge import COMMON
from .turns import Turn


class Definition(NamedTuple):
    """A word, what part of speech it is ("noun", "verb", "adjective", "adverb"), and its gloss."""

    word: str
    part: str
    gloss: str


_PARTS = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb",
"adj": "adjective", "adv": "adverb"}  # fmt: skip
_SHORTEST, _LONGEST = 8, 60
_ASKED = (
    "what does {w} mean", "what is the meaning of {w}", "define {w}", "meaning of {w}",
    "what is the definition of {w}", "explain the word {w}", "what does the word {w} mean",
    "definition of {w}", "give me the meaning of {w}", "tell me what {w} means", "explain {w}",
)  # fmt: skip
_NEW = ("in your own words, what does {w} mean", "what do people mean by {w}")


def chosen(records: Iterable[Sequence[str]], most: int = 600) -> tuple[Definition, ...]:
    """Of (word, part of speech, gloss), the first short gloss of each word that people use often.

    Words of the other grammars come first, then short ones in the order in which they are given.
    """
    common: dict[str, Definition] = {}
    others: dict[str, Definition] = {}
    for word, part, gloss in records:
        short = _short(gloss)
        if not re.fullmatch(r"[a-z]{3,9}", word) or short is None or word in short.split():
            continue
        group = common if word in COMMON else others
        group.setdefault(word, Definition(word, _PARTS.get(part, part), short))
    return tuple([*common.values(), *others.values()][:most]) if common else ()


def _short(gloss: str) -> str | None:
    """The first part of a gloss, or None if it is too long or not plain words."""
    first = re.sub(r"\([^)]*\)", "", gloss).split(";")[0].split(":")[0].strip()
    first = re.sub(r"\s+", " ", first)
    is_plain = re.fullmatch(r"[a-zA-Z][a-zA-Z ,'-]*", first) is not None
    is_meaning = is_plain and "meaning" not in first
    return first if is_meaning and _SHORTEST <= len(first) <= _LONGEST else None


def definition(d: Draw, known: Sequence[Definition]) -> Turn:
    """One of the words, or a made-up one that it does not know."""
    if d.chance(0.1):
        w = words.made_up(d.rng)
        return d.turn(d.asked(d.words(_ASKED, _NEW, w=w)), f"I do not know the word {w}.")
    found = d.one(known)
    # What is in a list is asked for its kind so, and answered with it.
    if found.part == "noun" and found.word not in words.NOUNS and d.chance(0.2):
        asked = d.question(f"what is {article(found.word)}")
    else:
        w = f'"{found.word}"' if d.chance(0.25) else found.word
        asked = d.asked(d.words(_ASKED, _NEW, w=w))
    return d.turn(asked, f"{capital(found.word)}: {found.gloss}.")
