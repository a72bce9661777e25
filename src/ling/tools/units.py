"""Lengths, weights, volumes, times and temperatures in other units, exactly."""

from __future__ import annotations

from fractions import Fraction

from ..errors import ToolError
from .calculator import decimal

PLACES = 4
_DIMENSIONS: dict[str, dict[str, str]] = {
    "length": {
        "millimeters": "0.001",
        "centimeters": "0.01",
        "meters": "1",
        "kilometers": "1000",
        "inches": "0.0254",
        "feet": "0.3048",
        "miles": "1609.344",
    },
    "weight": {"grams": "1", "kilograms": "1000", "ounces": "28.349523125", "pounds": "453.59237"},
    "volume": {"milliliters": "1", "liters": "1000", "gallons": "3785.411784"},
    "time": {"seconds": "1", "minutes": "60", "hours": "3600", "days": "86400", "weeks": "604800"},
}
FACTORS = {
    unit: (dimension, Fraction(factor))
    for dimension, units in _DIMENSIONS.items()
    for unit, factor in units.items()
}
TEMPERATURES = ("celsius", "fahrenheit")
UNITS = (*FACTORS, *TEMPERATURES)


def convert(value: Fraction, source: str, target: str) -> str:
    """`value` of unit `source` in unit `target`; raises `ToolError` where that cannot be."""
    for unit in (source, target):
        if unit not in UNITS:
            raise ToolError(f"no such unit: {unit[:40]}")
    return decimal(_converted(value, source, target), PLACES)


def _converted(value: Fraction, source: str, target: str) -> Fraction:
    if source in TEMPERATURES and target in TEMPERATURES:
        celsius = value if source == "celsius" else (value - 32) / Fraction(9, 5)
        return celsius if target == "celsius" else celsius * Fraction(9, 5) + 32
    kinds = [FACTORS[unit][0] if unit in FACTORS else "temperature" for unit in (source, target)]
    if kinds[0] != kinds[1]:
        raise ToolError(f"{source} measure {kinds[0]}, {target} measure {kinds[1]}")
    return value * FACTORS[source][1] / FACTORS[target][1]
