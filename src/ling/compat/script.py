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
from .conditions import truth
from .effects import names_in_arithmetic, names_set
from .expand import Value, Variables, joined, short
from .lexer import Lexer, Part, Token

MAX_BYTES = 1 << 20
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=")
_ELEMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\[[^\]]*\]\+?=")
_DECLARE = ("export", "declare", "local", "readonly", "typeset")
_CLOSERS = {
    "if": "fi",
    "for": "done",
    "while": "done",
    "until": "done",
    "select": "done",
    "case": "esac",
    "{": "}",
    "(": ")",
}
_KNOWN_STATUS = {"true": True, ":": True, "false": False}
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
class _Block:
    """An `if`, `{` or `(` that is open: whether its part here is followed; None: nobody can know.

    `outer` says whether what it stands in is followed.
    """

    word: str
    line: int
    outer: bool
    taken: bool | None = False
    done: bool = False
    in_condition: bool = False

    @property
    def active(self) -> bool:
        return self.outer and (self.in_condition or self.taken is True)


@dataclass
class Script:
    """One or several scripts, read one after the other with the same variables."""

    variables: Variables = field(default_factory=lambda: Variables(""))
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
        _Reader(self, str(path)).follow(text.replace("\r\n", "\n"))


class _Commands:
    """What single commands do: their status, and the variables that they set."""

    def __init__(self, script: Script, path: str) -> None:
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


class _Reader(_Commands):
    """Follows the text of one file."""

    def __init__(self, script: Script, path: str, depth: int = 0) -> None:
        super().__init__(script, path)
        self.depth = depth
        self.blocks: list[_Block] = []

    def follow(self, text: str, line: int = 1) -> None:
        self.tokens = list(Lexer(text, self.path, line, self.depth).tokens())
        self.at = 0
        joint = ""
        while self.at < len(self.tokens) and not self.ended:
            command, end = self._command()
            if command:
                self._run(command, joint)
            if end == "(":
                self._open("(", self.tokens[self.at - 1].line, joint)
                self.variables.subshells.append({})
            elif end == ")" and self._close("("):
                self.variables.leave_subshell()
            joint = end
        if self.blocks and not self.ended:
            block = self.blocks[-1]
            what = f"`{block.word}` that begins here has no `{_CLOSERS[block.word]}`"
            raise UsageError(f"{self.path}:{block.line}: {what}")

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
                if token.operator == "(" and self._following() == "(":
                    words.append(Token(token.line, [Part("text", "((", False)]))
                    words.append(self._arithmetic())
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

    def _arithmetic(self) -> Token:
        """What is inside `(( … ))`, from its second bracket on, as one word."""
        line, texts, depth = self.tokens[self.at].line, [], 1
        self.at += 1
        while self.at < len(self.tokens) and depth:
            token = self.tokens[self.at]
            self.at += 1
            depth += (token.operator == "(") - (token.operator == ")")
            texts.append(token.operator or "".join(part.text for part in token.parts))
        self.at += self._following() == ")"
        return Token(line, [Part("text", " ".join(texts[:-1]), True)])

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
            self._keyword(tokens[0], joint)
            tokens = tokens[1:]
            joint = ""
        if not tokens:
            return
        if tokens[0].plain in _SKIPPED:
            self._note_skipped(first.line, f"`{tokens[0].plain}`")
            self._skip(tokens)
        elif self._is_active() and self._goes_on(joint, first.line, self._sets(tokens)):
            self.ran = False
            if tokens[0].plain == "eval":
                self._evaluate(tokens[1:], first.line)
            else:
                self._simple(tokens)
            if negated:
                self.status, self.ran = None if self.status is None else not self.status, False

    def _goes_on(self, joint: str, line: int, sets: bool) -> bool:
        """Whether a command behind `&&` or `||` is reached.

        `cd x && torchrun …` is, as its author expects; what `sets` a variable is not.
        """
        if joint not in ("&&", "||"):
            return True
        in_condition = bool(self.blocks) and self.blocks[-1].in_condition
        if self.ran and not in_condition and not sets:
            return joint == "&&"
        if self.status is None:
            self.note(line, f"what is behind `{joint}` depends on what is not evaluated; left out")
            return False
        return self.status == (joint == "&&")

    def _is_active(self) -> bool:
        return not self.blocks or self.blocks[-1].active

    def _open(self, word: str, line: int, joint: str) -> None:
        """Begin the commands of `{` or `(`."""
        outer = self._is_active()
        taken = outer and self._goes_on(joint, line, sets=word == "{")
        self.blocks.append(_Block(word, line, outer, taken))

    def _close(self, word: str) -> bool:
        """End the commands of `{` or `(`; False where none are open."""
        if not self.blocks or self.blocks[-1].word != word:
            return False
        self.blocks.pop()
        return True

    def _keyword(self, token: Token, joint: str) -> None:
        """Follow a word that leads a command."""
        word = token.plain
        if word == "if":
            outer = self._is_active() and self._goes_on(joint, token.line, sets=True)
            self.blocks.append(_Block("if", token.line, outer, in_condition=True))
            self.status = True
        elif word == "{":
            self._open("{", token.line, joint)
        elif word == "}":
            self._close("{")
        elif word in ("then", "else", "elif", "fi"):
            if not self.blocks or self.blocks[-1].word != "if":
                raise UsageError(f"{self.path}:{token.line}: `{word}` without `if`")
            self._branch(self.blocks[-1], word)

    def _branch(self, block: _Block, word: str) -> None:
        if word == "fi":
            self.blocks.pop()
            self.status = True
        elif word == "then":
            block.in_condition = False
            if block.outer and not block.done:
                block.taken = self.status
                if block.taken is None:
                    self.note(block.line, "`if` depends on what is not evaluated; left out")
            block.done = block.done or block.taken is not False
        else:
            block.in_condition = word == "elif" and not block.done
            block.taken = word == "else" and not block.done
            self.status = True

    def _evaluate(self, tokens: list[Token], line: int) -> None:
        """`eval` of text that is known: the text of one more script."""
        words = self._words(tokens)
        problems = [v.problem for v in words if v.unknown]
        if problems:
            self.status = None
            self.note(line, f"`eval` is not followed: {problems[0]}")
            return
        inner = _Reader(self.script, self.path, self.depth + 1)
        inner.follow(" ".join(v.text for v in words), line)
        self.status = inner.status
