"""Counts of values by size: what a Prometheus histogram shows, cheap enough for every token."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds for what takes milliseconds to a minute."""
LONG_SECONDS = (*SECONDS[4:], 120.0, 300.0, 600.0, 1800.0)
"""Bounds for what takes up to half an hour."""
MICROSECONDS = (*(n * 1e-6 for n in (10, 25, 50, 100, 250, 500)), *SECONDS[:10])
"""Bounds for work within a step."""
TOKENS = tuple(float(1 << n) for n in range(18))
"""Bounds for numbers of tokens."""


class Histogram:
    """How many values were at most each of the `bounds`, and their sum.

    One thread adds values; another may read at any time, and then sees nearly the latest.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """Values so far."""
        return sum(self.counts)

    def cumulative(self) -> list[int]:
        """Values at most as large as each bound; the last entry counts all."""
        return list(accumulate(self.counts))
