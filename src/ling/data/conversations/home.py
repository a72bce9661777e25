"""Conversations to show fine-tuning with: lights, a clock, a timer, and who is asked.

They are made from lists, so that a model of minutes can learn them: lights have arguments from a
list, a clock has none, and the numbers of the timer are free. A seed decides all of it.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from importlib import resources
from typing import Any, NamedTuple

ROOMS = ("kitchen", "bedroom", "bathroom", "hall", "garage", "office")
STATES = ("on", "off", "red", "green", "blue", "white")
HOURS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

_LIGHT = {
    "type": "object",
    "properties": {
        "room": {"type": "string", "enum": list(ROOMS)},
        "state": {"type": "string", "enum": list(STATES)},
    },
    "required": ["room", "state"],
}
_TIMER = {
    "type": "object",
    "properties": {"minutes": {"type": "integer"}},
    "required": ["minutes"],
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "set_light", "parameters": _LIGHT}},
    {
        "type": "function",
        "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
    },
    {"type": "function", "function": {"name": "set_timer", "parameters": _TIMER}},
]

_OPENINGS = (
    *("", "Please ", "Hello, ", "Could you please ", "Now ", "I want you to ", "Then ", "Next, "),
    *("Can you ", "Would you ", "I would like you to ", "First ", "Thank you, now ", "Also "),
)
_LIGHT_WORDS = (
    "turn the light in the {room} {state}",
    "turn the {room} light {state}",
    "switch the {room} light {state}",
    "switch the light in the {room} {state}",
    "put the {room} light {state}",
    "set the light in the {room} to {state}",
    "change the {room} light to {state}",
    "make sure that the {room} light is {state}",
    "get the light in the {room} {state}",
    "have the {room} light {state}",
)
_TIME_WORDS = (
    "tell me the time",
    "say what time it is",
    "look at the clock",
    "read the clock",
    "tell me how late it is",
    "give me the time",
)
_TIMER_WORDS = (
    "set a timer for {minutes} minutes",
    "start a timer of {minutes} minutes",
    "wake me in {minutes} minutes",
)
_MINUTES = range(2, 100)
# What comes before a question who the assistant is.
_GREETINGS = ("", "Hello. ", "Good morning. ", "One question: ")
NAME, _AUTHOR = "Ling", "the quickstart"
# Requests in a conversation at most: the tools are described once in each.
_MOST = 4


class Call(NamedTuple):
    """Of a tool, and what it returns."""

    tool: str
    arguments: dict[str, Any]
    result: dict[str, Any]


class Turn(NamedTuple):
    """What a user says and what is said to it, behind the result of a tool where one is asked."""

    text: str
    answer: str
    call: Call | None = None


def training_and_held_out(
    seed: int = 0, requests: int = 3600, held_out: int = 50
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Records in OpenAI's form, to train on and held out.

    Those to train on have one to four turns: `requests` in all, and questions who is asked. Held
    out are `held_out` single requests whose wording, room and state never occur together in those,
    requests for a timer of minutes that never occur, and questions behind another greeting, with
    tools and without.
    """
    rng = random.Random(seed)
    turns, new = _requests(rng, requests, held_out)
    introductions, unseen = _introductions()
    records = [
        *_conversations(rng, [*turns, *introductions], TOOLS),
        # Twice: without tools they are short, and the name is what a user asks first.
        *_conversations(rng, 2 * introductions, None),
    ]
    rng.shuffle(records)
    return records, [
        *(_record([turn], TOOLS) for turn in [*new, *unseen]),
        *(_record([turn], None) for turn in unseen),
    ]


# ---- turns -------------------------------------------------------------------------------------


