"""JSON values from a client that are passed on as they are: schemas, tools, arguments."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, StrictStr

from .values import whole_text

MAX_DEPTH = 64


def plain_json(value: Any) -> Any:
    """`value` itself; raises `ValueError` where it is nested too deeply to be walked, or where it
    holds numbers and texts that no reply could hold."""
    level = [value]
    for _ in range(MAX_DEPTH):
        if not level:
            return value
        level = [inner for outer in level for inner in _inside(outer)]
    raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list):
        return value
    if isinstance(value, str):
        whole_text(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds a number that is not finite")
    return []


JsonObject = Annotated[dict[StrictStr, Any], AfterValidator(plain_json)]
