"""Words and operators of a shell script, read as data: nothing is expanded, nothing is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import UsageError

_OPERATORS = ("&&", "||", ";;", "&>>", "&>", ">>", "<<<", "<<-", "<<", ">&", "<&", ">|")
_SINGLE = ";&|()<>"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-]")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=$")
MAX_DEPTH = 20


@dataclass
class Part:
    """A piece of a word: text, `$NAME` or `${…}` (`parameter`), or what a shell would run."""

    kind: str
    text: str
    quoted: bool


@dataclass
class Token:
    """A word of `parts`, an operator, or an array `NAME=( words )`; with its line."""

    line: int
    parts: list[Part] = field(default_factory=list)
    operator: str = ""
    items: list[Token] | None = None

    @property
    def plain(self) -> str | None:
        """The word where it is unquoted text alone, as keywords are."""
        if self.operator or any(p.kind != "text" or p.quoted for p in self.parts):
            return None
        return "".join(p.text for p in self.parts)


class Lexer:
    """Splits the text of `path` into tokens; raises `UsageError` with path and line."""

    def __init__(self, text: str, path: str, line: int = 1, depth: int = 0) -> None:
        self.text, self.path, self.at, self.line, self.depth = text, path, 0, line, depth
        self.pending: list[tuple[str, bool]] = []
        self._check_depth()

    def _check_depth(self) -> None:
        if self.depth > MAX_DEPTH:
            raise self.error("too deeply nested")

    def error(self, what: str, line: int | None = None) -> UsageError:
        return UsageError(f"{self.path}:{line or self.line}: {what}")

    def tokens(self, end: str = "") -> Iterator[Token]:
        """All tokens up to the operator `end`, or to the end of the text."""
        opened = self.line
        while True:
            self._skip_blanks()
            if self.at >= len(self.text):
                if end:
                    raise self.error("`(` that begins here is not closed", opened)
                return
            token = self._next()
            if end and token.operator == end:
                return
            if not (end and token.operator == "\n"):
                yield token

    def _skip_blanks(self) -> None:
        """Blanks, comments, and line ends behind a backslash."""
        while self.at < len(self.text):
            if self.text.startswith("\\\n", self.at):
                self.at, self.line = self.at + 2, self.line + 1
            elif self.text[self.at] in " \t\r":
                self.at += 1
            elif self.text[self.at] == "#":
                self.at = self._find("\n", len(self.text))
            else:
                return

    def _find(self, what: str, otherwise: int) -> int:
        found = self.text.find(what, self.at)
        return otherwise if found < 0 else found

    def _next(self) -> Token:
        line, char = self.line, self.text[self.at]
        if char == "\n":
            self.at, self.line = self.at + 1, self.line + 1
            self._skip_here_documents()
            return Token(line, operator="\n")
        for operator in (*_OPERATORS, *_SINGLE):
            if self.text.startswith(operator, self.at):
                self.at += len(operator)
                if operator in ("<<", "<<-"):
                    self._note_here_document(operator == "<<-")
                return Token(line, operator=operator)
        return self._word()

    def _word(self) -> Token:
        token = Token(self.line)
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in " \t\r\n" or char in ";&|<>)":
                break
            if char == "(":
                if not _ASSIGNMENT.match(token.plain or ""):
                    break
                token.items = self._items()
                return token
            self._piece(token.parts)
        if self.text[self.at : self.at + 1] in ("<", ">") and (token.plain or "").isdecimal():
            token.operator = "fd"  # the number of what is redirected, and no argument
        return token

    def _items(self) -> list[Token]:
        """The words of an array, from its opening bracket on."""
        self.at, self.depth = self.at + 1, self.depth + 1
        self._check_depth()
        items = list(self.tokens(")"))
        self.depth -= 1
        return items

    def _piece(self, parts: list[Part]) -> None:
        """One piece outside of quotes."""
        char = self.text[self.at]
        if char == "'":
            parts.append(Part("text", self._until("'"), True))
        elif char == '"':
            self._double(parts)
        elif char == "\\":
            escaped = self.text[self.at + 1 : self.at + 2]
            self.at += 2
            if escaped == "\n":
                self.line += 1
            else:
                parts.append(Part("text", escaped, True))
        elif char in "$`":
            self._dollar(parts, quoted=False)
        else:
            start = self.at
            self.at = _PLAIN.match(self.text, start).end()  # type: ignore[union-attr]
            parts.append(Part("text", self.text[start : self.at], False))

    def _double(self, parts: list[Part]) -> None:
        opened = self.line
        self.at += 1
        parts.append(Part("text", "", True))  # an empty word is a word
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                return
            if char in "$`":
                self._dollar(parts, quoted=True)
            elif char == "\\" and self.text[self.at + 1 : self.at + 2] in tuple('$`"\\\n'):
                escaped = self.text[self.at + 1]
                self.at += 2
                self.line += escaped == "\n"
                parts.append(Part("text", escaped.replace("\n", ""), True))
            else:
                start = self.at
                self.at = _IN_QUOTES.match(self.text, start + 1).end()  # type: ignore[union-attr]
                self.line += self.text.count("\n", start, self.at)
                parts.append(Part("text", self.text[start : self.at], True))
        raise self.error('`"` that begins here is not closed', opened)

    def _dollar(self, parts: list[Part], *, quoted: bool) -> None:
        text, start = self.text, self.at
        if text[start] == "`":
            parts.append(Part("command", self._until("`"), quoted))
        elif text.startswith("$((", start):
            parts.append(Part("arithmetic", self._bracketed(3, "(", ")", 2), quoted))
        elif text.startswith("$(", start):
            parts.append(Part("command", self._bracketed(2, "(", ")", 1), quoted))
        elif text.startswith("${", start):
            parts.append(Part("parameter", self._bracketed(2, "{", "}", 1), quoted))
        elif text.startswith("$'", start):
            self.at += 1
            parts.append(Part("text", self._until("'"), True))
        elif name := _NAME.match(text, start + 1):
            self.at = name.end()
            parts.append(Part("parameter", name[0], quoted))
        else:
            self.at += 1
            parts.append(Part("text", "$", quoted))

    def _until(self, mark: str) -> str:
        """The text between the mark here and the next one."""
        end = self.text.find(mark, self.at + 1)
        if end < 0:
            raise self.error(f"`{mark}` that begins here is not closed")
        inner = self.text[self.at + 1 : end]
        self.at, self.line = end + 1, self.line + inner.count("\n")
        return inner

    def _bracketed(self, skip: int, opening: str, closing: str, depth: int) -> str:
        """The text inside brackets that began `skip` characters ago with `depth` of them."""
        opened, begin = self.line, self.at
        at, start = begin + skip, begin + skip
        missing = f"`{self.text[begin:start]}` that begins here is not closed"
        want = depth
        while True:
            found = _BRACKETS.search(self.text, at)
            if found is None:
                raise self.error(missing, opened)
            char, at = found[0], found.end()
            if char in "'\"" and opening == "(":
                quote = _QUOTES[char].match(self.text, at)
                if quote is None:
                    raise self.error(missing, opened)
                at = quote.end()
            elif char == opening:
                depth += 1
            elif char == closing:
                depth -= 1
                if not depth:
                    break
        inner = self.text[start : at - want]
        self.at, self.line = at, opened + inner.count("\n")
        return inner

    def _note_here_document(self, indented: bool) -> None:
        self._skip_blanks()
        mark = "".join(p.text for p in self._word().parts)
        self.pending.append((mark, indented))

    def _skip_here_documents(self) -> None:
        for mark, indented in self.pending:
            opened = self.line - 1
            while True:
                if self.at >= len(self.text):
                    raise self.error(f"the text up to `{mark}` that begins here has no end", opened)
                end = self._find("\n", len(self.text))
                row = self.text[self.at : end]
                self.at, self.line = end + 1, self.line + 1
                if (row.lstrip("\t") if indented else row) == mark:
                    break
        self.pending.clear()


_PLAIN = re.compile(r"[^\s;&|()<>'\"\\$`]+|.", re.DOTALL)
_IN_QUOTES = re.compile(r"[^\"$`\\]*")
_BRACKETS = re.compile(r"\\.|['\"(){}]", re.DOTALL)
_QUOTES = {"'": re.compile(r"[^']*'"), '"': re.compile(r'(?:[^"\\]|\\.)*"', re.DOTALL)}
