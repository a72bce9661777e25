"""The compute-optimal frontier of a family: the best size of each budget."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .results import Row


class FrontierPoint(NamedTuple):
    """The size with the lowest loss at a budget, the mean of its seeds."""

    family: str
    target_flops: float
    size: str
    runs: list[str]
    flops: float
    flops_with_head: float
    flops_per_token: float
    tokens: float
    loss: float
    activation_ratio: float
    granularity: float | None
    is_edge: bool
    """The best is the smallest or largest size of its budget: a better one may be beyond."""
    held_out: bool

    @property
    def name(self) -> str:
        """Of its run, and how many seeds its loss is the mean of."""
        count = len(self.runs)
        return self.runs[0] if count == 1 else f"{self.runs[0]} (mean of {count} seeds)"

    def cost(self, with_head: bool) -> float:
        """FLOPs of its run."""
        return self.flops_with_head if with_head else self.flops


def frontier(rows: Sequence[Row], with_head: bool = False) -> list[FrontierPoint]:
    """A point for each family and budget, by budget.

    Runs of a budget cost the same without the head, up to whole steps, and more or less with it.
    They are compared at equal compute: a loss is moved along the slope that losses have over
    budgets.
    """
    sizes = {budget: _sizes(same) for budget, same in _budgets(rows).items()}
    slope = _slope(sizes)
    points = [_best(of, with_head, slope) for of in sizes.values()]
    return sorted(points, key=lambda p: p.target_flops)


def fitted_frontier(rows: Sequence[Row], with_head: bool = False) -> list[FrontierPoint]:
    """The frontier of what is not held out, and that of budgets of which everything is."""
    kept = [row for row in rows if not row.held_out]
    budgets = _budgets(kept)
    rest = [row for row in rows if (row.family, row.target_flops) not in budgets]
    found = frontier(kept, with_head) + frontier(rest, with_head)
    return sorted(found, key=lambda p: p.target_flops)


def _budgets(rows: Iterable[Row]) -> dict[tuple[str, float], list[Row]]:
    found: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for row in rows:
        found[row.family, row.target_flops].append(row)
    return found


class _Size(NamedTuple):
    """Its runs, a seed each, and their mean loss."""

    rows: list[Row]
    loss: float


def _sizes(rows: Iterable[Row]) -> list[_Size]:
    """Of one family and budget, the smallest first."""
    sizes: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.flops_per_token):
        sizes[row.size].append(row)
    return [_Size(of, float(np.mean([r.final_loss for r in of]))) for of in sizes.values()]


def _slope(budgets: Mapping[tuple[str, float], Sequence[_Size]]) -> float:
    """Of log loss over log compute, between the lowest losses of budgets; 0 where there is one."""
    lowest: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for (family, flops), sizes in budgets.items():
        lowest[family].append((math.log(flops), math.log(min(of.loss for of in sizes))))
    centered = [np.array(pairs) - np.mean(pairs, axis=0) for pairs in lowest.values()]
    x, y = np.concatenate(centered).T if centered else (np.zeros(1), np.zeros(1))
    return min(0.0, float(x @ y / (x @ x))) if x.any() else 0.0


def _best(sizes: list[_Size], with_head: bool, slope: float) -> FrontierPoint:
    """Of one family and budget."""
    scores = [math.log(of.loss) - slope * math.log(of.rows[0].cost(with_head)) for of in sizes]
    at = int(np.argmin(scores))
    best, loss = sizes[at]
    return FrontierPoint(
        family=best[0].family,
        target_flops=best[0].target_flops,
        size=best[0].size,
        runs=[row.run for row in best],
        flops=float(np.mean([row.flops for row in best])),
        flops_with_head=float(np.mean([row.flops_with_head for row in best])),
        flops_per_token=best[0].flops_per_token,
        tokens=float(np.mean([row.tokens for row in best])),
        loss=loss,
        activation_ratio=best[0].activation_ratio,
        granularity=best[0].granularity,
        is_edge=at in (0, len(sizes) - 1),
        held_out=best[0].held_out,
    )
