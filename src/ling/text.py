"""Short texts for people: values in error lines, sizes, near misses of a word."""

from __future__ import annotations

import difflib
import json

from .errors import UsageError


def as_json(value: object) -> str:
    """A value for an error line as JSON has it, so that the text "3" is told from the number 3."""
    text = json.dumps(value, default=repr)
    return f"`{text[:60]}`" if len(text) <= 60 else f"`{text[:60]}`..."


def nearest(word: str, known: list[str]) -> str:
    """` (did you mean `x`?)` for the closest known word, or nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


_UNITS = {"GB": 10**9, "MB": 10**6, "KB": 10**3, "G": 10**9, "M": 10**6, "K": 10**3, "B": 1}


def parse_bytes(text: str, option: str) -> int:
    """A size such as `5GB` in bytes, units decimal; `UsageError` names the option otherwise."""
    for unit, factor in _UNITS.items():
        if text.strip().upper().endswith(unit):
            try:
                value = int(float(text.strip()[: -len(unit)]) * factor)
            except (ValueError, OverflowError):
                break
            if value > 0:
                return value
            break
    raise UsageError(f"`{option}` is `{text}`, expected a size such as 5GB")


def shown(value: object) -> str:
    """A value for an error line: short, printable, in backticks."""
    text = value if isinstance(value, str) else json.dumps(value, default=repr)
    return "`" + "".join(c if c.isprintable() else "?" for c in text[:80]) + "`"


def size(count: float) -> str:
    """A number of bytes in decimal units."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def one_line(text: str) -> str:
    """No line breaks and no control bytes of hostile input on the terminal."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line)[:2000]
