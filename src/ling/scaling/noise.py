"""How far a result would be off if the same run was repeated with another seed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ..errors import UsageError
from .results import Row

NEEDS_SCIPY = "fitting needs scipy: pip install 'ling[scaling]'"
Floats = NDArray[np.float64]
REPLICAS = 400
"""Times that a fit is repeated with other noise."""
DRAWS = 200_000
"""Of noise where none of these fits is repeated: the share of draws beyond an end of an interval is
then right to 0.07 of its 2.5%."""
NO_PAIR = "no run has usable losses of two seeds"
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
        """What one error is smaller than, in either direction, with probability `COVERAGE`.

        Raises `UsageError` without scipy.
        """
        try:
            from scipy.special import stdtrit
        except ImportError:
            raise UsageError(NEEDS_SCIPY) from None
        return self.sigma * float(stdtrit(self.dof, (1 + COVERAGE) / 2))

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
    """The estimate by which an error may be larger: one from few differences may be far too small.

    Raises `UsageError` without scipy.
    """
    return max(filter(None, (a, b)), key=Noise.bound, default=None)


def interval(values: Floats) -> tuple[float, float]:
    """The middle `COVERAGE` of values."""
    tail = 50 * (1 - COVERAGE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
