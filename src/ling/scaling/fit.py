"""Everything that `ling scaling fit` finds in the results of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError
from . import laws
from .equal_loss import Leverage, measured_leverage
from .frontier import FrontierPoint, fitted_frontier, frontier
from .learning_rate import BestRate, best_rates
from .noise import COVERAGE, REPLICAS, Noise, seed_noise
from .power_law import FittedPowerLaw, Points, fit_power_laws
from .predict import number
from .results import Row
from .select import HoldOut, LeftOut, Selection, select
from .surface import Surface, fit_surface

COUNTS = {"without_head": False, "with_head": True}
"""Both counts of compute."""


class Prediction(NamedTuple):
    """A held-out loss beside what a fit expected."""

    by: str
    """`power law` (of the family's frontier), `surface`, or `power law of n smaller budgets`: the
    largest budget of a family of which none is held out as a whole, so that the others see it."""
    family: str
    run: str
    loss: float
    predicted: float
    interval: tuple[float, float] | None

    @property
    def is_inside(self) -> bool | None:
        """Whether the loss is in the interval; None without one."""
        return self.interval and self.interval[0] <= self.loss <= self.interval[1]


class CountFit(NamedTuple):
    """What depends on how compute is counted."""

    fitted: list[FrontierPoint]
    """The frontier without held-out runs, and of budgets of which all are held out."""
    frontier: list[FrontierPoint]
    """Of all runs: what leverage is read from."""
    power_laws: dict[str, FittedPowerLaw | str]
    """By family; a text says why there is none."""
    leverage: Leverage


class Fit(NamedTuple):
    """All of it."""

    selection: Selection
    noise: Noise | None
    """Of a loss, from second seeds, in nats."""
    counts: dict[str, CountFit]
    surface: Surface | str
    predictions: list[Prediction]
    rates: list[BestRate]
    notes: list[str]

    @property
    def frontier(self) -> list[FrontierPoint]:
        """That of the laws' count."""
        return self.counts["without_head"].frontier

    @property
    def missing(self) -> list[str]:
        """What could not be fitted, predicted or read by the laws' count, and why."""
        count = self.counts["without_head"]
        lines = [
            f"no power law of `{family}`: {law}"
            for family, law in count.power_laws.items()
            if isinstance(law, str)
        ]
        if isinstance(self.surface, str):
            lines.append(f"no surface: {self.surface}")
        lines += [f"no leverage: {reason}" for reason in count.leverage.reasons]
        lines += [f"no held-out run of `{family}` is predicted" for family in self.unpredicted]
        return lines

    @property
    def unpredicted(self) -> list[str]:
        """Families of which runs are held out, and none is predicted."""
        predicted = {p.family for p in self.predictions}
        held_out = dict.fromkeys(row.family for row in self.selection.rows if row.held_out)
        return [family for family in held_out if family not in predicted]


def fit(rows: Sequence[Row], hold_out: HoldOut = "marked", seed: int = 0) -> Fit:
    """Fit, predict what is held out, read leverage; `seed` decides the resampling.

    Raises `UsageError` where no run can be used, or without scipy.
    """
    rng = np.random.default_rng(seed)
    selection = select(rows, hold_out)
    grid = selection.at_grid_lr()
    if not grid:
        raise UsageError("no run to fit has `lr_factor` 1, the learning rate of the grid itself")
    noise = seed_noise(selection.rows)
    counts = {name: _count(grid, with_head, noise, rng) for name, with_head in COUNTS.items()}
    surface = fit_surface([row for row in grid if not row.held_out], noise, rng)
    main = counts["without_head"]
    predictions = [
        *_frontier_predictions(main.fitted, main.power_laws, rng),
        *_largest_budgets(main.fitted, main.frontier, noise, rng),
        *_surface_predictions(grid, surface, rng),
    ]
    rates = best_rates(selection.rows, noise, rng)
    notes = selection.notes + _hidden_best(main.fitted, main.frontier) + _no_optimum(main.fitted)
    return Fit(selection, noise, counts, surface, predictions, rates, notes)


def _count(
    rows: list[Row], with_head: bool, noise: Noise | None, rng: np.random.Generator
) -> CountFit:
    fitted, whole = fitted_frontier(rows, with_head), frontier(rows, with_head)
    fits = _power_laws(fitted, with_head, noise, rng)
    return CountFit(fitted, whole, fits, measured_leverage(whole, with_head, noise, rng))


def _power_laws(
    points: list[FrontierPoint], with_head: bool, noise: Noise | None, rng: np.random.Generator
) -> dict[str, FittedPowerLaw | str]:
    found = {}
    for family in dict.fromkeys(p.family for p in points):
        kept = [p for p in points if p.family == family and not p.held_out]
        found[family] = Points([p.cost(with_head) for p in kept], [p.loss for p in kept])
    return fit_power_laws(found, noise, rng)


def _frontier_predictions(
    points: list[FrontierPoint],
    fits: dict[str, FittedPowerLaw | str],
    rng: np.random.Generator,
) -> list[Prediction]:
    found = []
    for p in points:
        law = fits[p.family]
        if p.held_out and not p.is_edge and not isinstance(law, str):
            expected, around = law.law.at(p.flops), law.predict(p.flops, rng)
            found.append(Prediction("power law", p.family, p.name, p.loss, expected, around))
    return found


def _largest_budgets(
    fitted: list[FrontierPoint],
    whole: list[FrontierPoint],
    noise: Noise | None,
    rng: np.random.Generator,
) -> list[Prediction]:
    """The largest budget of each family of which none is held out as a whole, from the others."""
    held_out = {p.family for p in fitted if p.held_out}
    # They are by budget: the last is the largest.
    largest = {p.family: p for p in whole if p.family not in held_out}
    fitted = [p for p in fitted if p.family in largest]
    smaller = [p for p in fitted if p.target_flops < largest[p.family].target_flops]
    fits = _power_laws(smaller, False, noise, rng)
    found = _frontier_predictions(
        [largest[family]._replace(held_out=True) for family in fits], fits, rng
    )
    budgets = {family: law.points for family, law in fits.items() if not isinstance(law, str)}
    return [p._replace(by=f"{p.by} of {budgets[p.family]} smaller budgets") for p in found]


def _surface_predictions(
    rows: list[Row], surface: Surface | str, rng: np.random.Generator
) -> list[Prediction]:
    if isinstance(surface, str):
        return []
    return [
        Prediction(
            "surface",
            row.family,
            row.run,
            row.final_loss,
            surface.at(row),
            surface.predict(row, rng),
        )
        for row in rows
        if row.held_out and row.family in surface.families
    ]


def _hidden_best(fitted: list[FrontierPoint], whole: list[FrontierPoint]) -> list[str]:
    """Budgets whose best run is held out, so that the fitted frontier is above the measured one."""
    used = {(p.family, p.target_flops): p for p in fitted}
    hidden = [
        f"`{p.family}` at {number(p.target_flops)}"
        for p in whole
        if used[p.family, p.target_flops].size != p.size
    ]
    if not hidden:
        return []
    return ["the best run is held out, the next is fitted, of " + ", ".join(hidden)]


def _no_optimum(fitted: list[FrontierPoint]) -> list[str]:
    """Budgets that are held out as a whole, where a law of best sizes is about a size beyond."""
    ends = [f"`{p.family}` at {number(p.target_flops)}" for p in fitted if p.held_out and p.is_edge]
    if not ends:
        return []
    return ["the best size is an end of the sizes, so no power law predicts " + ", ".join(ends)]


# ---- as data -----------------------------------------------------------------------------------


def as_dict(found: Fit) -> dict[str, Any]:
    """The whole of it for a file of JSON; what could not be fitted is an object with a `reason`."""
    return {
        "runs": len(found.selection.rows),
        "families": _families(found.selection),
        "left_out": [_left_out(one) for one in found.selection.left_out],
        "notes": found.notes,
        "noise": found.noise._asdict() if found.noise else None,
        "counts": {name: _count_as_dict(one) for name, one in found.counts.items()},
        "surface": _or_reason(found.surface),
        "held_out": [p._asdict() | {"is_inside": p.is_inside} for p in found.predictions],
        "learning_rates": [rate._asdict() for rate in found.rates],
        "claim": laws.CLAIM,
        "coverage_of_intervals": COVERAGE,
        "replicas": REPLICAS,
    }


def _families(selection: Selection) -> dict[str, dict[str, Any]]:
    firsts = {row.family: row for row in reversed(selection.rows)}
    return {
        name: {
            "activation_ratio": firsts[name].activation_ratio,
            "granularity": firsts[name].granularity,
            "runs": sum(row.family == name for row in selection.rows),
        }
        for name in selection.families
    }


def _left_out(one: LeftOut) -> dict[str, str]:
    return one._asdict()


def _count_as_dict(one: CountFit) -> dict[str, Any]:
    return {
        "frontier": [p._asdict() for p in one.frontier],
        "power_laws": {family: _or_reason(law) for family, law in one.power_laws.items()},
        "leverage": [read._asdict() for read in one.leverage.read],
        "leverage_unread": [unread._asdict() for unread in one.leverage.unread],
        "leverage_reasons": one.leverage.reasons,
    }


def _or_reason(found: FittedPowerLaw | Surface | str) -> dict[str, Any]:
    return {"reason": found} if isinstance(found, str) else found.as_dict()
