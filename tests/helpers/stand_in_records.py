"""Records of claims that nobody measured."""

from __future__ import annotations

from ling.reproduce.claim import Figure
from ling.reproduce.record import Record


def record(claim: str, how="counted", **changes) -> Record:
    """A record with the figure 42."""
    fields = {
        "claim": claim,
        "quick": False,
        "settings": {"seed": 0},
        "command": f"ling reproduce {claim}",
        "date": "2026-11-29",
        "commit": "0123abc",
        "machine": "a processor",
        "cores": 2,
        "load": "none",
        "seconds": 1.0,
        "outcome": "agrees",
        "verdict": "It is 42.",
        "figures": [Figure("answer", "41", "42", how, 42.0)],
        "data": {},
    }
    return Record(**{**fields, **changes})
