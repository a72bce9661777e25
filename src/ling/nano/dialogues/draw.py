"""Random choices for one turn, and how its text is typed: politely, carelessly, or both.

A wording in a list of its own, `new`, is used for held-out questions only.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from .turns import Split, Turn
from .words import listed

T = TypeVar("T")

# (before a question, share of it); the bare question is as frequent as all of these together.
_QUESTIONS = (
    "Hey, ", "Hi, ", "Hello, ", "Please tell me: ", "Ling, ", "Tell me, ", "Quick question: ",
    "Ok, ", "Now, ", "So, ", "One more thing: ", "I want to know: ", "Another question: ",
    "Well, ", "Just tell me, ", "And ", "Please, ", "Say, ", "Oh, ", "Um, ", "Sorry, ",
    "Good morning, ", "Good evening, ", "Hi Ling, ", "Hello Ling, ", "Hey Ling, ", "Question: ",
    "I have a question: ", "I wonder: ", "Alright, ", "Then tell me: ", "Listen, ",
)  # fmt: skip
_NEW_QUESTIONS = ("By the way, ", "Excuse me, ", "One last question: ")
_REQUESTS = (
    "Please ", "Can you ", "Could you ", "Could you please ", "Would you ", "Can you please ",
    "Hey Ling, ", "I want you to ", "I need you to ", "Now ", "Ok, ", "Ling, ", "Hi, please ",
    "Will you ", "I would like you to ", "Hey, can you ", "Then ", "And ", "Next, ",
    "Would you please ", "Will you please ", "Can you quickly ", "Hi, can you ", "Hi Ling, ",
    "Hello Ling, please ", "Please, ", "Ok Ling, ", "Ling, please ", "Ling, can you ",
    "Good morning, please ", "Good evening, can you ", "Alright, ", "Now please ", "First ",
    "Also ", "Quickly ", "Be so nice and ", "Hello, please ",
)  # fmt: skip
_NEW_REQUESTS = ("Kindly ", "It would be nice if you could ", "Hello, could you ")
_ENDS = ("", "", "", "", "", "", " please", " for me", " now", ", thanks")
_STARTS = frozenset(
    listed("""
what what's which how is are who whose where when does do did has have was were if of can
would will why from to with in suppose today am
""")
)
_NOUNS = ("capital", "definition", "meaning", "opposite", "past", "plural")
_WISHES = (*_NOUNS, "a", "an", "i", "poem", "story")
OPEN_END = ("",)
"""For a request that ends with what is to be copied."""
_SENTENCE_ENDS = (".", "?")
_ASKS = ("can you", "could you", "would you", "will you")


class Draw:
    """One turn's choices: `rng` decides all of them."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng, self.split = rng, split
        self.is_new = False
        self.is_lower = rng.random() < 0.3
        self._has_no_end = rng.random() < (0.6 if self.is_lower else 0.1)

    def chance(self, share: float) -> bool:
        """True in this share of cases."""
        return self.rng.random() < share

    def one(self, options: Sequence[T]) -> T:
        """One of these."""
        return self.rng.choice(options)

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """That many different ones, in any order."""
        return self.rng.sample(options, count)

    def words(self, trained: Sequence[str], new: Sequence[str] = (), **values: Any) -> str:
        """A wording with its values, from `new` in half of the held-out ones."""
        if new and self.split == "held_out" and self.chance(0.5):
            self.is_new, trained = True, new
        return self.one(trained).format(**values)

    def typed(self, value: str) -> str:
        """A value of the user's text, as it reads there: an answer repeats it so."""
        return value.lower() if self.is_lower else value

    # ---- the user's text ---------------------------------------------------------------------

    def question(self, words: str) -> str:
        """`words` without its end, behind one of the openings or none."""
        return self.text(self._opening(_QUESTIONS, _NEW_QUESTIONS, 0.45) + words + "?")

    def request(self, words: str, ends: Sequence[str] = _ENDS) -> str:
        """`words` is what to do, in the imperative and without its end; `ends` may follow it.

        A whole sentence, which has its end, is taken as it is.
        """
        if words.endswith(_SENTENCE_ENDS):
            return self.text(words)
        opening = self._opening(_REQUESTS, _NEW_REQUESTS, 0.6)
        is_asked = any(ask in opening.lower() for ask in _ASKS)
        end = self.one(ends)
        if end == " please" and "lease" in opening:
            end = ""
        return self.text(opening + words + end + ("?" if is_asked else "."))

    def asked(self, words: str) -> str:
        """`words` as a question if they begin as one, as they are if they name what is wanted,
        otherwise as a request; a whole sentence as it is."""
        if words.endswith(_SENTENCE_ENDS):
            return self.text(words)
        first = words.split()[0].lower()
        if first in _WISHES:
            return self.text(words + self.one(("", ".", "?" if first in _NOUNS else ".")))
        return self.question(words) if first in _STARTS else self.request(words)

    def text(self, text: str) -> str:
        """A text as it is typed: all in small letters, or without its end, or well."""
        text = text[0].upper() + text[1:]
        if self.is_lower:
            text = text.lower()
        return text.rstrip(".?!") if self._has_no_end else text

    def turn(self, text: str, *answers: str, **more: Any) -> Turn:
        """A turn, marked if what was drawn for it, since the turn before, has a new wording."""
        is_new, self.is_new = self.is_new, False
        return Turn(text, answers, is_new=is_new, **more)

    def _opening(self, trained: Sequence[str], new: Sequence[str], share: float) -> str:
        if self.split == "held_out" and self.chance(0.15):
            self.is_new = True
            return self.one(new)
        return self.one(trained) if self.chance(share) else ""


def with_typo(rng: random.Random, text: str) -> str:
    """`text` with two letters of a longer word exchanged, or one left out or doubled."""
    words = text.split(" ")
    long = [n for n, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not long:
        return text
    n = rng.choice(long)
    word, at = words[n], rng.randrange(1, len(words[n]) - 1)
    a, b = word[at], word[at + 1]
    words[n] = word[:at] + rng.choice((b + a, b, a + a + b)) + word[at + 2 :]
    return " ".join(words)


def joined(items: Sequence[str]) -> str:
    """A list in words: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))


def article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def capital(text: str) -> str:
    """With a capital letter at its beginning."""
    return text[:1].upper() + text[1:]
