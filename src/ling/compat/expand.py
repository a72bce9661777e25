"""Values of the words of a script, from its own variables alone: no environment, no command."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ..errors import UsageError
from ..text import printable
from .effects import names_in_arithmetic
from .lexer import Lexer, Part, Token

_PARAMETER = re.compile(
    r"([A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-])(?:\[([@*]|[0-9]{1,6})\])?(?:(:?[-=+])(.*))?", re.DOTALL
)
NOT_SET = "is not set in the script"
_UNKNOWN = "\0"  # stands for what is not known while a text is split; no script has it
_MAX_PROBLEMS = 8  # that a message about one word names
_MAX_CHARACTERS = 4 << 20
_WORD = 16  # characters that a word counts as, apart from its own
_ARITHMETIC = re.compile(r"[0-9A-Za-z_$\s+*/%()-]{1,200}")
_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: lambda a, b: int(a / b),
    ast.Mod: lambda a, b: a - b * int(a / b),
}


@dataclass(frozen=True)
class Value:
    """A word's text and its place; `unknown` has where in it something is missing, and why."""

    text: str
    where: str
    unknown: tuple[tuple[int, str], ...] = ()

    @property
    def problem(self) -> str:
        """Why the text is not what a shell would make; empty where it is."""
        return "; ".join(dict.fromkeys(why for _, why in self.unknown[:_MAX_PROBLEMS]))


@dataclass
class Variables:
    """The variables of a script; an array is a list, everything else one value."""

    path: str
    known: dict[str, Value | list[Value]] = field(default_factory=dict)
    characters: int = 0
    subshells: list[dict[str, Value | list[Value] | None]] = field(default_factory=list)

    def set(self, name: str, value: Value | list[Value] | None) -> None:
        """Give a variable a value, or with None no longer any."""
        if self.subshells:
            self.subshells[-1].setdefault(name, self.known.get(name))
        self._put(name, value)

    def _put(self, name: str, value: Value | list[Value] | None) -> None:
        if value is None:
            self.known.pop(name, None)
        else:
            self.known[name] = value

    def forget(self, name: str, line: int, why: str) -> None:
        """Nobody knows the value of a variable any longer."""
        self.set(name, self._missing(line, f"`{name}` {why}"))

    def leave_subshell(self) -> None:
        """What a subshell sets is gone behind it."""
        for name, value in self.subshells.pop().items():
            self._put(name, value)

    def expand(self, token: Token, depth: int = 0) -> list[Value]:
        """The words that a token stands for: none, one, or as many as an array has."""
        words = _Words(self._where(token.line))
        for part in token.parts:
            if part.kind == "text":
                words.add(part.text)
                self._count(len(part.text), token.line)
                continue
            values = self._part(part, token.line, depth)
            self._count(sum(len(v.text) + _WORD for v in values), token.line)
            words.add_values(values, split=not part.quoted)
        return words.finished()

    def one(self, token: Token, depth: int = 0) -> Value:
        """The value of a token where there is no splitting, as behind `NAME=`."""
        return joined(self.expand(_quoted(token), depth), self._where(token.line))

    def _where(self, line: int) -> str:
        return f"{self.path}:{line}"

    def _missing(self, line: int, why: str) -> Value:
        return Value("", self._where(line), ((0, why),))

    def _count(self, more: int, line: int) -> None:
        self.characters += more
        if self.characters > _MAX_CHARACTERS:
            raise UsageError(
                f"{self._where(line)}: its variables make more than {_MAX_CHARACTERS >> 20} MiB of "
                "text; no launch script needs that"
            )

    def _part(self, part: Part, line: int, depth: int) -> list[Value]:
        if part.kind == "command":
            what = f"`$({short(part.text)})` is a command, and none is run"
            return [self._missing(line, what)]
        if part.kind == "arithmetic":
            return [self._arithmetic(part.text, line)]
        match = _PARAMETER.fullmatch(part.text)
        if match is None:
            return [self._missing(line, f"`${{{short(part.text)}}}` is not evaluated")]
        name, index, rule, other = match.groups()
        values = self._look_up(name, index, line)
        if rule is None:
            return values
        unset = any(v.unknown and name not in self.known for v in values)
        missing = unset or (":" in rule and not any(v.text or v.unknown for v in values))
        if rule.endswith("+"):
            return [Value("", self._where(line)) if missing else self._other(other, line, depth)]
        if not missing:
            return values
        value = self._other(other, line, depth)
        if rule.endswith("="):
            self.set(name, value)
        return [value]

    def _look_up(self, name: str, index: str | None, line: int) -> list[Value]:
        found = self.known.get(name)
        if found is None:
            return [self._missing(line, f"`{name}` {NOT_SET}")]
        if isinstance(found, Value):
            return [Value(found.text, self._where(line), found.unknown)]
        values = found
        if index in ("@", "*"):
            return values
        at = int(index or 0)
        return values[at : at + 1]

    def _other(self, text: str, line: int, depth: int) -> Value:
        """What stands behind `:-`."""
        tokens = list(Lexer(text, self.path, line, depth + 1).tokens())
        values = [v for token in tokens for v in self.expand(_quoted(token), depth + 1)]
        return joined(values, self._where(line))

    def _arithmetic(self, text: str, line: int) -> Value:
        """Whole numbers and variables that have them, with + - * / % and brackets."""
        unknown = self._missing(line, f"`$(({short(text)}))` is not evaluated")
        for name in names_in_arithmetic(text):
            self.forget(name, line, f"is set by `$(({short(text)}))`, which is not evaluated")
        if not _ARITHMETIC.fullmatch(text) or "**" in text:
            return unknown

        def number(match: re.Match[str]) -> str:
            values = self._look_up(match[1], None, line)
            usable = values and values[0].text.isdecimal() and not values[0].unknown
            return values[0].text if usable else "?"

        plain = re.sub(r"\$?\{?\b([A-Za-z_]\w*)\b\}?", number, text)
        try:
            tree = ast.parse(plain.strip().replace("/", "//"), mode="eval")
            return Value(str(_evaluate(tree)), self._where(line))
        except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError):
            return unknown


