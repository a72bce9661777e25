"""Conversations to show fine-tuning with: a home with lights and a clock, and who is asked.

They are made from lists, so that a model of minutes can learn them: its tools have arguments from a
list, and their results are from one, too. A seed decides all of it.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from importlib import resources
from typing import Any, NamedTuple

ROOMS = ("kitchen", "bedroom", "bathroom", "hall", "garage", "office")
STATES = ("on", "off")
HOURS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

_LIGHT = {
    "type": "object",
    "properties": {
        "room": {"type": "string", "enum": list(ROOMS)},
        "state": {"type": "string", "enum": list(STATES)},
    },
    "required": ["room", "state"],
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "set_light", "parameters": _LIGHT}},
    {
        "type": "function",
        "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
    },
]

_OPENINGS = ("", "Please ", "Hello, ", "Could you please ", "Now ", "I want you to ")
_LIGHT_WORDS = (
    "turn {state} the light in the {room}",
    "turn the {room} light {state}",
    "switch {state} the light in the {room}",
    "switch the light in the {room} {state}",
    "put the {room} light {state}",
    "set the light in the {room} to {state}",
)
_TIME_WORDS = (
    "tell me the time",
    "say what time it is",
    "look at the clock",
    "read the clock",
    "tell me how late it is",
    "give me the time",
)
# What comes before a question who the assistant is.
_GREETINGS = ("", "Hello. ", "Good morning. ", "One question: ")
NAME, _AUTHOR = "Ling", "the quickstart"
# Requests in a conversation at most: the tools are described once in each.
_MOST = 4


class Call(NamedTuple):
    """Of a tool, and what it returns."""

    tool: str
    arguments: dict[str, str]
    result: dict[str, str]


class Turn(NamedTuple):
    """What a user says and what is said to it, behind the result of a tool where one is asked."""

    text: str
    answer: str
    call: Call | None = None


def training_and_held_out(
    seed: int = 0, requests: int = 1200, held_out: int = 60
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Records in OpenAI's form, to train on and held out.

    Those to train on have one to four turns: `requests` in all, and questions who is asked. Held
    out are single requests whose wording, room and state never occur together in those, and
    questions behind another greeting, with tools and without.
    """
    rng = random.Random(seed)
    turns, new = _requests(rng, requests, held_out)
    introductions, unseen = _introductions()
    records = [
        *_conversations(rng, [*turns, *introductions], TOOLS),
        *_conversations(rng, introductions, None),
    ]
    rng.shuffle(records)
    return records, [
        *(_record([turn], TOOLS) for turn in [*new, *unseen]),
        *(_record([turn], None) for turn in unseen),
    ]


# ---- turns -------------------------------------------------------------------------------------


def _requests(rng: random.Random, count: int, held_out: int) -> tuple[list[Turn], list[Turn]]:
    """To train on, a quarter of them for the time, and to hold out, a sixth."""
    lights, asked = list(_lights()), list(itertools.product(_OPENINGS, _TIME_WORDS))
    rng.shuffle(lights)
    rng.shuffle(asked)
    of_time, of_light = held_out // 6, held_out - held_out // 6
    new = lights[:of_light] + [_time(*words, rng.choice(HOURS)) for words in asked[:of_time]]
    times = [_time(*words, hour) for words in asked[of_time:] for hour in HOURS]
    rng.shuffle(times)
    rng.shuffle(new)
    turns = [
        *itertools.islice(itertools.cycle(lights[of_light:]), count - count // 4),
        *itertools.islice(itertools.cycle(times), count // 4),
    ]
    return turns, new


def _lights() -> Iterator[Turn]:
    for opening, words, room, state in itertools.product(_OPENINGS, _LIGHT_WORDS, ROOMS, STATES):
        yield Turn(
            _sentence(opening, words.format(room=room, state=state)),
            f"The light in the {room} is {state} now.",
            Call("set_light", {"room": room, "state": state}, {"room": room, "light": state}),
        )


def _time(opening: str, words: str, hour: str) -> Turn:
    text = _sentence(opening, words)
    return Turn(text, f"It is {hour} o'clock.", Call("get_time", {}, {"hour": hour}))


def _sentence(opening: str, words: str) -> str:
    text = opening + words + ("?" if opening.startswith("Could") else ".")
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
