"""How far a result would be off if the same run was repeated with another seed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .results import Row

Floats = NDArray[np.float64]
REPLICAS = 400
"""Times that a fit is repeated with other noise."""
DRAWS = 20_000
"""Of noise where nothing is fitted again: ends of an interval are then within about 2% of its
width."""
COVERAGE = 0.95
"""Of intervals."""


class Noise(NamedTuple):
    """Standard deviation, and how many differences it was estimated from."""

    sigma: float
    dof: int

    def draw(self, rng: Generator, count: int, rows: int | None = None) -> Floats:
        """`rows` rows of `count` errors, `REPLICAS` by default. An estimate from few differences
        may be far too small: each row has a scale of its own, so that together they follow
        Student's distribution."""
        rows = rows or REPLICAS
        scale = self.sigma * np.sqrt(self.dof / rng.chisquare(self.dof, (rows, 1)))
        return scale * rng.standard_normal((rows, count))

    def bound(self) -> float:
        """What one error is smaller than, in either direction, with probability `COVERAGE`."""
        from scipy.stats import t

        return self.sigma * float(t.ppf(0.5 + COVERAGE / 2, self.dof))

    def around(self, rng: Generator, expected: Floats) -> tuple[float, float]:
        """The interval of one value that has this noise and one of the `expected` values."""
        return interval(np.resize(expected, DRAWS) + self.draw(rng, 1, DRAWS)[:, 0])


def seed_noise(rows: Iterable[Row]) -> Noise | None:
    """Of held-out losses (nats per token), from runs that differ in their seed alone; None where
    there are none."""
    groups: dict[tuple[Hashable, ...], dict[int, float]] = defaultdict(dict)
    for row in rows:
        run = row.family, row.size, row.target_flops, row.lr_factor
        groups[run][row.seed] = row.final_loss
    repeated = [list(losses.values()) for losses in groups.values() if len(losses) > 1]
    dof = sum(len(losses) - 1 for losses in repeated)
    if not dof:
        return None
    squares = sum(float(np.var(losses)) * len(losses) for losses in repeated)
    return Noise(math.sqrt(squares / dof), dof)


def larger(a: Noise | None, b: Noise | None) -> Noise | None:
    """The larger of two estimates."""
    return max(filter(None, (a, b)), key=lambda n: n.sigma, default=None)


def interval(values: Floats) -> tuple[float, float]:
    """The middle `COVERAGE` of values."""
    tail = 50 * (1 - COVERAGE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
