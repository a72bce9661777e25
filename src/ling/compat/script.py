"""A launch script as data: its variables, arrays and commands, found without running anything.

Assignments, arrays, `if` on constants, `&&`, `||` and `eval` of known text are followed; loops,
functions, `case`, other files and commands are not: each is a note.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..errors import UsageError
from ..files.guarded import read_regular
from .expand import Value, Variables, short
from .lexer import Lexer, Part, Token

MAX_BYTES = 1 << 20
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=", re.DOTALL)
_DECLARE = ("export", "declare", "local", "readonly", "typeset")
_CLOSERS = {
    "if": "fi",
    "for": "done",
    "while": "done",
    "until": "done",
    "select": "done",
    "case": "esac",
    "{": "}",
}
_SKIPPED = ("for", "while", "until", "select", "case", "function")
_LEADING = ("then", "do", "else", "elif", "!", "time", "exec")
_SEPARATORS = ("\n", ";", ";;", "&", "|", "&&", "||", "(", ")")
_REDIRECTIONS = ("<", ">", ">>", ">&", "<&", ">|", "&>", "&>>", "<<<")


class Command(NamedTuple):
    """A command that is no assignment, with its words."""

    line: int
    words: list[Value]


class Note(NamedTuple):
    """What was not followed, and where."""

    where: str
    text: str


@dataclass
class _If:
    """An `if` under evaluation: whether the branch here is taken; None: nobody can know."""

    line: int
    taken: bool | None = False
    done: bool = False
    in_condition: bool = True


@dataclass
class Script:
    """One or several scripts, read one after the other with the same variables."""

    variables: Variables = field(default_factory=lambda: Variables(""))
    arrays: dict[str, list[Value]] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def read(self, path: str | Path) -> None:
        """Follow the script at `path`; raises `UsageError` for what is none."""
        try:
            text = read_regular(Path(path), MAX_BYTES).decode("utf-8-sig")
        except OSError as err:
            raise UsageError(f"{path}: {err.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"{path}: not a text file") from None
        if "\0" in text:
            raise UsageError(f"{path}: not a text file")
        self.variables.path = str(path)
        _Reader(self, str(path)).follow(text)


class _Reader:
    """Follows the text of one file."""

    def __init__(self, script: Script, path: str, depth: int = 0) -> None:
        self.script, self.path, self.depth = script, path, depth
        self.variables = script.variables
        self.ifs: list[_If] = []
        self.status: bool | None = True
        self.ended = False

    def follow(self, text: str, line: int = 1) -> None:
        self.tokens = list(Lexer(text, self.path, line, self.depth).tokens())
        self.at = 0
        joint = ""
        while self.at < len(self.tokens) and not self.ended:
            command, end = self._command()
            if command:
                self._run(command, joint)
            joint = end
        if self.ifs and not self.ended:
            raise UsageError(f"{self.path}:{self.ifs[-1].line}: `if` that begins here has no `fi`")

    def note(self, line: int, text: str) -> None:
        self.script.notes.append(Note(f"{self.path}:{line}", text))

    # ---- commands ------------------------------------------------------------------------------

    def _command(self) -> tuple[list[Token], str]:
        """The words of the next command without redirections, and the operator behind it."""
        words: list[Token] = []
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            self.at += 1
            if words and words[0].plain == "[[" and words[-1].plain != "]]":
                words.append(token)  # operators between these brackets belong to the test
            elif token.operator in ("fd", "<<", "<<-"):
                continue
            elif token.operator in _REDIRECTIONS:
                self.at += 1
            elif token.operator in _SEPARATORS:
                if token.operator == "(" and self._skips_function(words):
                    return [], ""
                if token.operator == "(" and self._skips_arithmetic():
                    words.append(Token(token.line, [Part("text", "((", False)]))
                    continue
                return words, token.operator
            else:
                words.append(token)
        return words, ""

    def _following(self) -> str:
        return self.tokens[self.at].operator if self.at < len(self.tokens) else ""

    def _skips_function(self, words: list[Token]) -> bool:
        """Go behind `NAME() { … }`; False before another bracket."""
        if len(words) != 1 or self._following() != ")":
            return False
        self.at += 1
        self._note_skipped(words[0].line, f"function `{short(words[0].plain or '')}`")
        self._skip(words)
        return True

    def _skips_arithmetic(self) -> bool:
        """Go behind `(( … ))`; False before another bracket."""
        if self._following() != "(":
            return False
        while self.at < len(self.tokens) and self._following() != ")":
            self.at += 1
        self.at += 2
        return True

    def _note_skipped(self, line: int, what: str) -> None:
        if self._is_active():
            self.note(line, f"{what} is not followed")

    def _skip(self, begin: list[Token]) -> None:
        """Go behind the end of the block that `begin` leads, or of the next one."""
        word = begin[0].plain
        closers = [_CLOSERS[word]] if word in _CLOSERS else []
        if not closers and any(token.plain == "{" for token in begin):
            closers = ["}"]
        starts = True
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            self.at += 1
            word = token.plain if starts else None
            if word in _CLOSERS:
                closers.append(_CLOSERS[word])
            elif closers and word == closers[-1]:
                closers.pop()
                if not closers:
                    return
            starts = token.operator in _SEPARATORS or word in _LEADING or word in _CLOSERS
        raise UsageError(f"{self.path}:{begin[0].line}: the block that begins here has no end")

    def _run(self, tokens: list[Token], joint: str) -> None:
        """One command behind `joint`, in the branch of an `if` that is taken."""
        first, negated = tokens[0], False
        while tokens and tokens[0].plain in (*_LEADING, "if", "fi", "{", "}"):
            negated = negated != (tokens[0].plain == "!")
            self._keyword(tokens[0])
            tokens = tokens[1:]
            joint = ""
        if not tokens:
            return
        if tokens[0].plain in _SKIPPED:
            self._note_skipped(first.line, f"`{tokens[0].plain}`")
            self._skip(tokens)
        elif self._is_active() and self._goes_on(joint, first.line):
            self._simple(tokens)
            if negated and self.status is not None:
                self.status = not self.status

    def _goes_on(self, joint: str, line: int) -> bool:
        """Whether a command behind `&&` or `||` is reached."""
        if joint not in ("&&", "||"):
            return True
        if self.status is None:
            self.note(line, f"what is behind `{joint}` depends on what is not evaluated; left out")
            return False
        return self.status == (joint == "&&")

    def _is_active(self) -> bool:
        *outer, last = self.ifs or [_If(0, True)]
        if not all(frame.taken for frame in outer):
            return False
        return last.in_condition or last.taken is True

    def _keyword(self, token: Token) -> None:
        """Follow a word that leads a command."""
        word = token.plain
        if word == "if":
            self.ifs.append(_If(token.line))
            self.status = True
        elif word in ("then", "else", "elif", "fi"):
            if not self.ifs:
                raise UsageError(f"{self.path}:{token.line}: `{word}` without `if`")
            self._branch(self.ifs[-1], word)

    def _branch(self, frame: _If, word: str) -> None:
        outer_active = all(f.taken for f in self.ifs[:-1])
        if word == "fi":
            self.ifs.pop()
            self.status = True
        elif word == "then":
            frame.in_condition = False
            if outer_active and not frame.done:
                frame.taken = self.status
                if frame.taken is None:
                    self.note(frame.line, "`if` depends on what is not evaluated; left out")
            frame.done = frame.done or frame.taken is not False
        else:
            frame.in_condition = word == "elif" and not frame.done
            frame.taken = word == "else" and not frame.done
            self.status = True

    # ---- what a command does -------------------------------------------------------------------

    def _simple(self, tokens: list[Token]) -> None:
        rest = list(tokens)
        while rest and self._assigns(rest[0]):
            rest.pop(0)
        if not rest:
            for token in tokens:
                self._assign(token)
            self.status = True
            return
        word, line = rest[0].plain, rest[0].line
        if word in _DECLARE:
            for token in rest[1:]:
                if self._assigns(token):
                    self._assign(token)
        elif word in ("[", "[[", "test"):
            self.status = self._test(rest[1:] if word == "test" else rest[1:-1])
        elif word == "((":
            self.status = None
        elif word in ("source", "."):
            self.note(line, "another file is not read: give it as an argument, before this one")
        elif word == "unset":
            for token in rest[1:]:
                self.variables.known.pop(token.plain or "", None)
        elif word == "exit":
            self.ended = True
        elif word == "eval":
            self._evaluate(rest[1:], line)
        else:
            words = [v for token in rest for v in self.variables.expand(token)]
            self.script.commands.append(Command(line, words))
            self.status = {"true": True, ":": True, "false": False}.get(word or "", True)

    def _assigns(self, token: Token) -> bool:
        first = token.parts[0] if token.parts else None
        if first is None or first.kind != "text" or first.quoted:
            return False
        return _ASSIGNMENT.match(first.text) is not None

    def _assign(self, token: Token) -> None:
        first = token.parts[0]
        match = _ASSIGNMENT.match(first.text)
        assert match is not None
        name, more = match[1], match[2] == "+"
        if token.items is not None:
            items = [v for item in token.items for v in self.variables.expand(item)]
            old = self.variables.known.get(name) if more else None
            before = old if isinstance(old, list) else []
            self.variables.known[name] = self.script.arrays[name] = [*before, *items]
            return
        rest = Token(token.line, [type(first)("text", first.text[match.end() :], True)])
        rest.parts += token.parts[1:]
        value = self.variables.one(rest)
        old = self.variables.known.get(name) if more else None
        if isinstance(old, Value):
            problem = "; ".join(p for p in (old.problem, value.problem) if p)
            value = Value(old.text + value.text, value.where, problem)
        self.variables.known[name] = value

    def _evaluate(self, tokens: list[Token], line: int) -> None:
        """`eval` of text that is known: the text of one more script."""
        words = [v for token in tokens for v in self.variables.expand(token)]
        problems = [v.problem for v in words if v.problem]
        if problems:
            self.note(line, f"`eval` is not followed: {problems[0]}")
            return
        inner = _Reader(self.script, self.path, self.depth + 1)
        inner.follow(" ".join(v.text for v in words), line)

    def _test(self, tokens: list[Token]) -> bool | None:
        """The truth of a test on constants; None where it is not evaluated."""
        if any(token.operator for token in tokens):
            return None
        values = [self.variables.one(token) for token in tokens]
        # A variable that is not set is empty to a test.
        words = ["" if "is not set in the script" in v.problem else v.text for v in values]
        if any(v.problem and "is not set in the script" not in v.problem for v in values):
            return None
        negate = bool(words) and words[0] == "!"
        truth = _truth(words[1:] if negate else words)
        return truth if truth is None or not negate else not truth


def _truth(words: list[str]) -> bool | None:
    match words:
        case [text]:
            return bool(text)
        case ["-z", text]:
            return not text
        case ["-n", text]:
            return bool(text)
        case [a, "=" | "==", b]:
            return a == b
        case [a, "!=", b]:
            return a != b
        case [a, ("-eq" | "-ne" | "-lt" | "-le" | "-gt" | "-ge") as sign, b]:
            return _compared(a, sign, b)
    return None


def _compared(a: str, sign: str, b: str) -> bool | None:
    if not (re.fullmatch(r"-?[0-9]{1,18}", a) and re.fullmatch(r"-?[0-9]{1,18}", b)):
        return None
    x, y = int(a), int(b)
    truths = {
        "-eq": x == y,
        "-ne": x != y,
        "-lt": x < y,
        "-le": x <= y,
        "-gt": x > y,
        "-ge": x >= y,
    }
    return truths[sign]
