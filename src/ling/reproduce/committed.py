"""Results that are committed in the repository, where the package runs from a clone of it."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[3] / "benchmarks" / "results"

NOT_HERE = "Committed results come with a clone of the repository, and are not in the package."


def committed(pattern: str, folder: Path | None = None) -> Path | None:
    """The newest file of that pattern by name, which begins with its date; None where there is
    none, as in a package without its repository."""
    found = sorted((folder or FOLDER).glob(pattern))
    return found[-1] if found else None
