"""What was read, what of it is learned, and what was left out and why."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..tally import Tally
from .rendered import CONTEXT_ONLY
from .supervise import Supervised
from .types import BadRecord, Conversation, Preference, Record


@dataclass
class Report:
    """Counts of records and samples; `lengths` are in tokens, of samples that are used."""

    read: int = 0
    bad: Tally = field(default_factory=Tally)
    over_long: Tally = field(default_factory=Tally)
    untrained: Tally = field(default_factory=Tally)
    context_only: Tally = field(default_factory=Tally)
    roles: Counter[str] = field(default_factory=Counter)
    lengths: array[int] = field(default_factory=lambda: array("i"))
    trained: int = 0
    samples: int = 0
    held_out: int = 0
    _hashes: array[int] = field(default_factory=lambda: array("Q"))
    _held_out_hashes: array[int] = field(default_factory=lambda: array("Q"))

    def see(self, record: Record, content: int, *, is_held_out: bool = False) -> None:
        """Count a record that can be used."""
        self.read += 1
        (self._held_out_hashes if is_held_out else self._hashes).append(content)
        chosen = record.chosen if isinstance(record, Preference) else record
        if isinstance(chosen, Conversation):
            for message in chosen.messages:  # `Counter.update` takes twice as long
                self.roles[message["role"]] += 1

    def use(self, sample: Supervised, trained: int) -> None:
        """Count a sample that is used, `trained` tokens of it in the loss."""
        self.samples += 1
        self.lengths.append(len(sample.ids))
        self.trained += trained

    def skip(self, record: BadRecord) -> None:
        """Count a record that cannot be used."""
        self.bad.add(record.reason, str(record.origin))

    def note(self, sample: Supervised, record: Record) -> None:
        """Count what is to be said of a sample, whether or not it is used."""
        if sample.notes and any(CONTEXT_ONLY in note for note in sample.notes):
            self.context_only.add("turns that are context only", str(record.origin))

    @property
    def duplicates(self) -> int:
        """Records that say what another one says, too."""
        every = np.array(self._hashes + self._held_out_hashes, np.uint64)
        return len(every) - len(np.unique(every))

    @property
    def leaked(self) -> int:
        """Held-out records that are trained on, too."""
        trained = np.array(self._hashes, np.uint64)
        return int(np.isin(np.array(self._held_out_hashes, np.uint64), trained).sum())

    def as_dict(self) -> dict[str, Any]:
        """For `ling data check` and for the report of a run."""
        tokens = sum(self.lengths)
        return {
            "records": self.read,
            "samples": self.samples,
            "held_out": self.held_out,
            "bad": self.bad.as_dict(),
            "duplicates": self.duplicates,
            "leaked": self.leaked,
            "roles": dict(self.roles),
            "tokens": tokens,
            "trained_tokens": self.trained,
            "trained_share": self.trained / tokens if tokens else 0.0,
            "lengths": _lengths(np.array(self.lengths)),
            "over_long": self.over_long.as_dict(),
            "untrained": self.untrained.as_dict(),
            "context_only": self.context_only.as_dict(),
        }


def _lengths(lengths: np.ndarray) -> dict[str, float]:
    if not len(lengths):
        return {}
    shares = {"min": 0, "median": 50, "p90": 90, "p99": 99, "max": 100}
    found = {name: int(np.percentile(lengths, q)) for name, q in shares.items()}
    return {**found, "mean": round(float(lengths.mean()), 1)}


def report_lines(report: dict[str, Any]) -> list[str]:
    """The report for people, one line a fact; what was left out is named."""
    held_out = f" ({report['held_out']:,} held out)" if report["held_out"] else ""
    size = "" if report["tokens"] is None else f", {report['tokens']:,} tokens"
    lines = [
        f"{report['records']:,} records, {report['samples']:,} samples{held_out}{size}, "
        f"{report['trained_share']:.1%} trained"
    ]
    if report["lengths"]:
        lengths = ", ".join(f"{k} {v:,}" for k, v in report["lengths"].items())
        lines.append(f"tokens a sample: {lengths}")
    if report["roles"]:
        lines.append("messages: " + ", ".join(f"{n:,} {r}" for r, n in report["roles"].items()))
    if report["duplicates"]:
        lines.append(f"{report['duplicates']:,} records repeat another one")
    if report["leaked"]:
        lines.append(
            f"{report['leaked']:,} held-out records are among those to train on: the held-out loss "
            "is too low"
        )
    for name, words in _LEFT_OUT.items():
        for reason, found in report[name].items():
            places = ", ".join(found["names"][:3]) + (", ..." if found["count"] > 3 else "")
            lines.append(f"{words}: {found['count']:,}: {reason} ({places})")
    return lines


_LEFT_OUT = {
    "bad": "left out",
    "over_long": "over-long",
    "untrained": "left out",
    "context_only": "note",
}
