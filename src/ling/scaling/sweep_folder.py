"""The folder of a sweep: its grid, which only grows, and the results so far.

`grid.yaml`, `data/` (token files of all runs), `runs/NAME` (ordinary run folders), `logs/NAME.log`,
`results.jsonl`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config.kinds import flat
from ..errors import UsageError
from ..files.atomic import make_folder, write_atomic
from ..text import as_json
from .grid import Grid
from .grid_file import grid_yaml, read_grid
from .planned import NOWHERE, Planned, planned_runs
from .results import Row, append_row, read_rows

GRID, RESULTS = "grid.yaml", "results.jsonl"
_BEGUN = (RESULTS, "data", "logs", "runs", "slurm")
"""What is there once text was made or a run was started or queued."""


def keep_grid(grid: Grid, out: Path) -> None:
    """Write the grid into the folder; `UsageError` names a key that makes a run of the grid before
    another one. Runs may be added, and before anything was begun all may change."""
    path = make_folder(out) / GRID
    with _locked(out):
        if path.exists() and any((out / name).exists() for name in _BEGUN):
            _require_same(read_grid(path), grid, out)
        write_atomic(path, grid_yaml(grid))


def results(out: Path) -> dict[str, Row]:
    """The rows so far, by run; never one that another process is writing."""
    if not (out / RESULTS).exists():
        return {}
    with _locked(out):
        return _rows(out)


def _rows(out: Path) -> dict[str, Row]:
    path = out / RESULTS
    # The first row of all may have failed to be written: such a file is empty.
    there = path.exists() and path.stat().st_size > 0
    return {row.run: row for row in read_rows(path)} if there else {}


def add_result(out: Path, row: Row) -> None:
    """Append the row of a run, unless it is there; several processes may do so at once."""
    with _locked(out):
        if row.run not in _rows(out):
            append_row(out / RESULTS, row)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    with (out / ".results.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _require_same(before: Grid, now: Grid, out: Path) -> None:
    runs = {run.name: run for run in planned_runs(now)}
    for run in planned_runs(before):
        if run.name in runs and _meaning(run) == _meaning(runs[run.name]):
            continue
        key, was, is_now = _changed(before, now)
        would = f"make `{run.name}` another run" if run.name in runs else f"remove `{run.name}`"
        raise UsageError(
            f"{out}: `{key}` was {as_json(was)} in this sweep and is now {as_json(is_now)}, which "
            f"would {would}; use another --out or the old value (budgets, "
            "sizes, families and `extra` may be added)"
        )


def _meaning(run: Planned) -> tuple[Any, ...]:
    """What decides a run, and what its row says of it."""
    return run.recipe(NOWHERE), run.spec.held_out, run.grid.data


def _changed(before: Grid, now: Grid) -> tuple[str, Any, Any]:
    """The first key that was changed or removed, else a list that grew and makes runs others."""
    new = flat(dataclasses.asdict(now))
    old = flat(dataclasses.asdict(before))
    both = [(key, was, new.get(key)) for key, was in old.items()]
    differing = [found for found in both if not _grown(*found[1:])]
    grown = [found for found in both if found[1] != found[2] and not _adds_runs(found[0])]
    return [*differing, *grown][0]


def _adds_runs(key: str) -> bool:
    """Whether a longer list there only adds runs."""
    return key.startswith(("budgets.", "extra"))


def _grown(was: Any, now: Any) -> bool:
    if isinstance(was, list) and isinstance(now, list):
        return all(item in now for item in was)
    return bool(was == now)
