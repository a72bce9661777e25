"""A sweep on this machine: a process for each run, some side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..checkpoint.run_folder import is_locked, locked
from ..errors import RunError, UsageError
from ..files.atomic import make_folder
from ..text import nearest
from ..train.parallel.rendezvous import end_with_parent
from ..train.progress import duration
from .corpus import open_corpus
from .cost import correction, expected_seconds
from .grid import Grid
from .one_run import train_and_record
from .planned import Planned, Prefixes, planned_runs, run_folder
from .sweep_folder import GRID, keep_grid, results

Log = Callable[[str], None]
POLL_S, STATUS_S = 0.2, 120.0
# Of a run that a sweep started: its name, so that it ends with the sweep.
CHILD_OF_SWEEP = "LING_SWEEP_RUN"
# How a child ends because of a signal: saved, or before it had begun.
_STOPPED = tuple(sign for s in (signal.SIGINT, signal.SIGTERM) for sign in (128 + s, -s))


def open_sweep(grid: Grid, out: Path, log: Log) -> tuple[list[Planned], Prefixes]:
    """The runs of a sweep and their data, prepared on first use; `UsageError` when the folder is of
    another grid."""
    runs = planned_runs(grid)
    keep_grid(grid, out)
    return runs, open_corpus(grid.data, grid.vocab_size, out / "data", log)


def run_one(grid: Grid, out: Path, name: str, log: Log, *, keep: bool = False) -> int:
    """Train one run of the sweep in this process; returns its exit code."""
    if os.environ.get(CHILD_OF_SWEEP) == name:
        end_with_parent()
    runs = {run.name: run for run in planned_runs(grid)}
    if name not in runs:
        raise UsageError(f"no run `{name}` in this grid{nearest(name, list(runs))}")
    _, data = open_sweep(grid, out, log)
    return train_and_record(runs[name], data, out, log, keep=keep)


def sweep(grid: Grid, out: Path, log: Log, *, jobs: int, keep: bool = False) -> int:
    """Train all runs that have no row yet, `jobs` at a time; returns the exit code.

    Raises `RunError` at the end when runs failed, naming them; runs that diverged did not fail.
    """
    planned_runs(grid)  # what cannot be is refused before there is a folder
    with locked(out):
        runs, _ = open_sweep(grid, out, log)
        return _Runs(runs, out, log, jobs, keep).run()


def command(out: Path, name: str, *, keep: bool) -> list[str]:
    """The command line that trains one run."""
    options = ["--out", str(out), "--only", name, *["--keep"] * keep]
    return [sys.executable, "-m", "ling", "scaling", "sweep", str(out / GRID), *options]


class _Runs:
    """The runs of a sweep that are left, those that run, and those that failed."""

    def __init__(self, runs: list[Planned], out: Path, log: Log, jobs: int, keep: bool) -> None:
        self.runs, self.out, self.log, self.jobs, self.keep = runs, out, log, jobs, keep
        done = results(out)
        self.left = [run for run in runs if run.name not in done]
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.failed: list[str] = []
        self.caught = 0
        self._next_status = 0.0
        log(f"{out}: {len(runs)} runs, {len(runs) - len(self.left)} done before")

    def run(self) -> int:
        """To the end, or to a signal, which running ones save on."""
        with self._signals():
            while (self.left and not self.caught) or self.running:
                self._fill()
                self._reap()
                self._status()
                time.sleep(POLL_S)
        done = results(self.out)
        words = f"{len(done)} of {len(self.runs)} runs in {self.out / 'results.jsonl'}"
        if self.caught:
            self.log(f"stopped; {words}; the same command continues from here")
            return 128 + self.caught
        self.log(f"done: {words}")
        if self.failed:
            more = f" (and {len(self.failed) - 1} more)" if len(self.failed) > 1 else ""
            raise RunError(
                f"failed: {self.failed[0]}{more}; the same command tries what failed again"
            )
        return 0

    def _fill(self) -> None:
        """Start runs while there is room; one that another process trains is left to it."""
        while self.left and len(self.running) < self.jobs and not self.caught:
            done = results(self.out)
            self.left = [run for run in self.left if run.name not in done]
            free = (run for run in self.left if not is_locked(run_folder(self.out, run.name)))
            run = next(free, None)
            if run is None:
                return
            self.left.remove(run)
            self._start(run)

    def _start(self, run: Planned) -> None:
        log_file = make_folder(self.out / "logs") / f"{run.name}.log"
        threads = run.grid.training.threads
        with log_file.open("ab") as file:
            self.running[run.name] = subprocess.Popen(
                command(self.out, run.name, keep=self.keep),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, "OMP_NUM_THREADS": str(threads), CHILD_OF_SWEEP: run.name},
                # The terminal's Ctrl-C reaches this process alone, which passes it on once; in a
                # session of their own they would leave this one's share of the processors, too.
                preexec_fn=os.setpgrp,
            )
        self.log(f"{run.name}: starts")

    def _reap(self) -> None:
        for name, process in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[name]
            row = results(self.out).get(name)
            if row is not None:
                loss = "diverged" if row.status == "diverged" else f"held-out loss {row.loss:.4f}"
                self.log(f"{name}: {loss} ({duration(row.seconds)})")
            elif not (self.caught and process.returncode in _STOPPED):
                self.failed.append(f"{name}: {self._last_line(name, process.returncode)}")
                self.log(f"failed: {self.failed[-1]}")

    def _last_line(self, name: str, code: int) -> str:
        path = self.out / "logs" / f"{name}.log"
        lines = path.read_text("utf-8", "replace").splitlines() or [""]
        return f"exit code {code}: {lines[-1][:300]} ({path})"

    def _status(self) -> None:
        now = time.monotonic()
        if now < self._next_status or self.caught:
            return
        self._next_status = now + STATUS_S
        done = results(self.out)
        shares = {name: self._share(name) for name in self.running}
        left = sum(
            expected_seconds(run) * (1 - shares.get(run.name, 0.0))
            for run in self.runs
            if run.name not in done
        )
        seconds = correction(self.runs, done) * left / self.jobs
        words = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        self.log(f"{len(done)} of {len(self.runs)} runs; {words}; about {duration(seconds)} left")

    def _share(self, name: str) -> float:
        """How far a run is."""
        steps = next(run.steps for run in self.runs if run.name == name)
        return _last_step(run_folder(self.out, name) / "metrics.jsonl") / steps

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM go to the running ones, which save and end."""

        def note(number: int, frame: object) -> None:
            self.caught = number
            for process in self.running.values():
                with suppress(ProcessLookupError):
                    process.send_signal(number)

        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


# Longer than a line of a log, which has the load of every expert.
_TAIL_BYTES = 1 << 17


def _last_step(metrics: Path) -> int:
    """The step of the last whole line of a log that another process writes; 0 before one."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
        return int(json.loads(lines[-2])["step"])
    except (OSError, ValueError, IndexError):
        return 0
