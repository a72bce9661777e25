"""Checks of values that several sections of a recipe share."""

from __future__ import annotations

import math
from typing import Any

from ..errors import UsageError


def at_least(name: str, value: float, least: float) -> None:
    """Raise `UsageError` unless `value` is a finite number from `least` on."""
    if not math.isfinite(value) or value < least:
        raise UsageError(f"`{name}` is {value}, expected a number of at least {least}")


def one_is_a_list(config: Any, *names: str) -> None:
    """Take a single value where several are possible as a list of one."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not isinstance(value, list):
            single = isinstance(value, (str, int, float))
            object.__setattr__(config, name, [value] if single else list(value))
