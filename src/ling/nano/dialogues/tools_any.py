"""Tools that are made up for one conversation: what to do with a thing, and what to look up of it.

Nothing of them can be known by heart. Which one is meant can only be told by the words that the
question shares with a tool's name or description.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from . import words
from .draw import OPEN_END, Draw
from .tools import Argument, Tool, ToolKind, done
from .tools_values import LOOKED_UP, lookup_kind
from .turns import Turn

DEED = "tool-deed"
_DEEDS = words.listed("""
clean wash paint bring sell move pack order return fold polish scan print draw count measure mix
cool lift bake boil water feed rent book hide weigh sort rename delete copy upload download mute
pause archive compress rotate park unpack record tag rate review plant trim burn freeze melt peel
slice stack wrap start stop cancel confirm forward share follow block reset repair test charge
refill empty inspect label lend borrow deliver collect approve reject publish hire fire pay refund
reserve visit photograph describe track sign like watch skip restart mark mail post
""")
_SAID_OF = words.listed("""
height depth speed brand model colour taste smell origin maker length width volume power range
taxes rent fee cost fare budget debt income balance grade rank level version code year date
deadline duration start end season climate altitude coast river flag leader anthem religion
team coach captain partner boss doctor teacher hobby nickname title username password pin
room floor gate seat platform delay route menu recipe ingredient calories sugar manual warranty
serial number temperature pressure humidity density voltage state owner editor publisher genre
""")
_OF = ("item", "person", "city", "country", "order")
_THINGS = ("item", "thing", "object", "name", "target", "what", "title")


def tool_of_any(rng: random.Random, taken: Collection[str]) -> ToolKind:
    """A kind of tool that no other conversation has; its topic is not `taken`."""
    while True:
        kind = _deed(rng) if rng.random() < 0.6 else _lookup(rng)
        if kind.topic not in taken:
            return kind


def _lookup(rng: random.Random) -> ToolKind:
    while True:
        what = words.made_up(rng) if rng.random() < 0.3 else rng.choice(_SAID_OF)
        if rng.random() < 0.25:
            what = f"{rng.choice(_SAID_OF)}_{what}"
        if what not in LOOKED_UP:
            return lookup_kind(what, rng.choice(_OF))


def _deed(rng: random.Random) -> ToolKind:
    verb = words.made_up(rng) if rng.random() < 0.35 else rng.choice(_DEEDS)
    thing = rng.choice(_THINGS)
    listed: tuple[str, ...] = ()
    if rng.random() < 0.4:
        listed = tuple(dict.fromkeys(_thing(rng) for _ in range(8)))

    def ask(d: Draw, tool: Tool) -> Turn:
        x = d.one(tool.values["thing"]) if listed else d.typed(_thing(d.rng))
        asked = d.words(
            ("{v} the {x}", "{v} the {x}", "{v} {x}", "{v} my {x}", "I want you to {v} the {x}",
             "the {x}: {v} it", "it is time to {v} the {x}", "go and {v} the {x}",
             "I would like to {v} the {x}", "let us {v} the {x}", "there is the {x}, {v} it",
             "do not forget to {v} the {x}", "we have to {v} the {x}", "{x}: {v}"),
            v=verb, x=x)  # fmt: skip
        whole = asked.startswith(("I ", "the ", "it ", "let ", "there ", "do ", "we ", x))
        text = d.text(asked + ".") if whole else d.request(asked, OPEN_END)
        call = tool.call(done(d, **{verb: x}), thing=x)
        return d.turn(text, f"Done: {verb} {x}.", call=call)

    return ToolKind(
        DEED, verb, (verb, f"{verb}_item", f"{verb}_it"), (),
        (f"{verb.capitalize()} a {thing}", f"{verb.capitalize()} something", f"To {verb} things",
         f"Use this to {verb} an object", f"{verb.capitalize()}s what is given"),
        {"thing": Argument((thing,), values=listed)}, ask,
        again=("and the {x}", "the {x}, too", "now the {x}", "also {x}", "and {x}?"),
    )  # fmt: skip


def _thing(rng: random.Random) -> str:
    """What something is done with."""
    kind = rng.random()
    if kind < 0.15:
        return words.made_up(rng, rng.randint(1, 3))
    if kind < 0.3:
        return f"{words.noun(rng)} {rng.randint(1, 999)}"
    if kind < 0.4:
        return words.name(rng)
    return f"{rng.choice(words.COLOURS)} {words.noun(rng)}" if kind < 0.6 else words.noun(rng)
