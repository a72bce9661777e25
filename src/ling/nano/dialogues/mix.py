"""Which kinds there are and how often, and conversations of one or several of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .arithmetic import arithmetic
from .copying import copying
from .dates import dates, units
from .definitions import Definition, chosen, definition
from .draw import Draw
from .facts import facts
from .identity import identity
from .knowledge import knowledge
from .lists import lists
from .memory import asks_for_unknown_name, persona, told_first
from .numbers import numbers
from .offered import TALKS, TOOL_KINDS, called, not_offered, offered, talked, talks_of
from .smalltalk import greeting, smalltalk
from .tools import Tool
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
# Of conversations: with tools; of the turns in those: no tool is needed, none fits, it fails.
_WITH_TOOLS, _WITHOUT_CALL, _NOT_OFFERED, _FAILED = 0.36, 0.18, 0.06, 0.07
_SYSTEMS = (
    "You are a helpful assistant.", "You are Ling.", "You are a friendly assistant.",
    "Answer briefly.", "You are a helpful assistant. Answer briefly.", "Be kind.",
    "You are an assistant.", "You are an assistant with tools.", "Use the tools where they fit.",
    "You are a helpful AI assistant.", "You are a helpful, respectful and honest assistant.",
    "You are an AI assistant. Answer the questions of the user.", "Answer in one sentence.",
    "You are a voice assistant at home.", "You are a chat bot.", "You are Ling, a small model.",
    "Help the user.",
)  # fmt: skip
KINDS: tuple[str, ...] = (
    *_PLAIN, "definitions", "memory", "persona", "no-tool",
    *TOOL_KINDS, "tool-error", *TALKS,
)  # fmt: skip
"""What `kind` of a record may be; "mixed" is a training record of several of them."""
_SEVERAL = 0.12
"""Of calls: those in a talk of two questions."""
_TRIES = 200


def records(
    split: Split,
    seed: int,
    count: int | None = None,
    definitions: Iterable[Sequence[str]] = (),
) -> Iterator[dict[str, Any]]:
    """Conversations in OpenAI's form: `messages`, `tools` where some are offered, and `kind`.

    "train" has one to five questions in a record and does not end without `count`. "held_out" has
    one question in each, whose values or wording are in no training record of any seed, of every
    kind in turn; `answers` are the last answers that count as right, and `is_new` says of each
    question that its wording, or the name of its tool, is never trained on. `definitions` are
    (word, part of speech, gloss), such as WordNet's; without them nothing is defined. The same
    arguments give the same records, and a longer `count` only adds some.
    """
    made = _Maker(chosen(definitions))
    if split == "train":
        yield from made.training(seed, count)
    else:
        yield from made.held_out(seed, count)


class _NoTurnError(LookupError):
    """None of the turns that were tried is of the split, such as where a list has two values."""


class _Maker:
    """Makes turns and records of all kinds that can be made."""

    def __init__(self, definitions: Sequence[Definition]) -> None:
        self._plain = {kind: make for kind, (_, make) in _PLAIN.items()}
        self._shares = {kind: share for kind, (share, _) in _PLAIN.items()}
        self._plain["no-tool"], self._shares["no-tool"] = not_offered(()), _NO_TOOL
        if definitions:
            self._plain["definitions"] = lambda d: definition(d, definitions)
            self._shares["definitions"] = _DEFINITIONS

    # ---- records ---------------------------------------------------------------------------

    def training(self, seed: int, count: int | None) -> Iterator[dict[str, Any]]:
        n = 0
        while count is None or n < count:
            yield self._training(random.Random(f"train {seed} {n}"))
            n += 1

    def _training(self, rng: random.Random) -> dict[str, Any]:
        while True:
            try:
                return (
                    self._with_tools(rng) if rng.random() < _WITH_TOOLS else self._plain_talk(rng)
                )
            except _NoTurnError:
                continue

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
        """Without tools: questions of several kinds; what was told first is asked for later."""
        turns: list[tuple[str, Turn]] = []
        system = rng.choice(_SYSTEMS) if rng.random() < 0.15 else ""
        kind = rng.random()
        if kind < 0.03:
            system, asked = self._persona(rng, "train")
            turns.append(("persona", asked))
        if rng.random() < 0.25:
            turns.append(("greeting", self._turn(rng, "train", greeting)))
        if kind > 0.88:
            turns += (("memory", turn) for turn in self._memory(rng, "train"))
        if kind > 0.99:
            turns.append(("memory", self._turn(rng, "train", asks_for_unknown_name)))
        for _ in range(rng.choice((1, 1, 2, 3, 4)) if kind < 0.88 else rng.randint(0, 1)):
            turns.insert(rng.randint(0, len(turns)), self._plain_turn(rng, frozenset()))
        return _record(turns, None, system)

    def _with_tools(self, rng: random.Random) -> dict[str, Any]:
        """A few tools, and questions for them, for none and for others."""
        kinds = offered(rng, rng.choice((1, 2, 2, 3, 3, 4)))
        tools = [kind.offer(rng, "train") for kind in kinds]
        answered = frozenset({"no-tool"}).union(*(kind.excludes for kind in kinds))
        turns: list[tuple[str, Turn]] = []
        for _ in range(rng.choice((1, 2, 3, 4, 5))):
            chance, at = rng.random(), rng.randrange(len(kinds))
            if chance < _WITHOUT_CALL:
                turns.append(self._plain_turn(rng, answered))
            elif chance < _WITHOUT_CALL + _NOT_OFFERED:
                turns.append(("no-tool", self._turn(rng, "train", not_offered(kinds))))
            elif rng.random() < _SEVERAL and (talks := talks_of(kinds[at])):
                talk = rng.choice(talks)
                make = talked(talk, kinds[at], tools[at])
                turns += ((talk, turn) for turn in self._all(rng, "train", make))
            else:
                fails = rng.random() < _FAILED
                turn = self._turn(rng, "train", called(kinds[at], tools[at], fails))
                turns.append(("tool-error" if fails else kinds[at].kind, turn))
        system = rng.choice(_SYSTEMS) if rng.random() < 0.15 else ""
        return _record(turns, tools, system)

    def _unseen(self, rng: random.Random, kind: str, seen: set[str]) -> dict[str, Any] | None:
        """A held-out record of a kind whose question was not asked before; None without one."""
        for _ in range(20):
            try:
                record = self._one_unseen(rng, kind)
            except _NoTurnError:
                continue
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
            system, asked = self._persona(rng, "held_out")
            turns = [asked]
        else:
            turns, tools = self._unseen_call(rng, kind)
        record = _record([(kind, turn) for turn in turns], tools, system)
        is_new = [turn.is_new for turn in turns]
        return {**record, "answers": [*turns[-1].answers], "is_new": is_new}

    def _unseen_call(self, rng: random.Random, kind: str) -> tuple[list[Turn], list[Tool]]:
        kinds = offered(rng, rng.randint(2, 4), "" if kind in ("no-tool", "tool-error") else kind)
        tools = [k.offer(rng, "held_out") for k in kinds]
        if kind in TALKS:
            turns = self._all(rng, "held_out", talked(kind, kinds[0], tools[0]))
        elif kind == "no-tool":
            turns = [self._turn(rng, "held_out", not_offered(kinds))]
        else:
            fails = kind == "tool-error"
            turns = [self._turn(rng, "held_out", called(kinds[0], tools[0], fails))]
        return turns, rng.sample(tools, len(tools))

    # ---- turns -----------------------------------------------------------------------------

    def _turn(self, rng: random.Random, split: Split, make: Callable[[Draw], Turn]) -> Turn:
        """One of the split."""
        (turn,) = self._all(rng, split, lambda d: [make(d)])
        return turn

    def _all(
        self, rng: random.Random, split: Split, make: Callable[[Draw], list[Turn]]
    ) -> list[Turn]:
        """Turns of the split: none that is held out, or a last one that is."""
        for _ in range(_TRIES):
            turns = make(Draw(rng, split))
            if is_held_out(turns[-1]) if split == "held_out" else all(map(_may_be_trained, turns)):
                return turns
        raise _NoTurnError

    def _plain_turn(self, rng: random.Random, without: frozenset[str]) -> tuple[str, Turn]:
        kinds = [kind for kind in self._plain if kind not in without]
        (kind,) = rng.choices(kinds, [self._shares[k] for k in kinds])
        return kind, self._turn(rng, "train", self._plain[kind])

    def _memory(self, rng: random.Random, split: Split) -> list[Turn]:
        """The user tells something, may talk of something else, and asks for it."""
        told, asked = self._all(rng, split, told_first)
        count = rng.choice((0, 0, 1, 2))
        between = [self._plain_turn(rng, frozenset())[1] for _ in range(count)]
        return [told, *between, asked]

    def _persona(self, rng: random.Random, split: Split) -> tuple[str, Turn]:
        """A system text and a question of the split."""
        while True:
            system, turn = persona(Draw(rng, split))
            if is_held_out(turn) == (split == "held_out"):
                return system, turn


def _may_be_trained(turn: Turn) -> bool:
    """Neither held out, nor a text that is where it comes alone."""
    return not (is_held_out(turn) or is_held_out(turn._replace(key="")))


def _record(
    turns: Sequence[tuple[str, Turn]], tools: Sequence[Tool] | None, system: str
) -> dict[str, Any]:
    kinds = {kind for kind, _ in turns}
    record: dict[str, Any] = {"messages": messages_of([turn for _, turn in turns], system)}
    if tools:
        record["tools"] = [tool.schema for tool in tools]
    return {**record, "kind": kinds.pop() if len(kinds) == 1 else "mixed"}
