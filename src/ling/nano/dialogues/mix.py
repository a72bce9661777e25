"""Which kinds there are and how often, and conversations of one or several of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from . import words
from .arithmetic import arithmetic
from .copying import copying
from .dates import dates, units
from .definitions import Definition, chosen, definition
from .draw import Draw
from .facts import facts
from .identity import identity
from .knowledge import knowledge
from .lists import lists
from .numbers import numbers
from .smalltalk import asks_for_name, greeting, introduction, own_fact, smalltalk
from .tools import Tool, ToolKind, failed
from .tools_home import HOME
from .tools_text import TEXTS
from .tools_time import TIME
from .tools_values import LOOKUPS, VALUES
from .turns import Split, Turn, is_held_out, messages_of
from .unknown import unknown
from .writing import writing

# Kinds without a tool: share of their turns, and what makes one.
_PLAIN: dict[str, tuple[float, Callable[[Draw], Turn]]] = {
    "greeting": (8, greeting),
    "smalltalk": (9, smalltalk),
    "identity": (9, identity),
    "arithmetic": (13, arithmetic),
    "numbers": (8, numbers),
    "dates": (7, dates),
    "units": (3, units),
    "lists": (8, lists),
    "copying": (12, copying),
    "facts": (12, facts),
    "knowledge": (9, knowledge),
    "unknown": (5, unknown),
    "writing": (4, writing),
}
_DEFINITIONS, _NO_TOOL = 6.0, 4.0
_TOOLS: tuple[tuple[ToolKind, float], ...] = (
    *((kind, 1.0) for kind in (*HOME, *TIME, *VALUES, *TEXTS)),
    *((kind, 5 / len(LOOKUPS)) for kind in LOOKUPS),
)
# Of conversations: with tools; of the turns in those: no tool is needed, none fits, it fails.
_WITH_TOOLS, _WITHOUT_CALL, _NOT_OFFERED, _FAILED = 0.5, 0.18, 0.1, 0.07
_SYSTEMS = (
    "You are a helpful assistant.", "You are Ling.", "You are a friendly assistant.",
    "Answer briefly.", "You are a helpful assistant. Answer briefly.", "Be kind.",
    "You are an assistant.", "You are an assistant with tools.", "Use the tools where they fit.",
    "You are a chat bot.", "You are Ling, a small model.", "Help the user.",
)  # fmt: skip
KINDS: tuple[str, ...] = (
    *_PLAIN, "definitions", "memory", "persona", "no-tool",
    *dict.fromkeys(kind.kind for kind, _ in _TOOLS), "tool-error",
)  # fmt: skip
"""What `kind` of a record may be; "mixed" is a training record of several of them."""
# What is answered without a tool as well, where there is none.
_KNOWN = frozenset({"calculations", "units", "the capital", "the language"})
_TRIES = 400


def records(
    split: Split,
    seed: int,
    count: int | None = None,
    definitions: Iterable[Sequence[str]] = (),
) -> Iterator[dict[str, Any]]:
    """Conversations in OpenAI's form: `messages`, `tools` where some are offered, and `kind`.

    "train" has one to five questions in a record and does not end without `count`. "held_out" has
    one question in each, whose values or wording are in no training record of any seed, of every
    kind in turn; `answers` are the last answers that count as right, and `is_new` says that its
    wording, or the name of its tool, is never trained on. `definitions` are (word, part of speech,
    gloss), such as WordNet's; without them nothing is defined. The same arguments give the same
    records, and a longer `count` only adds some.
    """
    made = _Maker(chosen(definitions))
    if split == "train":
        yield from made.training(seed, count)
    else:
        yield from made.held_out(seed, count)


class _Maker:
    """Makes turns and records of all kinds that can be made."""

    def __init__(self, definitions: Sequence[Definition]) -> None:
        self._plain = {kind: make for kind, (_, make) in _PLAIN.items()}
        self._shares = {kind: share for kind, (share, _) in _PLAIN.items()}
        self._plain["no-tool"], self._shares["no-tool"] = _not_offered(()), _NO_TOOL
        if definitions:
            self._plain["definitions"] = lambda d: definition(d, definitions)
            self._shares["definitions"] = _DEFINITIONS

    # ---- records ---------------------------------------------------------------------------

    def training(self, seed: int, count: int | None) -> Iterator[dict[str, Any]]:
        n = 0
        while count is None or n < count:
            rng = random.Random(f"train {seed} {n}")
            yield self._with_tools(rng) if rng.random() < _WITH_TOOLS else self._plain_talk(rng)
            n += 1

    def held_out(self, seed: int, count: int | None) -> Iterator[dict[str, Any]]:
        seen: set[str] = set()
        kinds = [k for k in KINDS if k != "definitions" or k in self._plain]
        n = made = 0
        while kinds and (count is None or made < count):
            kind, rng = kinds[n % len(kinds)], random.Random(f"held_out {seed} {n}")
            n += 1
            record = self._unseen(rng, kind, seen)
            if record is None:
                kinds.remove(kind)
                continue
            made += 1
            yield record

    def _plain_talk(self, rng: random.Random) -> dict[str, Any]:
        """Without tools: questions of several kinds, or a name that is told and asked for."""
        turns: list[tuple[str, Turn]] = []
        system = rng.choice(_SYSTEMS) if rng.random() < 0.15 else ""
        if rng.random() < 0.03:
            system, persona = _persona(rng, "train")
            turns.append(("persona", persona))
        if rng.random() < 0.3:
            turns.append(("greeting", self._turn(rng, "train", greeting)))
        told = rng.random()
        if told < 0.1:
            turns += (("memory", t) for t in self._memory(rng, "train"))
        for _ in range(rng.choice((1, 1, 2, 3, 4)) if told > 0.1 else rng.randint(0, 1)):
            turns.insert(rng.randint(0, len(turns)), self._plain_turn(rng, frozenset()))
        return _record(turns, None, system)

    def _with_tools(self, rng: random.Random) -> dict[str, Any]:
        """Two to four tools, and questions for them, for none and for others."""
        kinds = _offered(rng, rng.choice((1, 2, 2, 3, 3, 4)))
        tools = [kind.offer(rng, "train") for kind in kinds]
        answered = frozenset({"no-tool"}).union(*(kind.excludes for kind in kinds))
        turns: list[tuple[str, Turn]] = []
        for _ in range(rng.choice((1, 2, 3, 4, 5))):
            chance = rng.random()
            if chance < _WITHOUT_CALL:
                turns.append(self._plain_turn(rng, answered))
            elif chance < _WITHOUT_CALL + _NOT_OFFERED:
                turns.append(("no-tool", self._turn(rng, "train", _not_offered(kinds))))
            else:
                at = rng.randrange(len(kinds))
                fails = rng.random() < _FAILED
                make = _called(kinds[at], tools[at], fails)
                name = "tool-error" if fails else kinds[at].kind
                turns.append((name, self._turn(rng, "train", make)))
        system = rng.choice(_SYSTEMS) if rng.random() < 0.15 else ""
        return _record(turns, tools, system)

    def _unseen(self, rng: random.Random, kind: str, seen: set[str]) -> dict[str, Any] | None:
        """A held-out record of a kind whose question was not asked before; None without one."""
        for _ in range(20):
            record = self._one_unseen(rng, kind)
            asked = " ".join(m["content"] for m in record["messages"] if m["role"] == "user")
            if asked and asked not in seen:
                seen.add(asked)
                return record
        return None

    def _one_unseen(self, rng: random.Random, kind: str) -> dict[str, Any]:
        tools: list[Tool] | None = None
        system, turns = "", []
        if kind in self._plain and (kind != "no-tool" or rng.random() < 0.3):
            turns = [self._turn(rng, "held_out", self._plain[kind])]
        elif kind == "memory":
            turns = self._memory(rng, "held_out")
        elif kind == "persona":
            system, persona = _persona(rng, "held_out")
            turns = [persona]
        else:
            kinds = _offered(
                rng, rng.randint(2, 4), "" if kind in ("no-tool", "tool-error") else kind
            )
            tools = [k.offer(rng, "held_out") for k in kinds]
            if kind == "no-tool":
                make = _not_offered(kinds)
            else:
                make = _called(kinds[0], tools[0], kind == "tool-error")
            turns = [self._turn(rng, "held_out", make)]
            order = rng.sample(tools, len(tools))
            tools = order
        record = _record([(kind, turn) for turn in turns], tools, system)
        return {**record, "answers": [*turns[-1].answers], "is_new": turns[-1].is_new}

    # ---- turns -----------------------------------------------------------------------------

    def _turn(self, rng: random.Random, split: Split, make: Callable[[Draw], Turn]) -> Turn:
        """One of the split."""
        for _ in range(_TRIES):
            made = make(Draw(rng, split))
            if is_held_out(made) == (split == "held_out"):
                return made
        raise AssertionError(f"no turn of {split} in {_TRIES} tries")

    def _plain_turn(self, rng: random.Random, without: frozenset[str]) -> tuple[str, Turn]:
        kinds = [kind for kind in self._plain if kind not in without]
        (kind,) = rng.choices(kinds, [self._shares[k] for k in kinds])
        return kind, self._turn(rng, "train", self._plain[kind])

    def _memory(self, rng: random.Random, split: Split) -> list[Turn]:
        """The user tells something, talks of something else, and asks for it."""
        between: list[Turn] = []
        if rng.random() < 0.5:
            between = [self._plain_turn(rng, frozenset())[1] for _ in range(rng.randint(1, 2))]
        d = Draw(rng, split)
        if d.chance(0.12) and split == "train":
            return [asks_for_name(d, "")]
        for _ in range(_TRIES):
            told, asked = own_fact(d) if d.chance(0.4) else _name(d)
            if is_held_out(asked) == is_held_out(told) == (split == "held_out"):
                return [told, *between, asked]
        raise AssertionError(f"nothing told of {split} in {_TRIES} tries")


def _name(d: Draw) -> list[Turn]:
    told = introduction(d)
    known = told.answers[0].removeprefix("Nice to meet you, ").rstrip("!")
    asked = asks_for_name(d, known)
    return [told._replace(key=asked.key), asked]


def _persona(rng: random.Random, split: Split) -> tuple[str, Turn]:
    """A system text that gives another name, and who is asked for it."""
    for _ in range(_TRIES):
        d = Draw(rng, split)
        n = words.name(rng)
        system = d.words(("You are {n}.", "Your name is {n}.", "You are {n}, a helpful assistant.",
                          "You are called {n}.", "You are an assistant called {n}."),
                         ("Act as {n}.",), n=n)  # fmt: skip
        asked = d.words(("what is your name", "who are you", "what are you called",
                         "tell me your name"),
                        ("how shall I call you",))  # fmt: skip
        turn = d.turn(d.asked(asked), f"My name is {n}.", key=f"persona {n}")
        if is_held_out(turn) == (split == "held_out"):
            return system, turn
    raise AssertionError("no name")


def _offered(rng: random.Random, count: int, wanted: str = "") -> list[ToolKind]:
    """Different kinds of tools, the wanted one first."""
    kinds, weights = zip(*_TOOLS, strict=True)
    found: list[ToolKind] = []
    if wanted:
        found = [rng.choice([kind for kind in kinds if kind.kind == wanted])]
    while len(found) < count:
        (kind,) = rng.choices(kinds, weights)
        if kind.topic not in {k.topic for k in found}:
            found.append(kind)
    return found


def _called(kind: ToolKind, tool: Tool, fails: bool) -> Callable[[Draw], Turn]:
    def make(d: Draw) -> Turn:
        turn = kind.ask(d, tool)
        turn = turn._replace(is_new=turn.is_new or tool.name in kind.new)
        return failed(d, kind, turn) if fails else turn

    return make


def _not_offered(offered: Sequence[ToolKind]) -> Callable[[Draw], Turn]:
    """What another tool would be for is asked, and is not to be done."""

    def make(d: Draw) -> Turn:
        (kind,) = _offered(d.rng, 1)
        while kind.topic in {*_KNOWN, *(k.topic for k in offered)}:
            (kind,) = _offered(d.rng, 1)
        turn = kind.ask(d, kind.offer(d.rng, d.split))
        return turn._replace(call=None, answers=(f"I have no tool for {kind.topic}.",))

    return make


def _record(
    turns: Sequence[tuple[str, Turn]], tools: Sequence[Tool] | None, system: str
) -> dict[str, Any]:
    kinds = {kind for kind, _ in turns}
    record: dict[str, Any] = {"messages": messages_of([turn for _, turn in turns], system)}
    if tools:
        record["tools"] = [tool.schema for tool in tools]
    return {**record, "kind": kinds.pop() if len(kinds) == 1 else "mixed"}
