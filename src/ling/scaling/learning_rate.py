"""The best learning rate of a size: the vertex of a parabola of loss over log2 of the rate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from .noise import DRAWS, Floats, Noise, interval
from .results import Row

_LEAST = 3
"""Rates of a parabola."""


class BestRate(NamedTuple):
    """Of one size and budget. Without a minimum inside what was tried only `reason` is set."""

    family: str
    size: str
    target_flops: float
    factors: list[float]
    """Rates that were tried, as multiples of the grid's."""
    losses: list[float]
    grid_lr: float
    lr: float | None
    factor: float | None
    """The best as a multiple of the grid's rate."""
    factor_interval: tuple[float, float] | None
    """An end of it that is an end of `factors` may be beyond."""
    gain: float | None
    """Nats that the best rate is below the grid's, on the parabola."""
    reason: str | None


def best_rates(
    rows: Iterable[Row], seeds: Noise | None, rng: np.random.Generator
) -> list[BestRate]:
    """A result for each size and budget that was run with several rates; two, which are left
    where a third diverged, are too few."""
    groups: dict[tuple[str, str, float], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.family, row.size, row.target_flops].append(row)
    several = (same for same in groups.values() if len({r.lr_factor for r in same}) > 1)
    return [_best(same, seeds, rng) for same in several]


def _best(rows: list[Row], seeds: Noise | None, rng: np.random.Generator) -> BestRate:
    by_factor = defaultdict(list)
    for row in rows:
        by_factor[row.lr_factor].append(row.final_loss)
    factors = sorted(by_factor)
    x = np.log2(factors)
    y = np.array([np.mean(by_factor[factor]) for factor in factors])
    first = rows[0]
    base = first.lr / first.lr_factor
    named = (first.family, first.size, first.target_flops, factors, y.tolist(), base)
    if len(factors) < _LEAST:
        few = f"{len(factors)} of {_LEAST} rates that a parabola needs"
        return BestRate(*named, None, None, None, None, few)
    fitted = np.polyfit(x, y, 2)
    best, reason = _vertex(fitted, x)
    if best is None:
        return BestRate(*named, None, None, None, None, reason)
    spread = None
    if seeds is not None:
        each = np.sqrt([len(by_factor[factor]) for factor in factors])
        low, high = interval(_lowest(x, y + seeds.draw(rng, len(y), DRAWS) / each))
        spread = 2**low, 2**high
    gain = float(np.polyval(fitted, 0.0) - np.polyval(fitted, best))
    return BestRate(*named, base * 2**best, 2**best, spread, gain, None)


def _vertex(fitted: Floats, x: Floats) -> tuple[float | None, str | None]:
    """Where the parabola is lowest, as log2 of the factor, or why that is not known."""
    curvature, slope, _ = fitted
    if curvature <= 0:
        return None, "the losses have no minimum between the rates that were tried"
    best = -slope / (2 * curvature)
    if not x[0] <= best <= x[-1]:
        end, word = (x[0], "lower") if best < x[0] else (x[-1], "higher")
        return None, f"the best is {word} than the rates that were tried (×{2**end:g} at the end)"
    return float(best), None


def _lowest(x: Floats, rows: Floats) -> Floats:
    """Where the parabola through each row is lowest among the rates that were tried."""
    curvature, slope, _ = np.polyfit(x, rows.T, 2)
    ends = np.where(rows[:, 0] < rows[:, -1], x[0], x[-1])
    vertex = -slope / (2 * np.where(curvature > 0, curvature, 1.0))
    return np.where(curvature > 0, np.clip(vertex, x[0], x[-1]), ends)
