"""Lengths, weights, volumes, times and temperatures in other units, exactly."""

from __future__ import annotations

from fractions import Fraction

from ..errors import ToolError
from .calculator import number

PLACES = 3
# What a unit measures, its size, and how else it is written.
_UNITS = """
length 0.001 mm millimeter millimeters
length 0.01 cm centimeter centimeters
length 1 m meter meters
length 1000 km kilometer kilometers
length 0.0254 inches inch in
length 0.3048 feet foot ft
length 1609.344 miles mile
weight 1 g gram grams
weight 1000 kg kilogram kilograms
weight 28.349523125 ounces ounce oz
weight 453.59237 pounds pound lb
volume 1 ml milliliter milliliters
volume 1000 l liter liters
volume 3785.411784 gallons gallon
time 1 s second seconds
time 60 min minute minutes
time 3600 h hour hours
time 86400 days day
time 604800 weeks week
"""
_FAHRENHEIT, _CELSIUS = ("fahrenheit", "f"), ("celsius", "c")


def _table() -> dict[str, tuple[str, Fraction]]:
    rows = (line.split() for line in _UNITS.strip().splitlines())
    return {name: (kind, Fraction(size)) for kind, size, *names in rows for name in names}


FACTORS = _table()
"""What a unit measures, and how much of the first unit of that kind it is."""


def convert(value: Fraction, source: str, target: str) -> int | float:
    """`value` of unit `source` in unit `target`; raises `ToolError` where that cannot be."""
    source, target = source.strip().lower(), target.strip().lower()
    kinds = [_kind(unit) for unit in (source, target)]
    if kinds[0] != kinds[1]:
        raise ToolError(f"{source} is a {kinds[0]}, {target} is a {kinds[1]}")
    if kinds[0] == "temperature":
        return number(_from_celsius(_to_celsius(value, source), target), PLACES)
    return number(value * FACTORS[source][1] / FACTORS[target][1], PLACES)


def _kind(unit: str) -> str:
    if unit in _FAHRENHEIT + _CELSIUS:
        return "temperature"
    if unit not in FACTORS:
        raise ToolError(f"unknown unit {unit[:40]}")
    return FACTORS[unit][0]


def _to_celsius(value: Fraction, unit: str) -> Fraction:
    return (value - 32) / Fraction(9, 5) if unit in _FAHRENHEIT else value


def _from_celsius(value: Fraction, unit: str) -> Fraction:
    return value * Fraction(9, 5) + 32 if unit in _FAHRENHEIT else value
