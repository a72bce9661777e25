"""A sweep as an array of Slurm jobs, one for each run, through `submitit`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RunError, UsageError
from ..text import first_line, shown
from .cost import expected_seconds
from .grid import Grid
from .grid_file import read_grid
from .planned import Planned
from .sweep import open_sweep, run_one
from .sweep_folder import GRID, results

# A job's time limit: this many times what its run should take, and at least this many minutes.
_SLACK, _LEAST_MINUTES = 3, 30


@dataclass(frozen=True)
class Job:
    """What a job does; `submitit` pickles it."""

    out: Path
    run: str
    keep: bool

    def __call__(self) -> None:
        """Train the run, or continue it; raises when it neither ended nor diverged."""
        code = run_one(read_grid(self.out / GRID), self.out, self.run, print, keep=self.keep)
        if code:
            raise RunError(f"{self.run}: exit code {code}")

    def checkpoint(self) -> Any:
        """What is queued when the time limit is near: the same, which continues."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def submit(
    grid: Grid,
    out: Path,
    options: Sequence[str],
    log: Callable[[str], None],
    *,
    at_once: int | None = None,
    keep: bool = False,
) -> list[Any]:
    """Prepare the data here and queue a job for each run without a row; returns submitit's jobs.

    `options` are those of sbatch as `partition=short`; `at_once` jobs run at a time at most.
    """
    given = _parsed(options)
    out = out.resolve()  # jobs start elsewhere
    executor = _executor(out / "slurm")
    runs, _ = open_sweep(grid, out, log)
    done = results(out)
    left = [run for run in runs if run.name not in done]
    if not left:
        log(f"{out}: all {len(runs)} runs are done")
        return []
    _update(executor, {**_defaults(left, at_once), **given})
    jobs: list[Any] = executor.submit_array([Job(out, run.name, keep) for run in left])
    log(f"{len(jobs)} jobs: {jobs[0].job_id} to {jobs[-1].job_id}; logs in {out / 'slurm'}")
    return jobs


def _parsed(options: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise UsageError(f"`--slurm` has {shown(option)}, expected `name=value`")
        found[name.replace("-", "_")] = int(value) if value.isdecimal() else value
    return found


def _defaults(left: Sequence[Planned], at_once: int | None) -> dict[str, Any]:
    minutes = _SLACK * max(map(expected_seconds, left)) / 60
    return {
        "job_name": "ling-sweep",
        "time": max(_LEAST_MINUTES, math.ceil(minutes)),
        "cpus_per_task": left[0].grid.training.threads,
        "array_parallelism": at_once or len(left),
    }


def _executor(folder: Path) -> Any:
    try:
        import submitit
    except ImportError:
        raise UsageError(
            "`--slurm` needs the package submitit: pip install 'ling[slurm]'"
        ) from None
    try:
        return submitit.SlurmExecutor(folder=folder)
    except RuntimeError as err:
        raise UsageError(f"`--slurm`: {first_line(err)}") from None


def _update(executor: Any, options: dict[str, Any]) -> None:
    try:
        executor.update_parameters(**options)
    except ValueError as err:
        raise UsageError(f"`--slurm`: {first_line(err)}") from None
