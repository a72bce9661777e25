"""The checkpoint of the lowest held-out loss, and the end of a run that gets no better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .after_held_out import Verdict
from .heldout import HeldOut
from .log import each_row

if TYPE_CHECKING:
    from .setup import Run


class KeepBest:
    """Keeps the checkpoint of the lowest held-out loss; with `early_stop` ends the run after that
    many measurements in a row without a lower one."""

    def __init__(self, early_stop: int = 0) -> None:
        self._early_stop = early_stop
        self._measured: list[tuple[int, float]] | None = None

    def __call__(self, run: Run, held_out: HeldOut) -> Verdict:
        step = run.state.step
        if self._measured is None:  # a run that continues knows what was measured before
            self._measured = run.state.world.as_first(lambda: measured(run.out))
        # Steps behind a checkpoint that the run went back to are done again.
        before = [(s, loss) for s, loss in self._measured if s < step]
        self._measured = [*before, (step, held_out.loss)]
        since = since_best([loss for _, loss in self._measured])
        stop = 0 < self._early_stop <= since
        best_step, best = self._measured[-1 - since]
        lowest = f"; the lowest is {best:.4f} of step {best_step}" if since else ", the lowest"
        run.log(f"step {step}: held-out loss {held_out.loss:.4f}{lowest}")
        if stop:
            run.log(
                f"step {step}: {since} measurements without a lower held-out loss than {best:.4f} "
                f"of step {best_step} (`train.early_stop`): this is the end"
            )
        return Verdict(keep=since == 0, stop=stop)


def measured(run: Path) -> list[tuple[int, float]]:
    """Step and held-out loss of each measurement that the log of a run has."""
    rows = each_row(run / "metrics.jsonl")
    return [(row["step"], loss) for row in rows if (loss := row.get("valid_loss")) is not None]


def since_best(losses: Sequence[float]) -> int:
    """Measurements behind the first of the lowest loss; NaN is never lower."""
    best = 0
    for n, loss in enumerate(losses):
        if loss < losses[best] or losses[best] != losses[best]:
            best = n
    return len(losses) - 1 - best
