"""`train.profile`: what chosen steps do, for chrome://tracing, Perfetto and people.

Each rank leaves under `OUT/profile/` a trace of the step, a table of its operations by time and by
memory, and on CUDA a snapshot of the allocator (https://docs.pytorch.org/memory_viz).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..text import first_line

_ROWS = 40


class StepProfiler:
    """Profiles the steps of `steps`; what it cannot write is said, and ends no run."""

    def __init__(
        self,
        steps: Sequence[int],
        out: Path,
        rank: int,
        device: torch.device,
        log: Callable[[str], None],
    ) -> None:
        self._steps, self._folder, self._rank = frozenset(steps), out / "profile", rank
        self._cuda, self._log = device.type == "cuda", log

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around step `number`; costs nothing unless it was chosen."""
        if number not in self._steps:
            yield
            return
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * self._cuda]
        if self._cuda:
            torch.cuda.memory._record_memory_history()
        with profile(activities=activities, profile_memory=True, record_shapes=True) as found:
            yield
        self._write(f"step-{number}-rank-{self._rank}", found)

    def _write(self, name: str, found: Any) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _in_place(self._folder / f"{name}.json", found.export_chrome_trace)
            _in_place(self._folder / f"{name}.txt", lambda path: _write_tables(path, found))
            if self._cuda:
                snapshot = self._folder / f"{name}-memory.pickle"
                _in_place(snapshot, torch.cuda.memory._dump_snapshot)
        except (OSError, RuntimeError) as err:
            self._log(f"{self._folder}: no profile of {name}: {first_line(err)}")
            return
        finally:
            if self._cuda:
                torch.cuda.memory._record_memory_history(enabled=None)
        self._log(f"profile: {self._folder / name}.json")


def _in_place(path: Path, write: Callable[[str], Any]) -> None:
    """Let `write` make a file that has its name only when it is complete."""
    # The profiler compresses what ends with `.gz` and takes other names as they are.
    tmp = path.with_name(f"{path.name}.tmp")
    try:
        write(str(tmp))
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


def _write_tables(path: str, found: Any) -> None:
    """Operations by the time that they take themselves, then by the memory."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    averages = found.key_averages()
    orders = (f"self_{device}_time_total", f"self_{device}_memory_usage")
    texts = [
        f"operations by {order}\n{averages.table(sort_by=order, row_limit=_ROWS)}"
        for order in orders
    ]
    Path(path).write_text("\n\n".join(texts) + "\n", "utf-8")
