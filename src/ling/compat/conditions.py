"""The truth of `[ … ]`, `[[ … ]]` and `test` on what a script itself says."""

from __future__ import annotations

import re

from .expand import NOT_SET, Variables
from .lexer import Token


def truth(tokens: list[Token], variables: Variables) -> bool | None:
    """Whether a test is true; None where it is not evaluated.

    A variable that is not set is empty to a test. A pattern (`*`, `?`, `[` outside of quotes) is
    not evaluated, whether `[[` compares with it or `[` puts file names in its place.
    """
    if any(token.operator or _has_pattern(token, variables) for token in tokens):
        return None
    values = [variables.one(token) for token in tokens]
    if any(NOT_SET not in problem for value in values for _, problem in value.unknown):
        return None
    words = [value.text for value in values]
    negate = bool(words) and words[0] == "!"
    found = _truth(words[1:] if negate else words)
    return found if found is None or not negate else not found


def _has_pattern(token: Token, variables: Variables) -> bool:
    unquoted = Token(token.line, [part for part in token.parts if not part.quoted])
    return any(char in variables.one(unquoted).text for char in "*?[")


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
