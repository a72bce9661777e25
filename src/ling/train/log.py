"""Metrics of a run: one JSON line a step, and their numbers to loggers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files.atomic import write_atomic
from .loggers import Logger, numbers

# Of a fine-tuning: held-out prompts with the model's answers, one JSON line each.
SAMPLES = "samples.jsonl"


class MetricsLog:
    """`metrics.jsonl` (one object a step, flushed), and the numbers of each step to loggers."""

    def __init__(self, run: Path, first_step: int, loggers: Sequence[Logger] = ()) -> None:
        self.path, self._loggers = run / "metrics.jsonl", loggers
        kept = (row for row in each_row(self.path) if row["step"] < first_step)
        # Steps after the checkpoint run again: their old lines go.
        write_atomic(self.path, (json.dumps(row) + "\n" for row in kept))
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append one step."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._loggers:
            values = {k: v for k, v in numbers(row).items() if k != "step"}
            for logger in self._loggers:
                logger.write(row["step"], values)

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        for logger in self._loggers:
            logger.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line cut off by a crash is dropped."""
    return list(each_row(path))


def each_row(path: Path) -> Iterator[dict[str, Any]]:
    """`read_metrics` row by row: a long run's file is larger than memory.

    Raises `DataError` for a line that is no step; row n is line n.
    """
    if not path.is_file():
        return
    bad = None
    with path.open(encoding="utf-8", errors="replace") as file:
        for n, line in enumerate(file, 1):
            if bad is not None:
                raise DataError("not JSON", path=path, line=bad)
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                bad = n  # the last line, unless another follows
                continue
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise DataError("a line is no step of a run", path=path, line=n)
            yield row
