"""Tools that are offered together, and what is asked of them: one that fits, or none."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from .draw import Draw
from .tools import Tool, ToolKind, asked_back, failed, once_more
from .tools_home import HOME
from .tools_text import TEXTS
from .tools_time import TIME
from .tools_values import LOOKUPS, VALUES
from .turns import Turn

Make = Callable[[Draw], Turn]
_Talk = Callable[[Draw, ToolKind, Tool], list[Turn]]

_TOOLS: tuple[tuple[ToolKind, float], ...] = (
    *((kind, 1.0) for kind in (*HOME, *TIME, *VALUES, *TEXTS)),
    *((kind, 5 / len(LOOKUPS)) for kind in LOOKUPS),
)
TOOL_KINDS: tuple[str, ...] = tuple(dict.fromkeys(kind.kind for kind, _ in _TOOLS))
HELD_OUT_NAMES = frozenset(name for kind, _ in _TOOLS for name in kind.new)
"""Of tools, in no training record."""
TALKS: dict[str, _Talk] = {"tool-asked-back": asked_back, "tool-again": once_more}
"""Of two questions about one tool."""
# What is answered without a tool as well, where there is none.
_KNOWN = frozenset({"calculations", "units", "the capital", "the language"})


def offered(rng: random.Random, count: int, wanted: str = "") -> list[ToolKind]:
    """Different kinds of tools, the wanted one first; `wanted` may be one of `TALKS`."""
    found: list[ToolKind] = []
    if wanted:
        fit = [kind for kind, _ in _TOOLS if kind.kind == wanted or wanted in talks_of(kind)]
        found = [rng.choice(fit)]
    kinds, weights = zip(*_TOOLS, strict=True)
    while len(found) < count:
        (kind,) = rng.choices(kinds, weights)
        if kind.topic not in {k.topic for k in found}:
            found.append(kind)
    return found


def talks_of(kind: ToolKind) -> list[str]:
    """Those of `TALKS` that a tool has."""
    return ["tool-asked-back"] * bool(kind.vague) + ["tool-again"] * bool(kind.again)


def talked(name: str, kind: ToolKind, tool: Tool) -> Callable[[Draw], list[Turn]]:
    """One of `TALKS` about a tool that is offered."""

    def make(d: Draw) -> list[Turn]:
        is_new = tool.name in kind.new
        return [t._replace(is_new=t.is_new or is_new) for t in TALKS[name](d, kind, tool)]

    return make


def called(kind: ToolKind, tool: Tool, fails: bool) -> Make:
    """What is asked of a tool that is offered, and does not work if it `fails`."""

    def make(d: Draw) -> Turn:
        turn = kind.ask(d, tool)
        turn = turn._replace(is_new=turn.is_new or tool.name in kind.new)
        return failed(d, kind, turn) if fails else turn

    return make


def not_offered(kinds: Sequence[ToolKind]) -> Make:
    """What would be asked of a tool that is not among these."""

    def make(d: Draw) -> Turn:
        (kind,) = offered(d.rng, 1)
        while kind.topic in {*_KNOWN, *(k.topic for k in kinds)}:
            (kind,) = offered(d.rng, 1)
        answer = f"I have no tool for {kind.topic}."
        if kind.vague and d.split == "train" and d.chance(0.25):
            return d.turn(d.asked(d.one(kind.vague)), answer, is_always_trained=True)
        turn = kind.ask(d, kind.offer(d.rng, d.split))
        return turn._replace(call=None, answers=(answer,))

    return make
