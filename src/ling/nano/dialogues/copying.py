"""Saying words again, as they are, in part or in another order: what teaches to copy."""

from __future__ import annotations

from collections.abc import Sequence

from . import words
from .draw import Draw, capital
from .turns import Turn

_REPEAT = (
    "repeat after me: {x}", "repeat: {x}", "say {x}", "say: {x}", "write {x}", "write: {x}",
    "repeat this: {x}", "copy this: {x}", "copy: {x}", "say this: {x}", "type {x}", "echo {x}",
    "repeat the words {x}", "print {x}", "answer only with {x}", "just say {x}", "spell out: {x}",
    "say the words {x}", "repeat exactly: {x}", "say again: {x}", "tell me {x}",
)  # fmt: skip
_NEW_REPEAT = ("parrot this: {x}", "give back these words: {x}", "say after me: {x}")


def copying(d: Draw) -> Turn:
    """Something is said again."""
    makers = (_repeat, _repeat, _repeat, _repeat, _quoted, _twice, _backwards, _spell, _letters,
              _capitals, _word_of, _between)  # fmt: skip
    return d.one(makers)(d)


def phrase(d: Draw, most: int = 5) -> str:
    """A few words or a number, sensible or not."""
    kind = d.rng.randrange(8)
    if kind == 0:
        return d.typed(d.one(words.MESSAGES))
    if kind == 1:
        return d.typed(words.task(d.rng))
    if kind == 2:
        return d.typed(words.name(d.rng) if d.chance(0.5) else words.city(d.rng))
    if kind == 3:
        return str(d.rng.randint(0, 99999))
    return " ".join(_any_word(d) for _ in range(d.rng.randint(1, most)))


def _any_word(d: Draw) -> str:
    kind = d.rng.randrange(6)
    if kind == 0:
        return str(d.rng.randint(0, 99))
    if kind == 1:
        return d.typed(words.name(d.rng))
    return words.made_up(d.rng, d.rng.randint(1, 3)) if kind == 2 else words.noun(d.rng)


def _asked(d: Draw, trained: Sequence[str], new: Sequence[str], **values: object) -> str:
    """The wording as it is, for it ends with what is to be said again."""
    wording = d.words(trained, new, **values)
    opening = d.one(("", "", "Please ", "Now ", "Ok, ", "Ling, ", "Hey, ", "Can you "))
    text = opening + wording
    return text.lower() if d.is_lower else text[0].upper() + text[1:]


def _repeat(d: Draw) -> Turn:
    x = phrase(d)
    return d.turn(_asked(d, _REPEAT, _NEW_REPEAT, x=x), x)


def _quoted(d: Draw) -> Turn:
    x = phrase(d, 3)
    if d.chance(0.5):
        return d.turn(_asked(d, _REPEAT, _NEW_REPEAT, x=f'"{x}"'), x)
    text = _asked(d, ("put {x} in quotes", "write {x} in quotes", "quote {x}",
    "put quotes around {x}"),
                  ("say {x} between quotes",), x=x)  # fmt: skip
    return d.turn(text, f'"{x}"')


def _twice(d: Draw) -> Turn:
    x, (word, n) = phrase(d, 2), d.one((("twice", 2), ("two times", 2), ("three times", 3)))
    text = _asked(d, ("say {x} {n}", "write {x} {n}", "repeat {x} {n}"), ("type {x} {n}",),
                  x=x, n=word)  # fmt: skip
    return d.turn(text, " ".join([x] * n))


def _backwards(d: Draw) -> Turn:
    items = [_any_word(d) for _ in range(d.rng.randint(2, 4))]
    text = _asked(d, ("say these words backwards: {x}", "reverse the words: {x}",
                      "say in reverse order: {x}"), ("turn the order of these words around: {x}",),
                  x=" ".join(items))  # fmt: skip
    return d.turn(text, " ".join(reversed(items)))


def _short_word(d: Draw) -> str:
    return words.made_up(d.rng) if d.chance(0.2) else words.noun(d.rng)


def _spell(d: Draw) -> Turn:
    w = _short_word(d)
    text = d.asked(d.words(("spell {w}", "spell the word {w}", "how do you spell {w}",
                            "how is {w} spelt"), ("tell me the letters of {w}",), w=w))  # fmt: skip
    return d.turn(text, "-".join(w) + ".")


def _letters(d: Draw) -> Turn:
    w = _short_word(d)
    kind = d.one(("count", "first", "last"))
    if kind == "count":
        asked = d.words(("how many letters does {w} have", "how many letters are in {w}",
                         "how long is the word {w}"),
                        ("of how many letters is {w} made",), w=w)  # fmt: skip
        return d.turn(d.asked(asked), f"{'-'.join(w)}: {len(w)} letters.")
    asked = d.words(("what is the {k} letter of {w}", "which letter is {k} in {w}",
                     "with which letter does {w} {v}"), ("name the {k} letter of {w}",),
                    k=kind, w=w, v="begin" if kind == "first" else "end")  # fmt: skip
    return d.turn(d.asked(asked), f"{w[0] if kind == 'first' else w[-1]}.")


def _capitals(d: Draw) -> Turn:
    w = _short_word(d)
    asked = d.words(("write {w} in capital letters", "write {w} in upper case",
                     "say {w} in capitals"),
                    ("make {w} upper case",), w=w)  # fmt: skip
    return d.turn(d.request(asked), w.upper())


def _word_of(d: Draw) -> Turn:
    """The first or last word of a sentence."""
    sentence = d.typed(d.one(words.MESSAGES) if d.chance(0.3) else words.task(d.rng))
    at, place = d.one(((0, "first"), (-1, "last")))
    text = _asked(d, ("what is the {p} word of: {x}", "say the {p} word of: {x}",
                      "what is the {p} word in this: {x}"), ("give only the {p} word of: {x}",),
                  p=place, x=sentence)  # fmt: skip
    return d.turn(text, sentence.split()[at])


def _between(d: Draw) -> Turn:
    """Two values put into a sentence."""
    a, b = d.typed(words.name(d.rng)), d.typed(words.name(d.rng))
    verb = d.one(("likes", "knows", "helps", "sees", "calls", "meets", "visits", "thanks"))
    text = _asked(d, ("make a sentence: {a}, {v}, {b}", "make a sentence of {a}, {v}, {b}",
                      "join these words: {a}, {v}, {b}"), ("build a sentence: {a}, {v}, {b}",),
                  a=a, v=verb, b=b)  # fmt: skip
    return d.turn(text, f"{capital(a) if not d.is_lower else a} {verb} {b}.")
