"""The batch-size ramp: how many rows a step has, a pure function of its number.

The numbers are Megatron-LM's `--rampup-batch-size START INCREMENT SAMPLES`: the batch grows by
INCREMENT rows each time that an equal share of the first SAMPLES rows has been trained on. From
step numbers alone, a run resumes exactly, and its data may start again without the ramp.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from ..errors import UsageError

_KEY = "train.rampup_batch_size"
_MAX_INCREMENTS = 10_000


class Phase(NamedTuple):
    """Steps of one batch size: how many steps and rows are done before it, and rows a step."""

    steps: int
    rows: int
    batch: int


def check_ramp(ramp: Sequence[int], final: int) -> None:
    """Raise `UsageError` unless `ramp` leads to `final` rows in whole increments."""
    if len(ramp) != 3 or any(isinstance(n, bool) or not isinstance(n, int) for n in ramp):
        raise UsageError(
            f"`{_KEY}` is {list(ramp)}, expected three whole numbers: first batch, increment, rows"
        )
    start, increment, rows = ramp
    if min(ramp) < 1:
        raise UsageError(f"`{_KEY}` is {list(ramp)}, expected numbers of at least 1")
    if start >= final or (final - start) % increment:
        raise UsageError(
            f"`{_KEY}`: {start} rows do not reach `train.global_batch_size` = {final} in "
            f"increments of {increment}; expected a start below it, and increments that meet it"
        )
    limit = min(rows, _MAX_INCREMENTS)
    if (final - start) // increment > limit:
        raise UsageError(
            f"`{_KEY}`: {(final - start) // increment} increments up to {final} rows, the limit "
            f"is {limit} here"
        )


@lru_cache
def phases(ramp: tuple[int, ...] | None, final: int) -> tuple[Phase, ...]:
    """The batch sizes of a run in their order; the last one has no end."""
    if ramp is None:
        return (Phase(0, 0, final),)
    start, increment, samples = ramp
    increments = (final - start) // increment
    found, steps, rows = [], 0, 0
    while True:
        reached = min(rows * increments // samples, increments)
        batch = start + reached * increment
        found.append(Phase(steps, rows, batch))
        if reached == increments:
            return tuple(found)
        # The batch grows before the first step that has this many rows behind it.
        border = -(-(reached + 1) * samples // increments)
        count = -(-(border - rows) // batch)
        steps, rows = steps + count, rows + count * batch


def batch_size(of: Sequence[Phase], step: int) -> int:
    """Rows of step `step`, counted from 1."""
    return of[_phase(of, step - 1)].batch


def rows_after(of: Sequence[Phase], steps: int) -> int:
    """Rows of the first `steps` steps together."""
    phase = of[_phase(of, steps)]
    return phase.rows + (steps - phase.steps) * phase.batch


def _phase(of: Sequence[Phase], steps_done: int) -> int:
    return bisect.bisect_right(of, steps_done, key=lambda phase: phase.steps) - 1
