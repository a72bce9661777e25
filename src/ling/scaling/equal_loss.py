"""Measured leverage: compute of a dense model over that of a mixture with the same loss.

Between the points of a frontier loss is interpolated, linear in both logarithms; beyond its ends
nothing is read, since that would be a guess about runs that were not made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import laws
from .frontier import FrontierPoint
from .noise import COVERAGE, DRAWS, Floats, Noise, interval
from .predict import number
from .results import DENSE


class EqualLoss(NamedTuple):
    """Leverage at one loss: that of a point of one of the two frontiers."""

    family: str
    run: str
    """The run that has this loss, or the first of several seeds whose mean has."""
    loss: float
    dense_flops: float
    flops: float
    """Compute of the mixture."""
    leverage: float
    leverage_interval: tuple[float, float] | None
    """From the noise of seeds; None where there were none, and where that noise may be so large
    that the frontier, which was read at this loss, does not fall there."""
    law: float | None
    """The published law, at the mixture's compute without the head: the law is about that."""


class Unread(NamedTuple):
    """A point at whose loss leverage cannot be read, and why."""

    family: str
    run: str
    loss: float
    reason: str


class Leverage(NamedTuple):
    """Of one count of compute."""

    read: list[EqualLoss]
    unread: list[Unread]
    reasons: list[str]
    """Why whole families have none."""


def measured_leverage(
    points: Sequence[FrontierPoint], with_head: bool, seeds: Noise | None, rng: np.random.Generator
) -> Leverage:
    """Leverage of each family at the loss of every point of its frontier and of the dense one."""
    found = Leverage([], [], [])
    dense = _Curve([p for p in points if p.family == DENSE], with_head)
    families = list(dict.fromkeys(p.family for p in points if p.family != DENSE))
    if not families or not dense.points:
        missing = "mixture of experts" if dense.points else f"`{DENSE}` family"
        found.reasons.append(f"there is no {missing} to compare with")
        return found
    for family in families:
        curve = _Curve([p for p in points if p.family == family], with_head)
        if reason := dense.fault() or curve.fault():
            found.reasons.append(f"`{family}`: {reason}")
        else:
            _compare(dense, curve, seeds, rng, found)
    return found


class _Curve:
    """A frontier in logarithms, by compute."""

    def __init__(self, points: list[FrontierPoint], with_head: bool) -> None:
        self.with_head = with_head
        self.points = sorted(points, key=lambda p: p.cost(with_head))
        self.x = np.log([p.cost(with_head) for p in self.points])
        self.losses = np.array([p.loss for p in self.points])
        self.logs = np.log(self.losses)

    def fault(self) -> str | None:
        """Why no loss can be looked up in it."""
        name = f"the frontier of `{self.points[0].family}`"
        if len(self.points) < 2:
            return f"{name} has one budget"
        rises = np.flatnonzero(np.diff(self.losses) >= 0)
        if len(rises):
            pair = self.points[rises[0]], self.points[rises[0] + 1]
            a, b = (number(p.target_flops) for p in pair)
            return f"{name} does not fall from {a} to {b} FLOPs"
        return None

    def reaches(self, loss: float) -> bool:
        """Whether a loss was measured or is between two that were."""
        return bool(self.losses[-1] <= loss <= self.losses[0])

    def segment(self, loss: float) -> int:
        """Number of the first of the two points that a loss is between."""
        above = int(np.count_nonzero(self.losses > loss))
        return min(max(above - 1, 0), len(self.losses) - 2)

    def log_flops(self, n: int, log_loss: Any, logs: Floats) -> Any:
        """Logarithm of the compute at a loss on the line through points n and n + 1 of `logs`.

        Rows of noisy losses give a value each; there the line may be continued past the points.
        """
        share = (log_loss - logs[..., n]) / (logs[..., n + 1] - logs[..., n])
        return self.x[n] + share * (self.x[n + 1] - self.x[n])

    def noisy(self, errors: Floats) -> Floats:
        """Rows of logarithms of losses with errors; a mean of several seeds has smaller ones."""
        made: Floats = self.logs + errors / (
            self.losses * np.sqrt([len(p.runs) for p in self.points])
        )
        return made


def _compare(
    dense: _Curve, curve: _Curve, seeds: Noise | None, rng: np.random.Generator, found: Leverage
) -> None:
    for own, other in ((curve, dense), (dense, curve)):
        for n, point in enumerate(own.points):
            family, run = curve.points[0].family, point.name
            if other.reaches(point.loss):
                at = other.log_flops(other.segment(point.loss), own.logs[n], other.logs)
                ends = (own.x[n], at) if own is dense else (at, own.x[n])
                spread = _spread(own, n, other, seeds, rng)
                found.read.append(_equal_loss(curve, point, ends, spread, own is dense))
            else:
                found.unread.append(Unread(family, run, point.loss, _outside(other)))
    found.read.sort(key=lambda r: (r.family, r.flops))


def _outside(other: _Curve) -> str:
    low, high = other.losses[-1], other.losses[0]
    return (
        f"outside what `{other.points[0].family}` reached ({low:.4f} to {high:.4f}); "
        "nothing is extrapolated"
    )


def _equal_loss(
    curve: _Curve,
    point: FrontierPoint,
    log_flops: tuple[float, float],
    spread: Floats | None,
    is_dense: bool,
) -> EqualLoss:
    """`log_flops` are those of the dense model and the mixture, `spread` errors of the logarithm of
    the one that was interpolated, None where they are not known."""
    dense, flops = (math.exp(x) for x in log_flops)
    sign = -1 if is_dense else 1
    of = min(curve.points, key=lambda p: abs(math.log(p.cost(curve.with_head) / flops)))
    without_head = flops * of.flops / of.cost(curve.with_head)
    return EqualLoss(
        curve.points[0].family,
        point.name,
        point.loss,
        dense,
        flops,
        dense / flops,
        None if spread is None else _times(dense / flops, interval(sign * spread)),
        of.granularity and laws.leverage(of.activation_ratio, of.granularity, without_head),
    )


def _spread(
    own: _Curve, n: int, other: _Curve, seeds: Noise | None, rng: np.random.Generator
) -> Floats | None:
    """Errors of the interpolated logarithm if every point had other seeds; None where the other
    frontier then often does not fall, so that nothing could be read from it."""
    if seeds is None:
        return None
    # The scale of a row is one for both frontiers: it is in doubt once.
    errors = seeds.draw(rng, len(own.points) + len(other.points), DRAWS)
    mine, others = np.split(errors, [len(own.points)], axis=1)
    at, drawn = other.segment(own.losses[n]), other.noisy(others)
    if np.mean(drawn[:, at + 1] < drawn[:, at]) < (1 + COVERAGE) / 2:
        return None
    exact = other.log_flops(at, own.logs[n], other.logs)
    made: Floats = other.log_flops(at, own.noisy(mine)[:, n], drawn) - exact
    return made


def _times(leverage: float, log_errors: tuple[float, float]) -> tuple[float, float]:
    low, high = log_errors
    return leverage * math.exp(low), leverage * math.exp(high)