def _evaluate(node: ast.AST) -> int:
    if isinstance(node, ast.Expression):
        return _evaluate(node.body)
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    raise ValueError


class _Words:
    """Words under construction; splits what was not quoted at blanks."""

    def __init__(self, where: str) -> None:
        self.begin = where
        self.done: list[Value] = []
        self.vanishes = False
        self._start()

    def _start(self) -> None:
        self.text: list[str] = []
        self.length, self.where, self.begun = 0, self.begin, False
        self.unknown: list[tuple[int, str]] = []

    def add(self, text: str, unknown: Sequence[tuple[int, str]] = ()) -> None:
        self.begun = True
        for at, why in unknown:
            # One is enough at a place: a text stays longer than the list of what it lacks.
            if not self.unknown or self.unknown[-1][0] != self.length + at:
                self.unknown.append((self.length + at, why))
        self.text.append(text)
        self.length += len(text)

    def add_values(self, values: list[Value], *, split: bool) -> None:
        self.vanishes = not values  # "${ARRAY[@]}" of none is no word
        for i, value in enumerate(values):
            if i:
                self.end()
            if not self.length:  # an array's words are named by their own lines
                self.where = value.where
            if split:
                self._add_split(value)
            else:
                self.add(value.text, value.unknown)

    def _add_split(self, value: Value) -> None:
        marked = _marked(value)
        if marked[:1].isspace():
            self.end()
        reasons = iter(value.unknown)
        for k, piece in enumerate(marked.split()):
            if k:
                self.end()
                self.where = value.where
            for j, text in enumerate(piece.split(_UNKNOWN)):
                self.add(text, [(0, next(reasons)[1])] if j else ())
        if marked[-1:].isspace():
            self.end()

    def end(self) -> None:
        if self.begun and (self.length or self.unknown or not self.vanishes):
            self.done.append(Value("".join(self.text), self.where, tuple(self.unknown)))
        self._start()

    def finished(self) -> list[Value]:
        self.end()
        return self.done


def _marked(value: Value) -> str:
    """The text with a mark at each place where something is missing."""
    if not value.unknown:
        return value.text
    ends = [0, *(at for at, _ in value.unknown), len(value.text)]
    return _UNKNOWN.join(value.text[a:b] for a, b in pairwise(ends))


def joined(values: Sequence[Value], where: str, between: str = " ") -> Value:
    """Several words as one text."""
    words = _Words(where)
    for i, value in enumerate(values):
        words.add(between if i else "")
        words.add(value.text, value.unknown)
    return Value("".join(words.text), where, tuple(words.unknown))


def short(text: str) -> str:
    """Text of a script for a message, on one line."""
    text = " ".join(text.split())
    return printable(text if len(text) <= 60 else text[:57] + "...")


def _quoted(token: Token) -> Token:
    return Token(token.line, [Part(p.kind, p.text, True) for p in token.parts])
