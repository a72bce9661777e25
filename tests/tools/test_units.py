"""Units against values that are known."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ling.errors import ToolError
from ling.tools.units import FACTORS, convert


@pytest.mark.parametrize(
    ("value", "source", "target", "result"),
    [
        (3, " Hours", "MIN", 180),
        (5, "miles", "kilometers", 8.047),
        (1, "feet", "inches", 12),
        (2, "hours", "minutes", 120),
        (1, "pounds", "ounces", 16),
        (1, "gallons", "liters", 3.785),
        (100, "celsius", "fahrenheit", 212),
        (-40, "fahrenheit", "celsius", -40),
        (21, "celsius", "celsius", 21),
    ],
)
def test_values(value, source, target, result):
    assert convert(Fraction(value), source, target) == result


def test_there_and_back_is_where_it_began():
    for unit, (dimension, _) in FACTORS.items():
        for other in (u for u, (d, _) in FACTORS.items() if d == dimension):
            there = Fraction(convert(Fraction(10**7), unit, other))
            assert convert(there, other, unit) == pytest.approx(1e7, rel=1e-3)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("miles", "cubits", "unknown unit cubits"),
        ("miles", "grams", "miles is a length, grams is a weight"),
        ("celsius", "feet", "celsius is a temperature, feet is a length"),
    ],
)
def test_what_cannot_be_converted_is_named(source, target, message):
    with pytest.raises(ToolError, match=message):
        convert(Fraction(1), source, target)