def _requests(rng: random.Random, count: int, held_out: int) -> tuple[list[Turn], list[Turn]]:
    """To train on, a quarter of them for the time and an eighth for a timer, and to hold out."""
    of_time, of_timer, new_times = count // 4, count // 8, held_out // 6
    kinds = (
        (_lights(), count - of_time - of_timer, held_out - new_times),
        (_times(), of_time, new_times),
        (_timers(), of_timer, held_out // 5),
    )
    turns: list[Turn] = []
    new: list[Turn] = []
    for groups, of_kind, unseen in kinds:
        shuffled = rng.sample(groups, len(groups))
        new += (rng.choice(group) for group in shuffled[:unseen])
        old = [turn for group in shuffled[unseen:] for turn in group]
        turns += itertools.islice(itertools.cycle(rng.sample(old, len(old))), of_kind)
    rng.shuffle(new)
    return turns, new


def _lights() -> list[list[Turn]]:
    """In groups that are held out as a whole: of one wording, room and state each."""
    every = itertools.product(_OPENINGS, _LIGHT_WORDS, ROOMS, STATES)
    return [[_light(opening, words, room, state)] for opening, words, room, state in every]


def _light(opening: str, words: str, room: str, state: str) -> Turn:
    return Turn(
        _sentence(opening, words.format(room=room, state=state)),
        f"The light in the {room} is {state} now.",
        Call("set_light", {"room": room, "state": state}, {"room": room, "light": state}),
    )


def _times() -> list[list[Turn]]:
    """In groups of one wording."""
    return [
        [_time(_sentence(*words), hour) for hour in HOURS]
        for words in itertools.product(_OPENINGS, _TIME_WORDS)
    ]


def _time(text: str, hour: str) -> Turn:
    return Turn(text, f"It is {hour} o'clock.", Call("get_time", {}, {"hour": hour}))


def _timers() -> list[list[Turn]]:
    """In groups of one number."""
    words = list(itertools.product(_OPENINGS, _TIMER_WORDS))
    return [[_timer(*each, minutes) for each in words] for minutes in _MINUTES]


def _timer(opening: str, words: str, minutes: int) -> Turn:
    return Turn(
        _sentence(opening, words.format(minutes=minutes)),
        f"The timer is set for {minutes} minutes.",
        Call("set_timer", {"minutes": minutes}, {"minutes": minutes}),
    )


def _sentence(opening: str, words: str) -> str:
    text = opening + words + ("?" if opening.startswith(("Could", "Can", "Would")) else ".")
    return text[0].upper() + text[1:]


def _introductions() -> tuple[list[Turn], list[Turn]]:
    """Who is asked, to train on and to hold out: the file's English part, whose letters a tokenizer
    of source code knows. Of the questions that are answered with the name, one greeting each is
    held out."""
    trained: list[Turn] = []
    held_out: list[Turn] = []
    for n, (asked, said) in enumerate(_identity()):
        for m, greeting in enumerate(_GREETINGS if asked.endswith("?") else ("",)):
            new = m > 0 and m == 1 + n % (len(_GREETINGS) - 1) and NAME in said
            (held_out if new else trained).append(Turn(greeting + asked, said))
    return trained, held_out


def _identity() -> Iterator[tuple[str, str]]:
    text = (resources.files(__package__) / "identity.json").read_text("utf-8")
    for record in json.loads(text):
        if (record["instruction"] + record["output"]).isascii():
            said = record["output"].replace("{{name}}", NAME).replace("{{author}}", _AUTHOR)
            yield record["instruction"], said


# ---- records -----------------------------------------------------------------------------------


def _conversations(
    rng: random.Random, turns: list[Turn], tools: list[dict[str, Any]] | None
) -> Iterator[dict[str, Any]]:
    """All turns once, in conversations of different lengths."""
    order = rng.sample(turns, len(turns))
    while order:
        count = rng.randint(1, _MOST)
        yield _record(order[:count], tools)
        del order[:count]


def _record(turns: list[Turn], tools: list[dict[str, Any]] | None) -> dict[str, Any]:
    messages = [message for turn in turns for message in _messages(turn)]
    return {"messages": messages, **({"tools": tools} if tools else {})}


def _messages(turn: Turn) -> Iterator[dict[str, Any]]:
    yield {"role": "user", "content": turn.text}
    if turn.call is not None:
        function = {"name": turn.call.tool, "arguments": json.dumps(turn.call.arguments)}
        yield {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}
        yield {"role": "tool", "content": json.dumps(turn.call.result)}
    yield {"role": "assistant", "content": turn.answer}
