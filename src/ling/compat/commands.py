"""What single commands of a launch script do: their status, and the variables that they set."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from .conditions import truth
from .effects import names_in_arithmetic, names_set
from .expand import Value, Variables, joined, short
from .lexer import Part, Token

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=")
_ELEMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\[[^\]]*\]\+?=")
_DECLARE = ("export", "declare", "local", "readonly", "typeset")
_KNOWN_STATUS = {"true": True, ":": True, "false": False}


class Command(NamedTuple):
    """A command that is no assignment, with its words."""

    line: int
    words: list[Value]


class Note(NamedTuple):
    """What was not followed, and where."""

    where: str
    text: str


@dataclass
class Found:
    """What scripts are found to have, one read after the other with the same variables."""

    variables: Variables = field(default_factory=lambda: Variables(""))
    commands: list[Command] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


class Commands:
    """What single commands do: their status, and the variables that they set."""

    def __init__(self, script: Found, path: str) -> None:
        self.script, self.path = script, path
        self.variables = script.variables
        self.status: bool | None = True
        self.ran = False  # the status is that of a command which is not run
        self.ended = False

    def note(self, line: int, text: str) -> None:
        self.script.notes.append(Note(f"{self.path}:{line}", text))

    def _sets(self, tokens: list[Token]) -> bool:
        return tokens[0].plain in _DECLARE or all(self._assigns(token) for token in tokens)

    def _simple(self, tokens: list[Token]) -> None:
        rest = list(tokens)
        while rest and self._assigns(rest[0]):
            rest.pop(0)
        self.status = True
        if not rest:
            for token in tokens:
                self._assign(token)
            return
        word, line = rest[0].plain, rest[0].line
        if word in _DECLARE:
            for token in rest[1:]:
                if self._assigns(token):
                    self._assign(token)
        elif word in ("[", "[[", "test"):
            self.status = truth(rest[1:] if word == "test" else rest[1:-1], self.variables)
        elif word == "((":
            text = "".join(part.text for token in rest[1:] for part in token.parts)
            self._forget(names_in_arithmetic(text), line, f"(({short(text)}))")
        elif word in ("source", "."):
            self.status = None
            self.note(line, "another file is not read: give it as an argument, before this one")
        elif word == "unset":
            for value in self._words(rest[1:]):
                self.variables.set(value.text.partition("[")[0], None)
        elif word == "exit":
            self.ended = not self.variables.subshells
        else:
            self._other(rest, line)

    def _words(self, tokens: list[Token]) -> list[Value]:
        return [value for token in tokens for value in self.variables.expand(token)]

    def _other(self, tokens: list[Token], line: int) -> None:
        """A command that is not run, or `true` and its kind."""
        words = self._words(tokens)
        self.script.commands.append(Command(line, words))
        name = words[0].text if words else ""
        names = names_set(name, [value.text for value in words[1:]])
        if names:
            self._forget(names, line, name)
        elif name in _KNOWN_STATUS:
            self.status = _KNOWN_STATUS[name]
        else:
            self.status, self.ran = None, True

    def _forget(self, names: list[str], line: int, what: str) -> None:
        """Variables that `what` sets to what is not evaluated."""
        self.status = None
        for name in dict.fromkeys(names):
            self.variables.forget(name, line, f"is set by `{what}`, which is not evaluated")
        if names:
            shown = short(", ".join(dict.fromkeys(names)))
            self.note(line, f"`{what}` is not evaluated: `{shown}` is not known from here on")

    def _assigns(self, token: Token) -> bool:
        first = token.parts[0] if token.parts else None
        if first is None or first.kind != "text" or first.quoted:
            return False
        return bool(_ASSIGNMENT.match(first.text)) or self._element(token) is not None

    def _element(self, token: Token) -> str | None:
        """The array in `NAME[…]=`."""
        if "[" not in token.parts[0].text:
            return None
        match = _ELEMENT.match("".join(part.text for part in token.parts))
        return match and match[1]

    def _assign(self, token: Token) -> None:
        first = token.parts[0]
        match = _ASSIGNMENT.match(first.text)
        if match is None:
            name = self._element(token)
            assert name is not None
            self._forget([name], token.line, f"{name}[…]=")
            self.status = True
            return
        name, more = match[1], match[2] == "+"
        old = self.variables.known.get(name) if more else None
        if token.items is not None:
            before = old if isinstance(old, list) else [old] if old else []
            self.variables.set(name, [*before, *self._words(token.items)])
            return
        if isinstance(old, list):
            self._forget([name], token.line, f"{name}+= of an array")
            return
        rest = Token(token.line, [Part("text", first.text[match.end() :], True)])
        rest.parts += token.parts[1:]
        value = self.variables.one(rest)
        if isinstance(old, Value):
            value = joined([old, value], value.where, "")
        self.variables.set(name, value)
