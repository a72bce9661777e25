"""Going back to the last good checkpoint after too many steps in a row that were left out.

`rollbacks.json` of a run folder has an entry each time: it is written before the steps go on, so a
run that is killed afterwards goes on alike, whichever checkpoint it finds.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..checkpoint.run_folder import checkpoints
from ..files.atomic import read_json, write_atomic
from .newest import newest
from .state import TrainState, load, read_progress
from .step import TooManySkipped

if TYPE_CHECKING:
    from .setup import Run

FILE = "rollbacks.json"


@dataclass(frozen=True)
class Rollback:
    """From which step to the checkpoint of which, and the rows that are left out since.

    `orders` are the numbers of rows that the data was laid out for then (`resume.data_state`);
    both lists are empty once the data started again.
    """

    step: int
    to: int
    rows: list[int] = field(default_factory=list)
    orders: list[int] = field(default_factory=list)


def read_rollbacks(out: Path) -> list[Rollback]:
    """Those of a run folder so far."""
    path = out / FILE
    return [Rollback(**entry) for entry in read_json(path)] if path.exists() else []


def _write(out: Path, rollbacks: list[Rollback]) -> None:
    write_atomic(out / FILE, json.dumps([dataclasses.asdict(r) for r in rollbacks]) + "\n")


def restore(out: Path, state: TrainState) -> None:
    """Take up, after a checkpoint, what rollbacks leave out."""
    before = read_rollbacks(out)
    state.rollbacks = len(before)
    state.left_out = [(r.rows[0], r.rows[1]) for r in before if r.rows]
    # Orders are only ever added, so the longer list begins with the other.
    state.data["rows"] = max([state.data["rows"], *(r.orders for r in before)], key=len)


def forget(out: Path) -> None:
    """The run starts from its beginning."""
    (out / FILE).unlink(missing_ok=True)


def forget_rows(out: Path) -> None:
    """The data starts again: rows have other numbers; rollbacks still count."""
    before = read_rollbacks(out)
    if any(r.rows for r in before):
        _write(out, [Rollback(r.step, r.to) for r in before])


def roll_back(run: Run, err: TooManySkipped) -> None:
    """Make `run` go on from the last good checkpoint without the rows of the steps left out.

    Raises `err` when the recipe allows no more, or there is no such checkpoint.
    """
    state, out, world = run.state, run.out, run.state.world
    limit, step = run.recipe.train.rollback, state.step + 1
    first, end = state.skipped_from, state.next_row + run.recipe.train.batch_size(step)
    if state.rollbacks >= limit:
        _end(run, err, f" after {limit} rollbacks" if limit else "")
    found = _last_good(run)
    if found is None:
        _end(run, err, "; there is no checkpoint to go back to")

    good = found

    def go_back() -> None:
        load(good, state)
        state.left_out = [*state.left_out, (first, end)]
        state.rollbacks += 1

    world.together(go_back)
    run.reader = world.first(run.open_reader)
    entry = Rollback(step, state.step, [first, end], state.data["rows"])
    world.lead(lambda: _write(out, [*read_rollbacks(out), entry]))
    run.log(
        f"{err}; back to {good.name}, rows {first} to {end - 1} are left out "
        f"(rollback {state.rollbacks} of {limit})"
    )


def _end(run: Run, err: TooManySkipped, why: str) -> NoReturn:
    def fail() -> None:
        raise TooManySkipped(f"{err}{why}; lower `optim.lr`")

    run.state.world.together(fail)
    raise AssertionError


def _last_good(run: Run) -> Path | None:
    """The newest checkpoint after a step that was taken; newer ones are removed."""
    world = run.state.world
    good = newest(world, run.out, run.log, lambda p: not read_progress(p).get("skipped", 0))

    def remove_newer() -> None:
        for folder in reversed(checkpoints(run.out)):
            if good is None or folder == good:
                break
            shutil.rmtree(folder)

    world.lead(remove_newer)
    return good
