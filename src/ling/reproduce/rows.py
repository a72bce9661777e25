"""The table of what Ling 2.0 and its users claim in numbers: `rows.yaml`, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .registry import NAMES

FILE = Path(__file__).with_name("rows.yaml")
STATUSES = {"by": "reproduced", "planned": "planned", "not_here": "not reproducible here"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One claim of the table; exactly one of `by`, `planned` and `not_here` is given."""

    number: int
    claim: str
    published: str
    source: str
    """Of the keys of `sources`, with commas between several."""
    by: str = ""
    """Name of the claim of `ling reproduce` that reproduces it."""
    planned: str = ""
    """What is computed instead of measured, or measured by another command: with the command."""
    not_here: str = ""
    """Why it cannot be reproduced here."""

    @property
    def status(self) -> str:
        """Reproduced, planned, or not reproducible here."""
        return next(words for key, words in STATUSES.items() if getattr(self, key))


def read_rows(path: Path = FILE) -> tuple[list[Row], dict[str, str]]:
    """The rows, and the sources by key. Raises `ValueError` where the file contradicts itself: it
    is ours, so this is found by a test."""
    tree: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    rows = [Row(**row) for row in tree["rows"]]
    for at, row in enumerate(rows, 1):
        if row.number != at:
            raise ValueError(f"row {row.number} is in place {at}")
        if sum(bool(getattr(row, key)) for key in STATUSES) != 1:
            raise ValueError(f"row {at} needs one of {', '.join(STATUSES)}")
        if row.by and row.by not in NAMES:
            raise ValueError(f"row {at} is reproduced by `{row.by}`, which does not exist")
        if not set(row.source.split(", ")) <= set(tree["sources"]):
            raise ValueError(f"row {at} has source `{row.source}`, which is not listed")
    return rows, tree["sources"]
