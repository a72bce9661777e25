"""Counters of the engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Stats:
    """Totals since the engine was made."""

    generated: int = 0
    seconds: float = 0.0
    drafted: int = 0
    accepted: int = 0
    forced: int = 0
    """Generated tokens that a constraint forced, verified with others in one step; these are no
    drafts."""

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second of engine time, prefill included."""
        return self.generated / self.seconds if self.seconds else 0.0

    @property
    def acceptance(self) -> float | None:
        """Share of drafts that the model itself would have chosen; None without drafts."""
        return self.accepted / self.drafted if self.drafted else None
