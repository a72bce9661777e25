"""Loss as a power of compute, L = factor × C ^ -exponent, along a frontier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .noise import Floats, Noise, interval, larger
from .robust import robust_fit

_PARAMETERS = 2
_LEAST_SPARE = 2
"""Points beyond the parameters, over all families, that tell how far the form is off."""


class PowerLaw(NamedTuple):
    """`center` is a compute inside the data: there the law is exp(`log_loss`)."""

    log_loss: float
    exponent: float
    center: float

    def at(self, flops: float) -> float:
        """Loss at a compute."""
        return math.exp(self.log_loss - self.exponent * math.log(flops / self.center))

    @property
    def factor(self) -> float:
        """Loss at a compute of 1."""
        return self.at(1.0)


class FittedPowerLaw(NamedTuple):
    """A law, the same fitted to noisy copies of the points, and that noise (of log loss)."""

    law: PowerLaw
    replicas: list[PowerLaw]
    noise: Noise | None
    points: int

    def predict(self, flops: float, rng: np.random.Generator) -> tuple[float, float] | None:
        """The interval of the loss that a run is expected to have; None where noise is unknown."""
        if self.noise is None:
            return None
        low, high = self.noise.around(rng, np.log([law.at(flops) for law in self.replicas]))
        return math.exp(low), math.exp(high)

    def curve(self, flops: Sequence[float]) -> tuple[Floats, Floats] | None:
        """The interval of the law itself, low and high, at each compute."""
        if not self.replicas:
            return None
        each = [interval(np.array([law.at(c) for law in self.replicas])) for c in flops]
        low, high = np.array(each).T
        return low, high

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        exponents = np.array([law.exponent for law in self.replicas])
        return {
            "factor": self.law.factor,
            "exponent": self.law.exponent,
            "exponent_interval": interval(exponents) if self.replicas else None,
            "points": self.points,
            "noise_of_log_loss": self.noise._asdict() if self.noise else None,
        }


class Points(NamedTuple):
    """Computes and losses of a frontier."""

    flops: Sequence[float]
    losses: Sequence[float]

    def centered(self) -> tuple[Floats, Floats, float]:
        """Logarithms of compute over its center, of loss, and the center."""
        center = math.exp(float(np.mean(np.log(self.flops))))
        return np.log(np.array(self.flops) / center), np.log(self.losses), center


def fit_power_laws(
    points: Mapping[str, Points], seeds: Noise | None, rng: np.random.Generator
) -> dict[str, FittedPowerLaw | str]:
    """The law through each family's points, or why there is none.

    `seeds` is the noise of a loss in nats. Where the points of all families are further from their
    laws than that, their distance is the noise: then the form is not quite right, and knows less.
    """
    counts = {name: len(set(of.flops)) for name, of in points.items()}
    found: dict[str, FittedPowerLaw | str] = {
        name: f"{count} of {_PARAMETERS} budgets that a power law needs"
        for name, count in counts.items()
    }
    enough = {name: of for name, of in points.items() if counts[name] >= _PARAMETERS}
    laws = {name: _fit(*of.centered()) for name, of in enough.items()}
    misfit = _misfit([(of, laws[name]) for name, of in enough.items()])
    for name, of in enough.items():
        noise = larger(_of_log(seeds, of.losses), misfit)
        replicas = _replicas(of, noise, rng) if noise else []
        found[name] = FittedPowerLaw(laws[name], replicas, noise, len(of.flops))
    return found


def _fit(x: Floats, y: Floats, center: float) -> PowerLaw:
    slope, level = np.polyfit(x, y, 1)
    if len(x) > _PARAMETERS:  # otherwise the line goes through the points
        rows = np.stack([np.ones_like(x), x], axis=1)
        level, slope = robust_fit(lambda p: rows @ p - y, lambda p: rows, [(level, slope)])
    return PowerLaw(float(level), -float(slope), center)


def _replicas(points: Points, noise: Noise, rng: np.random.Generator) -> list[PowerLaw]:
    x, y, center = points.centered()
    return [_fit(x, y + row, center) for row in noise.draw(rng, len(y))]


def _of_log(noise: Noise | None, losses: Sequence[float]) -> Noise | None:
    return noise and Noise(noise.sigma / float(np.mean(losses)), noise.dof)


def _misfit(fitted: Sequence[tuple[Points, PowerLaw]]) -> Noise | None:
    """Distance of points from their laws, of log loss; None where too few are spare to tell."""
    squares, dof = 0.0, 0
    for points, law in fitted:
        x, y, _ = points.centered()
        residuals = y - (law.log_loss - law.exponent * x)
        squares += float(residuals @ residuals)
        dof += len(y) - _PARAMETERS
    return Noise(math.sqrt(squares / dof), dof) if dof >= _LEAST_SPARE else None
