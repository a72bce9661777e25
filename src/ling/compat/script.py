"""A launch script as data: its variables, arrays and commands, found without running anything.

Assignments, arrays, `if` on constants, `&&`, `||` and `eval` of known text are followed; loops,
functions, `case`, other files and commands are not: each is a note.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..files.guarded import read_regular
from .commands import Commands, Found
from .expand import short
from .lexer import Lexer, Part, Token

MAX_BYTES = 1 << 20
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
_SKIPPED = ("for", "while", "until", "select", "case", "function")
_LEADING = ("then", "do", "else", "elif", "!", "time", "exec")
_SEPARATORS = ("\n", ";", ";;", "&", "|", "&&", "||", "(", ")")
_REDIRECTIONS = ("<", ">", ">>", ">&", "<&", ">|", "&>", "&>>", "<<<")


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


class Script(Found):
    """One or several scripts, read one after the other with the same variables."""

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


class _Reader(Commands):
    """Follows the text of one file."""

    def __init__(self, script: Found, path: str, depth: int = 0) -> None:
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
