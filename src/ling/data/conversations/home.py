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
_NAME, _AUTHOR = "Ling", "the Ling quickstart"


class Request(NamedTuple):
    """What a user asks a tool for, what the tool returns, and what is then said."""

    text: str
    tool: str
    arguments: dict[str, str]
    result: dict[str, str]
    answer: str


def training_and_held_out(
    seed: int = 0, requests: int = 500, held_out: int = 60
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Records in OpenAI's form: those to train on, who is asked among them, and requests whose
    wording, room and state never occur together in those.
    """
    rng = random.Random(seed)
    lights, asked = list(_lights()), list(itertools.product(_OPENINGS, _TIME_WORDS))
    rng.shuffle(lights)
    rng.shuffle(asked)
    # A sixth of what is held out asks for the time, a quarter of what is trained on.
    of_time, of_light = held_out // 6, held_out - held_out // 6
    valid = lights[:of_light] + [_time(*words, rng.choice(HOURS)) for words in asked[:of_time]]
    times = [_time(*words, hour) for words in asked[of_time:] for hour in HOURS]
    rng.shuffle(times)
    chosen = [
        *itertools.islice(itertools.cycle(lights[of_light:]), requests - requests // 4),
        *itertools.islice(itertools.cycle(times), requests // 4),
    ]
    records = [_record(r) for r in chosen] + list(_introductions())
    rng.shuffle(records)
    rng.shuffle(valid)
    return records, [_record(r) for r in valid]


def _lights() -> Iterator[Request]:
    for opening, words, room, state in itertools.product(_OPENINGS, _LIGHT_WORDS, ROOMS, STATES):
        yield Request(
            _sentence(opening, words.format(room=room, state=state)),
            "set_light",
            {"room": room, "state": state},
            {"room": room, "light": state},
            f"The light in the {room} is {state} now.",
        )


def _time(opening: str, words: str, hour: str) -> Request:
    text = _sentence(opening, words)
    return Request(text, "get_time", {}, {"hour": hour}, f"It is {hour} o'clock.")


def _sentence(opening: str, words: str) -> str:
    text = opening + words + ("?" if opening.startswith("Could") else ".")
    return text[0].upper() + text[1:]


def _record(request: Request) -> dict[str, Any]:
    function = {"name": request.tool, "arguments": json.dumps(request.arguments)}
    return {
        "messages": [
            {"role": "user", "content": request.text},
            {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]},
            {"role": "tool", "content": json.dumps(request.result)},
            {"role": "assistant", "content": request.answer},
        ],
        "tools": TOOLS,
    }


def _introductions() -> Iterator[dict[str, Any]]:
    """Who is asked: with tools, which are not to be called for that, and without; the file's
    English part, whose letters a tokenizer of source code knows."""
    text = (resources.files(__package__) / "identity.json").read_text("utf-8")
    for record in json.loads(text):
        if not (record["instruction"] + record["output"]).isascii():
            continue
        said = record["output"].replace("{{name}}", _NAME).replace("{{author}}", _AUTHOR)
        messages = [
            {"role": "user", "content": record["instruction"]},
            {"role": "assistant", "content": said},
        ]
        yield {"messages": messages, "tools": TOOLS}
        yield {"messages": messages}
