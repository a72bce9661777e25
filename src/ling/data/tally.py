"""Counts of what a corpus left out or read in a special way, with the first names."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from ..text import shown

MAX_NAMES = 10
_LOGGED_NAMES = 3


class Tally:
    """Reasons, how often each occurred, and the names of the first files or records."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._names: dict[str, list[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, reason: str, name: str) -> None:
        """Count one more `name` under `reason`."""
        self._counts[reason] += 1
        names = self._names.setdefault(reason, [])
        if len(names) < MAX_NAMES:
            names.append(name)

    def __add__(self, other: Tally) -> Tally:
        total = Tally()
        total._counts = self._counts + other._counts
        for reason in total._counts:
            names = self._names.get(reason, []) + other._names.get(reason, [])
            total._names[reason] = names[:MAX_NAMES]
        return total

    def as_dict(self) -> dict[str, Any]:
        """For `prepared.json`: reason → count and names, the most frequent first."""
        return {
            reason: {"count": count, "names": self._names[reason]}
            for reason, count in self._counts.most_common()
        }

    def lines(self) -> list[str]:
        """`3: binary data (a.bin, b.bin, c.bin)`, one line a reason."""
        return [
            f"{count}: {reason} ({_short(self._names[reason], count)})"
            for reason, count in self._counts.most_common()
        ]


def _short(names: list[str], count: int) -> str:
    few = [shown(n)[1:-1] for n in names[:_LOGGED_NAMES]]
    return ", ".join([*few, "..."] if count > len(few) else few)


def file_label(name: str) -> str:
    """A file name as text that any encoding can write; bytes that are not UTF-8 become `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
