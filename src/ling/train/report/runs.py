"""A run folder as a report sees it: curves, expert loads, recipe, machines."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...checkpoint.run_folder import is_locked
from ...errors import DataError, UsageError
from ..loads import LoadMap
from ..log import SAMPLES, each_row
from ..resume import saved_recipe
from ..starts import read_starts
from .series import Series

# Columns by rank: the name of the curve, whose band goes from the least to the largest rank.
_BY_RANK = {
    "resident_bytes": "memory",
    "cuda_peak_bytes": "gpu_memory",
    "own_s": "own_s",
    "communication_s": "communication_s",
    "data_s": "data_s",
}
# What a row of valid JSON raises whose lists, tables or numbers are others than a run logs.
_DAMAGE = (TypeError, ValueError, KeyError, AttributeError, OverflowError)
_TABLES = ("grad_norms", "router_bias", "router_bias_change", "fp8_underflow", "fp8_cosine")
# Whose largest entry is a curve, too.
_LARGEST = ("router_bias", "router_bias_change", "fp8_underflow")


@dataclass
class RunData:
    """What is known of a run; `recipe` by dotted keys, None where there is none."""

    name: str
    folder: Path
    recipe: dict[str, Any] | None
    starts: list[dict[str, Any]]
    is_running: bool
    series: dict[str, Series] = field(default_factory=dict)
    loads: LoadMap = field(default_factory=LoadMap)
    slowest: Counter[str] = field(default_factory=Counter)
    skipped: list[int] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Of a fine-tuning: held-out prompts with the model's answers, each time they were asked."""
    last_step: int = 0
    first_time: float = 0.0

    @property
    def restarts(self) -> int | None:
        """How often the run was continued; None where nobody noted it."""
        return len(self.starts) - 1 if self.starts else None

    def last(self, key: str) -> float | None:
        """The newest value of a curve."""
        found = self.series.get(key)
        return found.values[-1] if found is not None and found.values else None

    def typical(self, key: str, share: float = 0.5) -> float | None:
        """The median of a curve's last part: that of the speed, whatever came in between."""
        found = self.series.get(key)
        if found is None or not found.values:
            return None
        return statistics.median(found.values[-max(int(len(found.values) * share), 1) :])


def read_runs(folders: list[Path]) -> list[RunData]:
    """All runs, each by a name of its own."""
    names = _names(folders)
    return [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def _names(folders: list[Path]) -> list[str]:
    """As much of the end of each path as tells it from the others."""
    parts = [f.resolve().parts for f in folders]
    length = 1
    while length < max(map(len, parts)) and len({p[-length:] for p in parts}) < len(set(parts)):
        length += 1
    return ["/".join(p[-length:]) for p in parts]


def read_run(folder: Path, name: str) -> RunData:
    """Read a run, finished or not.

    Raises `UsageError` where there is no log, `DataError` for a damaged line of it.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise UsageError(f"{folder}: no metrics.jsonl; give the folder that `--out` named")
    run = RunData(name, folder, _recipe(folder), read_starts(folder), is_locked(folder))
    for line, row in enumerate(each_row(path), 1):
        try:
            _add(run, row)
        except _DAMAGE:
            message = "a damaged step: its values are not of the kinds that a run logs"
            raise DataError(message, path=path, line=line) from None
    run.samples = list(each_row(folder / SAMPLES))
    if not run.series:
        raise UsageError(f"{path}: no step is logged yet")
    return run


def _recipe(folder: Path) -> dict[str, Any] | None:
    try:
        return saved_recipe(folder)
    except UsageError:
        return None


def _add(run: RunData, row: dict[str, Any]) -> None:
    step = run.last_step = row["step"]
    for key, value in _curves(row):
        run.series.setdefault(key, Series()).add(step, value)
    for key, values in (row.get("ranks") or {}).items():
        if key in _BY_RANK and values:
            mean = sum(values) / len(values)
            series = run.series.setdefault(_BY_RANK[key], Series())
            series.add(step, mean, min(values), max(values))
    if row.get("expert_load"):
        run.loads.add(step, row["expert_load"])
    if row.get("slowest"):
        run.slowest[f"{row['slowest']['rank']} on {row['slowest']['host']}"] += 1
    while run.skipped and run.skipped[-1] >= step:
        run.skipped.pop()
    if row.get("skipped"):
        run.skipped.append(step)


def _curves(row: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in row.items():
        if key in _TABLES:
            yield from ((f"{key}/{name}", number) for name, number in value.items())
            if key in _LARGEST and value:
                yield key, max(value.values())
        elif isinstance(value, (int, float)) and key != "step":
            yield key, value
