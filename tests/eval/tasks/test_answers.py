"""Answers in a model's words."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest

from ling.eval.tasks.answers import (
    extracted,
    last_number,
    number_of,
    same_number,
    same_text,
    same_value,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So \boxed{3} or rather \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{4", r"\boxed{4"),
        ("First 3.\nThe answer is 12.", "12"),
        ("Answer: **Paris**\n", "Paris"),
        ("The answer is:\n\n5", "5"),
        ("The answer isn't clear.\n6", "6"),
        (r"\boxed{a{b}} } {", "a{b}"),
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
        ("3 4", None),
        ("1 1/2", None),
        ("1 000", 1000),
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


@pytest.mark.parametrize(
    ("said", "wanted", "right"),
    [
        ("[1,2]", "[1, 2]", True),
        ('{"a": (1,)}', "{'a': (1,)}", True),
        (r"\{'a': 1\}", "{'a': 1}", True),
        ("{2, 1}", "{1, 2}", True),
        ("'A'", "'a'", False),
        ("a", "'a'", False),
        ("[1, 2", "[1, 2]", False),
        ("Counter()", "Counter()", True),
        ("__import__('os').getcwd()", "'/'", False),
        ("", "''", False),
        ("(" * 50_000, "()", False),
        ("-" * 50_000 + "1", "1", False),
        ("9" * 50_000, "9", False),
        ("{[]: 1}", "{}", False),
    ],
)
def test_values_of_python_are_compared_as_such(said, wanted, right):
    assert same_value(said, wanted) is right


def test_nothing_said_is_never_right():
    assert not same_text("", "{}")
    assert not same_text("()", "{}")
    assert same_text("{}", "{}")


@pytest.mark.parametrize("loop", ["\\boxed{", "Answer:" + "\n" * 9, "answer is ", "\n"])
def test_models_that_repeat_themselves_are_read_in_no_time(loop):
    start = time.process_time()
    extracted("Answer:" + loop * 20000)
    assert time.process_time() - start < 2.0
