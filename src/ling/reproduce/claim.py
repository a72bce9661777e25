"""What a claim is, what measuring one gives, and what it is measured with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

How = Literal["counted", "formula", "planned", "measured", "committed"]
"""Where a figure is from: an exact count, a published formula, `ling plan`, this machine in this
run, or a file of results that was committed before."""
Outcome = Literal["agrees", "partly", "disagrees", "open"]
"""Whether what was found agrees with the claim, at this scale, or with a part of it; `open` where
it cannot tell."""


@dataclass(frozen=True)
class Figure:
    """One number, beside the published one."""

    what: str
    published: str
    """As the original has it, with its unit; empty where it gives none."""
    here: str
    """Ours, with its unit."""
    how: How
    value: float | None = None
    """Ours as a number, where it is one."""
    row: int = 0
    """The row of the table of all claims that it answers, where a claim has several."""
    outcome: Outcome | None = None
    """What it alone shows, where the claim has several parts."""


@dataclass(frozen=True)
class Result:
    """What measuring a claim gives; the first figure is the one that summaries quote."""

    figures: list[Figure]
    outcome: Outcome
    verdict: str
    """What the figures show, and what they do not: Markdown."""
    data: dict[str, Any] = field(default_factory=dict)
    """What the picture is drawn from and further tables: plain JSON."""


def together(outcomes: Iterable[Outcome]) -> Outcome:
    """Of a claim with several parts: what all of them show, or `partly` where only some agree."""
    found = set(outcomes)
    if found == {"agrees"}:
        return "agrees"
    if found & {"agrees", "partly"}:
        return "partly"
    return "disagrees" if "disagrees" in found else "open"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is computed: settings that the claim reads, and the time that they may take."""

    budget_s: int
    """Seconds on two quiet cores."""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a claim is measured with."""

    scale: Scale
    work: Path
    """A folder of its own for runs and weights: what a stopped claim continues from."""
    shared: Path
    """A folder for what several claims need, such as text that is prepared."""
    log: Callable[[str], None]
    seed: int = 0

    def __getitem__(self, name: str) -> Any:
        """A setting of the scale."""
        return self.scale.settings[name]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of the family, and how it is reproduced here."""

    name: str
    title: str
    published: str
    """What is claimed, with its figure."""
    source: str
    differs: str
    """What differs here from what the claim is about: the honest statement of scale."""
    quick: Scale
    full: Scale
    measure: Callable[[Context], Result]
    draw: Callable[[dict[str, Any], Path], None] | None = None
    """Draws a picture of `Result.data`."""
    by_hand: str = ""
    """A longer command that gives the same at a larger scale, where there is one."""

    def scale(self, quick: bool) -> Scale:
        """The scale of a mode."""
        return self.quick if quick else self.full
