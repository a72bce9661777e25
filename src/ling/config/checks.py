"""Checks of values that several sections of a recipe share."""

from __future__ import annotations

import math

from ..errors import UsageError


def at_least(name: str, value: float, least: float) -> None:
    """Raise `UsageError` unless `value` is a finite number from `least` on."""
    if not math.isfinite(value) or value < least:
        raise UsageError(f"`{name}` is {value}, expected a number of at least {least}")
