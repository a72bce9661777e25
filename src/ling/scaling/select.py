"""Which rows of a sweep are fitted, which are predicted, and what has to be told about the rest."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import Literal, NamedTuple, get_args

from ..errors import UsageError
from .results import DENSE, Row

HoldOut = Literal["marked", "largest", "none"]
HOLD_OUT: tuple[HoldOut, ...] = get_args(HoldOut)


class LeftOut(NamedTuple):
    """A run that is not used, and why."""

    run: str
    reason: str


class Selection(NamedTuple):
    """Rows to use, held-out ones among them, by family from the most active to the least."""

    rows: list[Row]
    left_out: list[LeftOut]
    notes: list[str]

    @property
    def families(self) -> list[str]:
        """Their names, `dense` first."""
        return list(dict.fromkeys(row.family for row in self.rows))

    def at_grid_lr(self) -> list[Row]:
        """Without the runs that only vary the learning rate."""
        return [row for row in self.rows if row.lr_factor == 1]


def select(rows: Iterable[Row], hold_out: HoldOut = "marked") -> Selection:
    """Rows without doubles and failures; `UsageError` where none is left.

    `hold_out` keeps from the fits what the rows say (`marked`), the largest budget of each family
    (`largest`) or nothing (`none`).
    """
    notes: list[str] = []
    once = _once(list(rows), notes)
    left_out = [LeftOut(row.run, reason) for row in once if (reason := _fault(row))]
    used = [row for row in once if not _fault(row)]
    if not used:
        runs = ", ".join(f"{run} ({reason})" for run, reason in left_out)
        raise UsageError(f"no run to fit: {runs}")
    used = _held_out(used, hold_out, notes)
    used.sort(key=lambda r: (r.family != DENSE, -r.activation_ratio, r.family, r.target_flops))
    return Selection(used, left_out, notes + _differences(used))


def _fault(row: Row) -> str | None:
    if row.status != "done":
        return row.status
    return "its loss is not a number" if row.loss is None else None


def _once(rows: list[Row], notes: list[str]) -> list[Row]:
    """One row for each run: the last."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.run].append(row)
    for run, same in found.items():
        if len(same) > 1:
            how = "alike" if len(set(same)) == 1 else "with other results: the last is used"
            notes.append(f"run `{run}` is there {len(same)} times, {how}")
    return [same[-1] for same in found.values()]


def _held_out(rows: list[Row], hold_out: HoldOut, notes: list[str]) -> list[Row]:
    if hold_out == "marked":
        return rows
    if hold_out == "none":
        return [dataclasses.replace(row, held_out=False) for row in rows]
    budgets = defaultdict(set)
    for row in rows:
        budgets[row.family].add(row.target_flops)
    for family, found in budgets.items():
        if len(found) == 1:
            notes.append(f"family `{family}` has one budget: none of it is held out")
    return [
        dataclasses.replace(
            row,
            held_out=len(budgets[row.family]) > 1 and row.target_flops == max(budgets[row.family]),
        )
        for row in rows
    ]


_MUST_AGREE: dict[str, Callable[[Row], Hashable]] = {
    "commits": lambda row: row.commit or "unknown",
    "machines": lambda row: row.machine or "unknown",
    "sets of held-out text (their losses do not compare)": lambda row: row.valid_tokens,
}


def _differences(rows: list[Row]) -> list[str]:
    """What is not the same in all runs."""
    notes = []
    for what, of in _MUST_AGREE.items():
        counts = Counter(of(row) for row in rows)
        if len(counts) > 1:
            each = ", ".join(
                f"{value} ({count} run{'s' * (count > 1)})" for value, count in counts.most_common()
            )
            notes.append(f"runs are of {len(counts)} {what}: {each}")
    for family in dict.fromkeys(row.family for row in rows):
        shapes = {(r.activation_ratio, r.granularity) for r in rows if r.family == family}
        if len(shapes) > 1:
            notes.append(
                f"family `{family}` has {len(shapes)} pairs of activation ratio and granularity: "
                "the published law is taken at that of each run"
            )
    return notes
