"""The one form that dialogues of all packages have."""

from __future__ import annotations

from typing import Any


def dialogue(turns: list[str], **about: Any) -> dict[str, Any]:
    """A document of turns that alternate between two speakers; `text` has one after the other."""
    return {"text": "\n".join(turns), "turns": turns, **about}
