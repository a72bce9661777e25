"""Results of an evaluation: a file for each model and task, and the table of all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files.atomic import make_folder, write_atomic
from ..files.guarded import loads, read_regular
from .tasks.task import Outcome

FORMAT, VERSION = "ling-eval", 1
MAX_FILE_BYTES = 16 << 20


@dataclass(frozen=True)
class Result:
    """What a task measured of a model, named as the user did."""

    model: str
    task: str
    outcome: Outcome

    @property
    def headline(self) -> float:
        """The number that tables and pictures show."""
        return float(self.outcome.metrics[self.outcome.headline])

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        own = self.outcome
        return {
            "model": self.model,
            "task": self.task,
            "metrics": own.metrics,
            "headline": own.headline,
            "higher_is_better": own.higher_is_better,
            "count": own.count,
            "details": own.details,
        }


class ResultFile:
    """The result of a task and a model in a folder, and beside it the answers that it came from."""

    def __init__(self, folder: Path, model_name: str, task: str) -> None:
        self.folder = folder / model_name
        self.path = self.folder / f"{task}.json"
        self.answers = self.folder / f"{task}.answers.jsonl"

    def read(self, settings: dict[str, Any]) -> Result | None:
        """The result that is there, if it is whole and of the same `settings`."""
        try:
            value = loads(read_regular(self.path, MAX_FILE_BYTES))
            if (value["format"], value["version"]) != (FORMAT, VERSION):
                return None
            if value["settings"] != json.loads(json.dumps(settings)):
                return None
            outcome = Outcome(
                dict(value["metrics"]),
                value["headline"],
                bool(value["higher_is_better"]),
                int(value["count"]),
                dict(value["details"]),
            )
            result = Result(value["model"], value["task"], outcome)
            return result if result.headline == result.headline else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def prepare(self) -> None:
        """Make the folder; raises `UsageError` where it cannot be written."""
        make_folder(self.folder)

    def write(self, result: Result, settings: dict[str, Any], facts: dict[str, Any]) -> None:
        """Save it in one step; `facts` are of no consequence for later runs."""
        head = {"format": FORMAT, "version": VERSION}
        value = {**head, **result.as_dict(), "settings": settings, **facts}
        write_atomic(self.path, json.dumps(value, indent=1) + "\n")


def table(results: Sequence[Result], models: Sequence[str], names: Sequence[str]) -> list[str]:
    """Lines of a table: a row for each task, a column for each of the `models`, under short
    `names`. The best of a row, where there are several, has a star."""
    rows = [["task", "metric", *names]]
    for task in dict.fromkeys(r.task for r in results):
        own = {r.model: r for r in results if r.task == task}
        first = next(iter(own.values()))
        sign = 1 if first.outcome.higher_is_better else -1
        values = [own[m].headline * sign for m in models if m in own]
        best = max(values) if len(set(values)) > 1 else None
        cells = []
        for model in models:
            if model not in own:
                cells.append("-")
                continue
            value = own[model].headline
            cells.append(f"{value:.4f}" + ("*" if value * sign == best else ""))
        rows.append([task, first.outcome.headline, *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [_line(row, widths) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
    right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join([*left, *right]).rstrip()


def words(outcome: Outcome) -> str:
    """All that one task measured, in a line."""
    return ", ".join(
        f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v:,}"
        for k, v in outcome.metrics.items()
        if v is not None
    )
