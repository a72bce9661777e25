"""Tools as users offer them: under one of several names, described or not, in different words.

What the model is to learn is to read the names from the tool, so a name in `new` is for held-out
conversations only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .draw import Draw
from .turns import Call, Split, Turn

Schema = dict[str, Any]


class Tool(NamedTuple):
    """As it is offered: `arguments` are the names of its arguments by what they are for."""

    schema: dict[str, Any]
    arguments: Mapping[str, str]
    values: Mapping[str, Sequence[str]]
    """Of arguments from a list, what the list has here."""

    @property
    def name(self) -> str:
        return str(self.schema["function"]["name"])

    def call(self, result: dict[str, Any] | str, **values: Any) -> Call:
        """A call with values by what they are for; a result of {"ok": true} fits every tool."""
        return Call(self.name, {self.arguments[k]: v for k, v in values.items()}, result)


@dataclass(frozen=True)
class Argument:
    """Names it may have, its JSON type, and the values where it takes them from a list."""

    names: tuple[str, ...]
    type: str = "string"
    values: tuple[str, ...] = ()
    most: int = 6
    """Values in a list at most."""


@dataclass(frozen=True)
class ToolKind:
    """A kind of tool, what users ask of it, and what is said where it is not offered."""

    kind: str
    topic: str
    names: tuple[str, ...]
    new: tuple[str, ...]
    descriptions: tuple[str, ...]
    arguments: Mapping[str, Argument]
    ask: Callable[[Draw, Tool], Turn]
    errors: tuple[str, ...] = ("not available", "connection lost", "try again later", "no access")
    excludes: frozenset[str] = field(default_factory=frozenset)
    """Plain kinds that are answered by this tool where it is offered."""
    vague: tuple[str, ...] = ()
    """Requests without the value of the only argument, which is then asked for: `missing`."""
    missing: str = ""
    given: tuple[str, ...] = ("{x}",)
    """How that value is given ({x})."""
    again: tuple[str, ...] = ()
    """The same once more with another value of the first argument."""

    def offer(self, rng: random.Random, split: Split) -> Tool:
        """The tool in one of its forms."""
        is_new = split == "held_out" and rng.random() < 0.25
        name = rng.choice(self.new if is_new else self.names)
        names: dict[str, str] = {}
        values: dict[str, list[str]] = {}
        properties: dict[str, Schema] = {}
        is_detailed = rng.random() < 0.12
        for purpose, argument in self.arguments.items():
            names[purpose] = rng.choice(argument.names)
            schema: Schema = {"type": argument.type}
            if is_detailed:
                schema["description"] = f"The {purpose}"
            if argument.values:
                count = min(len(argument.values), rng.randint(2, argument.most))
                values[purpose] = rng.sample(argument.values, count)
                schema["enum"] = values[purpose]
            properties[names[purpose]] = schema
        function: dict[str, Any] = {"name": name}
        if rng.random() < 0.7:
            function["description"] = rng.choice(self.descriptions)
        function["parameters"] = {"type": "object", "properties": properties}
        if properties and rng.random() < 0.9:
            function["parameters"]["required"] = [*properties]
        return Tool({"type": "function", "function": function}, names, values)


def asked_back(d: Draw, kind: ToolKind, tool: Tool) -> list[Turn]:
    """A request without its value, the question for it, and the value."""
    turn = kind.ask(d, tool)
    assert turn.call is not None
    (x,) = turn.call.arguments.values()
    vague = d.asked(d.one(kind.vague))
    key = f"{kind.kind} {x}"
    # In the case of the argument: it is to be copied.
    given = d.one(kind.given).format(x=x)
    return [
        d.turn(vague, kind.missing, is_always_trained=True),
        turn._replace(text=given, key=key, is_new=False),
    ]


def once_more(d: Draw, kind: ToolKind, tool: Tool) -> list[Turn]:
    """A request, and in a few words the same with another value of its first argument."""
    first = kind.ask(d, tool)
    assert first.call is not None
    while True:
        second = kind.ask(d, tool)
        assert second.call is not None
        (x, *others), (y, *same) = (
            turn.call.arguments.values() for turn in (second, first) if turn.call
        )
        if others == same and x != y:
            break
    key = f"{kind.kind} {y} {x}"
    short = d.one(kind.again).format(x=x)
    return [first, second._replace(text=short, key=key, is_new=False)]


def returned(d: Draw, *results: dict[str, Any] | str) -> dict[str, Any] | str:
    """One of the ways in which a tool may return the same."""
    return d.one(results)


def done(d: Draw, **shown: Any) -> dict[str, Any]:
    """A result that says what was done, or only that it was."""
    return shown if d.chance(0.4) else d.one(({"ok": True}, {"status": "done"}, {"success": True}))


def failed(d: Draw, kind: ToolKind, turn: Turn) -> Turn:
    """The same call with an error as its result, which is told."""
    assert turn.call is not None
    error = d.one(kind.errors)
    said = d.one((error, {"error": error}, {"error": error}, {"ok": False, "error": error}))
    shown = said if isinstance(said, dict) else f"error: {error}"
    return turn._replace(
        answers=(f"Sorry, that did not work: {error}.",), call=turn.call._replace(result=shown)
    )
