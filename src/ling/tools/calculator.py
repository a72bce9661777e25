"""Arithmetic on text: numbers, `+ - * /` and parentheses, exact, and nothing is ever evaluated."""

from __future__ import annotations

import re
from fractions import Fraction

from ..errors import ToolError

MAX_LENGTH, MAX_DEPTH = 200, 20
PLACES = 10
"""Decimal places of a result that has more."""

_TOKEN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+|[-+*/()])")
# How people write signs that a keyboard lacks.
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})


def calculate(expression: str) -> int | float:
    """The value, rounded to `PLACES` where it is no whole number; raises `ToolError` where there is
    none."""
    if len(expression) > MAX_LENGTH:
        raise ToolError(
            f"the expression has {len(expression)} characters, {MAX_LENGTH} are allowed"
        )
    parser = _Parser(_tokens(expression.translate(_SIGNS)))
    value = parser.sum(0)
    if parser.next is not None:
        raise ToolError(f"unexpected {parser.next}")
    return number(value, PLACES)


def number(value: Fraction, places: int) -> int | float:
    """As JSON writes it: whole, or rounded to so many decimal places."""
    value = round(value, places)
    return value.numerator if value.denominator == 1 else float(value)


def _tokens(text: str) -> list[str]:
    found, at, text = [], 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ToolError(f"unexpected {text[at:].strip()[0]}")
        found.append(match[1])
        at = match.end()
    return found


class _Parser:
    """By descent: a sum of products of factors."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens, self._at = tokens, 0

    @property
    def next(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self) -> str:
        token = self.next
        if token is None:
            raise ToolError("the expression is not complete")
        self._at += 1
        return token

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while self.next in ("+", "-"):
            sign = self._take()
            term = self._product(depth)
            value = value + term if sign == "+" else value - term
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while self.next in ("*", "/"):
            sign = self._take()
            factor = self._factor(depth)
            if sign == "/" and not factor:
                raise ToolError("division by zero")
            value = value * factor if sign == "*" else value / factor
        return value

    def _factor(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise ToolError(f"more than {MAX_DEPTH} levels of parentheses and signs")
        token = self._take()
        if token in ("-", "+"):
            value = self._factor(depth + 1)
            return -value if token == "-" else value
        if token == "(":
            value = self.sum(depth + 1)
            if self._take() != ")":
                raise ToolError("a parenthesis is not closed")
            return value
        if token in ("*", "/", ")"):
            raise ToolError(f"unexpected {token}")
        return Fraction(token)
