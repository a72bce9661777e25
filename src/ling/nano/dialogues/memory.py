"""What is said first and asked for later: names, favourites, facts, and a name in a system text."""

from __future__ import annotations

from . import words
from .draw import Draw
from .facts import told_and_asked
from .turns import Turn

_CALLED = (
    "My name is {n}.", "I am {n}.", "I'm {n}.", "Call me {n}.", "Hello, I am {n}.", "Hi, I'm {n}!",
    "Hello, my name is {n}.", "Hi, my name is {n}.", "You can call me {n}.", "This is {n}.",
    "{n} is my name.", "People call me {n}.", "Hey, my name is {n}.", "I am called {n}.",
)  # fmt: skip
_NEW_CALLED = ("Good day, my name is {n}.", "They call me {n}.")
_WHAT_NAME = (
    "What is my name?", "What's my name?", "Who am I?", "Do you know my name?", "Say my name.",
    "Do you remember my name?", "What am I called?", "Tell me my name.", "How am I called?",
)  # fmt: skip
_NEW_WHAT_NAME = ("Can you tell me my name?", "Remind me of my name.")


def told_first(d: Draw) -> list[Turn]:
    """Something that the user tells, and a question for it."""
    return d.one((_name, _name, _own, _own, _fact))(d)


def asks_for_unknown_name(d: Draw) -> Turn:
    """The user asks for a name that was not given."""
    text = d.text(d.words(_WHAT_NAME))
    return d.turn(text, "You have not told me your name.", is_always_trained=True)


def introduction(d: Draw) -> Turn:
    """The user gives a name."""
    n = words.name(d.rng)
    text = d.text(d.words(_CALLED, _NEW_CALLED, n=n))
    return d.turn(text, f"Nice to meet you, {d.typed(n)}!", key=f"name {n}")


def _name(d: Draw) -> list[Turn]:
    told = introduction(d)
    n = told.answers[0].removeprefix("Nice to meet you, ").removesuffix("!")
    asked = d.text(d.words(_WHAT_NAME, _NEW_WHAT_NAME))
    return [told, d.turn(asked, f"Your name is {n}.", key=told.key)]


def _own(d: Draw) -> list[Turn]:
    what, make = d.one((
        ("favourite colour", lambda: d.one(words.COLOURS)),
        ("favourite animal", lambda: d.one(words.CATEGORIES["animal"])),
        ("favourite fruit", lambda: d.one(words.CATEGORIES["fruit"])),
        ("favourite number", lambda: str(d.rng.randint(0, 999))),
        ("age", lambda: str(d.rng.randint(5, 95))),
        ("city", lambda: words.city(d.rng)),
        ("job", lambda: d.one(words.CATEGORIES["job"])),
        ("dog's name", lambda: words.name(d.rng)),
        ("password", lambda: words.made_up(d.rng)),
    ))  # fmt: skip
    value = make()
    key, shown = f"{what} {value}", d.typed(value)
    told = d.turn(d.text(f"My {what} is {value}."), f"I see, your {what} is {shown}.", key=key)
    asked = d.text(d.words(("What is my {w}?", "What's my {w}?", "Do you know my {w}?",
                            "Tell me my {w}."), ("Do you remember my {w}?",), w=what))  # fmt: skip
    return [told, d.turn(asked, f"Your {what} is {shown}.", key=key)]


def _fact(d: Draw) -> list[Turn]:
    told, asked, answer = told_and_asked(d)
    key = f"{told} {asked}"
    return [
        d.turn(told, d.one(("I see.", "All right.", "Understood.")), key=key),
        d.turn(asked, answer, key=key),
    ]


def persona(d: Draw) -> tuple[str, Turn]:
    """A system text that gives another name, and who is asked for it."""
    n = words.name(d.rng)
    system = d.words(("You are {n}.", "Your name is {n}.", "You are {n}, a helpful assistant.",
                      "You are called {n}.", "You are an assistant called {n}."),
                     ("Act as {n}.",), n=n)  # fmt: skip
    asked = d.words(
        ("what is your name", "who are you", "what are you called", "tell me your name"),
        ("how shall I call you",),
    )
    return system, d.turn(d.asked(asked), f"My name is {n}.", key=f"persona {n}")
