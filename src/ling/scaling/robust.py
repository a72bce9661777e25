"""Least squares with Huber's loss, from several starts, by scipy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..errors import UsageError
from .noise import NEEDS_SCIPY, Floats

HUBER = 1e-3
"""Where the loss of a residual of the logarithm becomes linear (as in Chinchilla's fit)."""


_STEPS = 300
"""At most; along a valley of equal losses the very end is not looked for."""
_FREE: tuple[Sequence[float] | float, Sequence[float] | float] = (-math.inf, math.inf)


def robust_fit(
    residuals: Callable[[Floats], Floats],
    jacobian: Callable[[Floats], Floats],
    starts: Iterable[Sequence[float]],
    bounds: tuple[Sequence[float] | float, Sequence[float] | float] = _FREE,
) -> Floats:
    """The parameters with the least loss that any of the starts leads to.

    `jacobian` has a row for each residual. Raises `UsageError` without scipy.
    """
    solve = _solver()
    options = {"bounds": bounds, "loss": "huber", "f_scale": HUBER, "max_nfev": _STEPS}
    found = [solve(residuals, start, jacobian, **options) for start in starts]
    best: Floats = min(found, key=lambda result: result.cost).x
    return best


def _solver() -> Any:
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise UsageError(NEEDS_SCIPY) from None
    return least_squares
