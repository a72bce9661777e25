"""JSON from files that someone else wrote: what is damaged or made to exhaust memory is refused."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

# A safetensors header has an object and eight values for each tensor, a model index one value. The
# largest release has 130 000 tensors over all its files.
MAX_VALUES = 1 << 20
MAX_OBJECTS = 1 << 17


def loads(data: bytes | bytearray) -> Any:
    """The value of a JSON text. Raises `ValueError` with a short reason.

    Unlike `json.loads`, refuses a name that an object holds twice (readers differ on which value
    counts, so a checker and a loader could see different files) and more than `MAX_VALUES` values
    or `MAX_OBJECTS` objects (a few bytes of text each cost hundreds in memory).
    """
    objects = data.count(b"{")
    if objects > MAX_OBJECTS or data.count(b",") + data.count(b"[") + objects > MAX_VALUES:
        raise ValueError(f"more than {MAX_OBJECTS} objects or {MAX_VALUES} values")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError as err:
        raise ValueError(f"not JSON: {err.msg} at byte {err.pos}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = Counter(name for name, _ in pairs)
        twice = next(name for name, count in names.items() if count > 1)
        raise ValueError(f"{shown(twice)} is there twice")
    return value


def shown(value: object) -> str:
    """A value for an error line: short, printable, in backticks."""
    text = value if isinstance(value, str) else json.dumps(value, default=repr)
    return "`" + "".join(c if c.isprintable() else "?" for c in text[:80]) + "`"
