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
COVERAGE = 0.95
"""Of intervals."""


class Noise(NamedTuple):
    """Standard deviation, and how many differences it was estimated from."""

    sigma: float
    dof: int

    def draw(self, rng: Generator, count: int) -> Floats:
        """`REPLICAS` rows of `count` errors. An estimate from few differences may be far too small:
        each row has a scale of its own, so that together they follow Student's distribution."""
        scale = self.sigma * np.sqrt(self.dof / rng.chisquare(self.dof, (REPLICAS, 1)))
        return scale * rng.standard_normal((REPLICAS, count))


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
