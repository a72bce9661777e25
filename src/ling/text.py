"""Short texts for people: values and errors in one printable line, sizes, near misses of a word."""

from __future__ import annotations

import difflib
import json
import unicodedata
from pathlib import Path

from .errors import UsageError


def printable(text: str) -> str:
    """`text` with a question mark for every character that could move a terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in text)


# Control, formatting (they reorder text, or hide in it), half a pair, and separators of lines.
_ACTING = ("Cc", "Cf", "Cs", "Zl", "Zp")
# Line ends and tabs, and the joiners that scripts and emoji are written with.
_HARMLESS = "\n\t\u200c\u200d"


def terminal_text(text: str) -> str:
    """A model's text for a terminal: all that is writing stays, and a question mark stands for
    every character that could move the cursor, change colours or reorder what is shown. Carriage
    returns, as in the line ends of Windows, are left out."""
    text = text.replace("\r", "")
    if text.isprintable():
        return text
    return "".join(
        c if c in _HARMLESS or unicodedata.category(c) not in _ACTING else "?" for c in text
    )


def one_line(text: str) -> str:
    """All words of `text` in one line; untrusted input must not write to the terminal freely."""
    return printable(" ".join(text.split()))[:2000]


def first_line(error: BaseException) -> str:
    """The first line of another library's error, or the error's class where it says nothing."""
    lines = str(error).strip().splitlines()
    return printable(lines[0].rstrip()[:300]) if lines else type(error).__name__


def shown(value: object) -> str:
    """A value for an error line: short, printable, in backticks."""
    text = value if isinstance(value, str) else json.dumps(value, default=repr)
    return f"`{printable(text[:80])}`"


def shown_path(path: Path) -> str:
    """A path for an error line: whole, since its end is its name; printable, in backticks."""
    return f"`{printable(str(path))}`"


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


def size(count: float) -> str:
    """A number of bytes in decimal units."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
