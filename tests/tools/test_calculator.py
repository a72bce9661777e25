"""Arithmetic on text against Python's own, and what is refused."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from ling.errors import ToolError
from ling.tools.calculator import MAX_DEPTH, MAX_LENGTH, calculate, number


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("10 - 4 - 3", 3),
        ("100 / 10 / 5", 2),
        ("-3 * -(2 - 5)", -9),
        ("0.1 + 0.2", 0.3),
        ("1 / 3", 0.3333333333),
        ("-2 / 3", -0.6666666667),
        ("12 × 7.50 ÷ 3 − 1", 29),
        (".5*4", 2),
        ("2\u00a0+\u202f3", 5),
        ("-1 / 100000000000", 0),
        ("123456789123456789 * 1000", 123456789123456789000),
    ],
)
def test_values(expression, value):
    assert calculate(expression) == value


def test_random_expressions_have_the_value_that_python_computes():
    rng = random.Random(0)

    def expression(depth: int) -> str:
        if depth == 0 or rng.random() < 0.2:
            return str(rng.randrange(1, 100))
        a, b = expression(depth - 1), expression(depth - 1)
        return (
            f"({a} {rng.choice('+-*')} {b})"
            if rng.random() < 0.5
            else f"{a} {rng.choice('+-*')} {b}"
        )

    for _ in range(200):
        text = expression(3)
        assert calculate(text) == eval(text), text


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "not complete"),
        ("2 +", "not complete"),
        ("(2 + 3", "not complete"),
        ("(2 3)", "a parenthesis is not closed"),
        ("2 3", "unexpected 3"),
        ("* 2", "unexpected \\*"),
        ("7 / (3 - 3)", "division by zero"),
        ("2 ** 3", "unexpected \\*"),
        ("__import__('os')", "unexpected _"),
        ("1e5", "unexpected e"),
        ("٣ + 1", "unexpected ٣"),
        ("9" * (MAX_LENGTH + 1), "201 characters"),
        ("(" * (MAX_DEPTH + 2) + "1", "levels"),
        ("-" * (MAX_DEPTH + 2) + "1", "levels"),
    ],
)
def test_what_has_no_value_says_why(expression, message):
    with pytest.raises(ToolError, match=message):
        calculate(expression)


def test_the_longest_product_is_computed():
    assert calculate("*".join(["99999999"] * 22)) == 99999999**22


def test_a_result_is_whole_or_rounded():
    assert [number(Fraction(n, 4), 1) for n in (-1, 1, 3, 4)] == [-0.2, 0.2, 0.8, 1]
    assert isinstance(number(Fraction(8, 2), 1), int)
