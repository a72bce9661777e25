"""The arguments that a launch script gives to Megatron-LM's training program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ..errors import UsageError
from .arguments import ARGUMENTS
from .commands import Command, Note
from .expand import Value, short
from .script import Script

_TOO_LARGE = 1 << 62
_RANKS = ("nproc-per-node", "nnodes")


@dataclass
class Given:
    """Arguments by name, as they were read: a value, a list, or True for a bare flag.

    `read` has the names that somebody asked for.
    """

    values: dict[str, Any] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    notes: list[Note] = field(default_factory=list)
    program: str = ""
    ranks: int | None = None

    def __contains__(self, name: str) -> bool:
        self.read.add(name)
        return name in self.values

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return self.values.get(name, default)

    def error(self, name: str, what: str) -> UsageError:
        return UsageError(f"{self.where[name]}: `{name}`{what}")

    def note(self, name: str, what: str) -> None:
        self.notes.append(Note(self.where[name], f"`{name}`{what}"))


def given(script: Script) -> Given:
    """The arguments of the script's launch, or of all its arrays where it has none.

    Of several, the launch with the most known arguments counts, and the last of those.
    """
    found = Given(notes=script.notes)
    launches = [launch for launch in map(_launch, script.commands) if launch is not None]
    if launches:
        chosen = max(reversed(launches), key=lambda launch: launch.known)
        words, at = chosen.command.words, chosen.at
        found.program, found.ranks = words[at].text, _ranks(words[:at])
        for other in launches:
            if other is not chosen:
                what = "another launch is left out: the one with the most arguments counts"
                found.notes.append(Note(other.command.words[0].where, what))
        words = words[at + 1 :]
    else:
        arrays = [value for value in script.variables.known.values() if isinstance(value, list)]
        words = [word for array in arrays for word in array]
    _take(words, found)
    if not found.values:
        raise UsageError(
            f"{script.variables.path}: no arguments of Megatron-LM's pretrain_gpt.py; expected a "
            "script that starts it, or arrays of its arguments"
        )
    if not launches:
        path = script.variables.path
        found.notes.append(Note(path, "starts nothing: the arguments of all its arrays are taken"))
    return found


class _Launch(NamedTuple):
    """A command that starts a program with arguments, where in it that is, and how many."""

    command: Command
    at: int
    known: int


def _launch(command: Command) -> _Launch | None:
    words = [word.text for word in command.words]
    programs = [i for i, word in enumerate(words) if word.endswith(".py")]
    if not programs:
        return None
    names = {word.partition("=")[0] for word in words[programs[0] + 1 :]}
    known = len(names & ARGUMENTS.keys())
    return _Launch(command, programs[0], known) if known else None


def _ranks(words: Sequence[Value]) -> int | None:
    """How many processes torchrun starts, where the script says so."""
    found = dict.fromkeys(_RANKS, "")
    for word, following in zip(words, [*words[1:], None], strict=True):
        name, equals, value = word.text.lstrip("-").replace("_", "-").partition("=")
        if name in found and word.text.startswith("-"):
            found[name] = value if equals else (following.text if following else "")
    if not all(text.isdecimal() and int(text) for text in found.values()):
        return None
    return int(found["nproc-per-node"]) * int(found["nnodes"])


def program_name(path: str) -> str:
    """The last part of the program's path."""
    return PurePosixPath(path).name


def _take(words: Sequence[Value], found: Given) -> None:
    """Read all arguments; the later of two counts, as in Megatron-LM."""
    at = 0
    while at < len(words):
        word, at = words[at], at + 1
        name, equals, value = word.text.partition("=")
        if not name.startswith("--"):
            what = f"`{short(word.text)}` is left out"
            found.notes.append(Note(word.where, word.problem or f"{what}: no argument precedes it"))
            continue
        values = [Value(value, word.where, word.unknown)] if equals else []
        while not equals and at < len(words) and not words[at].text.startswith("--"):
            values.append(words[at])
            at += 1
        _take_one(name, values, word.where, found)


def _take_one(name: str, values: list[Value], where: str, found: Given) -> None:
    argument = ARGUMENTS.get(name)
    if argument is None:
        found.notes.append(Note(where, f"`{short(name)}` is not known here: left out"))
        return
    wanted = 0 if argument.read is None else len(values) if argument.several else 1
    if len(values) < max(wanted, argument.read is not None):
        raise UsageError(f"{where}: `{name}` has no value")
    for extra in values[wanted:]:
        what = extra.problem or f"`{short(extra.text)}` is left out: `{name}` takes no such value"
        found.notes.append(Note(extra.where, what))
    unknown = [v.problem for v in values[:wanted] if v.problem]
    if unknown:
        found.notes.append(Note(where, f"`{name}` is left out: {unknown[0]}"))
        return
    if name in found.values:
        found.notes.append(Note(where, f"`{name}` is there twice: this one counts"))
    found.where[name] = where
    found.values[name] = _read(name, [v.text for v in values[:wanted]], where)
    if argument.why:
        found.note(name, f" is left out: {argument.why}")


def _read(name: str, texts: list[str], where: str) -> Any:
    argument = ARGUMENTS[name]
    if argument.read is None:
        return True
    try:
        values = [argument.read(text) for text in texts]
        if any(isinstance(v, int | float) and not abs(v) < _TOO_LARGE for v in values):
            raise ValueError  # nan and inf as well
    except (ValueError, TypeError, RecursionError):
        kind = {int: "a whole number", float: "a number"}.get(argument.read, "another form")  # type: ignore[call-overload]
        text = short(" ".join(texts))
        raise UsageError(f"{where}: `{name}` is `{text}`, expected {kind}") from None
    return values if argument.several else values[0]
