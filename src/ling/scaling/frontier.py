"""The compute-optimal frontier of a family: the best size of each budget."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
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

    def cost(self, with_head: bool) -> float:
        """FLOPs of its run."""
        return self.flops_with_head if with_head else self.flops


def frontier(rows: Iterable[Row]) -> list[FrontierPoint]:
    """A point for each family and budget, by budget.

    Sizes are compared at equal compute without the head; with it the same runs cost more.
    """
    budgets: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for row in rows:
        budgets[row.family, row.target_flops].append(row)
    points = [_best(same) for same in budgets.values()]
    return sorted(points, key=lambda p: p.target_flops)


def fitted_frontier(rows: list[Row]) -> list[FrontierPoint]:
    """The frontier of what is not held out, and that of budgets of which everything is."""
    kept = [row for row in rows if not row.held_out]
    budgets = {(row.family, row.target_flops) for row in kept}
    rest = [row for row in rows if (row.family, row.target_flops) not in budgets]
    return sorted(frontier(kept) + frontier(rest), key=lambda p: p.target_flops)


def _best(rows: list[Row]) -> FrontierPoint:
    """Of the runs of one family and budget."""
    sizes: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.flops_per_token):
        sizes[row.size].append(row)
    losses = {size: float(np.mean([r.final_loss for r in same])) for size, same in sizes.items()}
    name = min(losses, key=lambda size: losses[size])
    best = sizes[name]
    return FrontierPoint(
        family=best[0].family,
        target_flops=best[0].target_flops,
        size=name,
        runs=[row.run for row in best],
        flops=float(np.mean([row.flops for row in best])),
        flops_with_head=float(np.mean([row.flops_with_head for row in best])),
        flops_per_token=best[0].flops_per_token,
        tokens=float(np.mean([row.tokens for row in best])),
        loss=losses[name],
        activation_ratio=best[0].activation_ratio,
        granularity=best[0].granularity,
        is_edge=name in (next(iter(sizes)), [*sizes][-1]),
        held_out=best[0].held_out,
    )
