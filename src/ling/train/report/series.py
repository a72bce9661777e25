"""Curves of a run: kept whole while its log is read, thinned for a page."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np


class Series:
    """One number of the log over the steps that have it; a band of values at each, if wanted."""

    def __init__(self) -> None:
        self.steps, self.values = array("q"), array("d")
        self.low, self.high = array("d"), array("d")

    def add(self, step: int, value: float, low: float | None = None, high: float | None = None):
        """Append a value; what came for this step or later is replaced: the run went back."""
        while self.steps and self.steps[-1] >= step:
            for column in (self.steps, self.values, self.low, self.high):
                if column:
                    column.pop()
        self.steps.append(step)
        self.values.append(value)
        if low is not None and high is not None:
            self.low.append(low)
            self.high.append(high)

    def thinned(self, points: int) -> dict[str, list[Any]]:
        """`x`, `y` and, where values are drawn together or have a band, `lo` and `hi`.

        At most `points`: means over as many runs of steps, with the least and the largest value,
        so that no spike is lost. `x` is the last step of each. Not finite is None.
        """
        steps, values = np.array(self.steps), np.array(self.values)
        low, high = (np.array(c) if len(c) == len(steps) else values for c in (self.low, self.high))
        if len(steps) <= points:
            thin = {"x": steps.tolist(), "y": _numbers(values)}
            return thin | ({} if low is values else {"lo": _numbers(low), "hi": _numbers(high)})
        edges = np.linspace(0, len(steps), points + 1).astype(int)
        starts = edges[:-1]
        finite = np.isfinite(values)
        counts = np.add.reduceat(finite.astype(float), starts)
        sums = np.add.reduceat(np.where(finite, values, 0), starts)
        means = np.divide(sums, counts, out=np.full(points, np.nan), where=counts > 0)
        return {
            "x": steps[edges[1:] - 1].tolist(),
            "y": _numbers(means),
            "lo": _numbers(np.fmin.reduceat(np.where(np.isfinite(low), low, np.nan), starts)),
            "hi": _numbers(np.fmax.reduceat(np.where(np.isfinite(high), high, np.nan), starts)),
        }


def _numbers(values: np.ndarray) -> list[float | None]:
    """Seven digits each, which a page cannot show in full."""
    return [float(f"{v:.7g}") if np.isfinite(v) else None for v in values.tolist()]
