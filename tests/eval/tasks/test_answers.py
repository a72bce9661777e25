"""Answers in a model's words."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ling.eval.tasks.answers import extracted, last_number, number_of, same_number, same_text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So \boxed{3} or rather \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{4", r"\boxed{4"),
        ("First 3.\nThe answer is 12.", "12"),
        ("Answer: **Paris**\n", "Paris"),
        ("I think so.\n 42 \n\n", "42"),
        ("", ""),
    ],
)
def test_what_a_text_gives_as_its_answer(text, answer):
    assert extracted(text) == answer


def test_a_pattern_gives_its_last_match():
    assert extracted("#### 3\n#### 4", r"#### (\S+)") == "4"
    assert extracted("none", r"#### (\S+)") == ""


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234", 1234),
        ("-0.50", Fraction(-1, 2)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"$\dfrac{-3}{4}$", Fraction(-3, 4)),
        ("50%", Fraction(1, 2)),
        (r"12\%", Fraction(3, 25)),
        ("3/0", None),
        ("1,23", None),
        ("x + 1", None),
        ("", None),
        ("9" * 200, None),
    ],
)
def test_numbers_as_people_write_them(text, number):
    assert number_of(text) == number


def test_the_last_number_counts():
    assert last_number("from 3 to 1,250 km") == 1250
    assert last_number("no number") is None
    assert same_number("it is 0.50 m", "1/2")
    assert not same_number("it is 0.51 m", "1/2")


def test_texts_are_compared_without_their_decoration():
    assert same_text(r" $\text{Paris}$. ", "paris")
    assert same_text("0.5", "1/2")
    assert not same_text("Paris", "London")
    assert not same_text("3", "Paris")
